//go:build !amd64 || purego

package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// machineLanes returns the lanes that depend on the machine: none.
func machineLanes() []Lane { return nil }

func (e *engine) spread(s *tableSet, keys []flow.Key, columns []kernel.Column, best *kernel.Best) {
	kernel.SpreadGo(keys, s.words, columns, best, int32(e.base.Len()))
}

func (e *engine) probe(t *kernel.Table, columns []kernel.Column, best *kernel.Best, n int, found *kernel.Found) int {
	return kernel.ProbeGo(t, columns, best, n, found)
}

func (e *engine) scan(t *kernel.Table, keys []flow.Key, best *kernel.Best, found *kernel.Found, n int) {
	kernel.ScanGo(t, keys, best, found, n)
}

// hasVectors reports whether a lane can look up bit vectors.
func hasVectors(Lane) bool { return false }

func choose(_ Lane, c *kernel.Classes, keys []flow.Key, chosen *kernel.Chosen) {
	kernel.ClassesGo(c, keys, chosen)
}

func and(_ Lane, v *kernel.Vectors, chosen *kernel.Chosen, n int, best *[kernel.Lanes]int32) {
	kernel.AndGo(v, chosen, n, best)
}

func final(_ Lane, f *kernel.Finals, chosen *kernel.Chosen, n int, best *[kernel.Lanes]int32) {
	kernel.FinalGo(f, chosen, n, best)
}

func masksOf(_ Lane, b *kernel.Blocks, chosen *kernel.Chosen, n int, masks *kernel.Column, best *[kernel.Lanes]int32) {
	kernel.MasksGo(b, chosen, n, masks, best)
}

func pass(_ Lane, b *kernel.Blocks, n int, masks *kernel.Column, best *[kernel.Lanes]int32, list *kernel.Candidates) int {
	return kernel.PassGo(b, n, masks, best, list)
}

func try(_ Lane, b *kernel.Blocks, chosen *kernel.Chosen, list *kernel.Candidates, n int, best *[kernel.Lanes]int32) {
	kernel.TryGo(b, chosen, list, n, best)
}
