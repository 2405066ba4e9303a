//go:build amd64 && !purego

package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// machineLanes returns the lanes that depend on the machine, fastest first.
func machineLanes() []Lane {
	var lanes []Lane
	if kernel.HasAVX512() {
		lanes = append(lanes, AVX512)
	}
	if kernel.HasAVX2() {
		lanes = append(lanes, AVX2)
	}
	return lanes
}

// The steps of a lookup are chosen by a switch and not by a pointer to a function:
// the compiler then sees that they keep nothing, and scratch stays on the stack.

func (e *engine) spread(s *tableSet, keys []flow.Key, columns []kernel.Column, best *kernel.Best) {
	if e.lane == AVX2 {
		kernel.Spread256(keys, s.offsets, columns, best, int32(e.base.Len()))
		return
	}
	kernel.Spread512(keys, s.offsets, columns, best, int32(e.base.Len()))
}

func (e *engine) probe(t *kernel.Table, columns []kernel.Column, best *kernel.Best, n int, found *kernel.Found) int {
	if e.lane == AVX2 {
		return kernel.Probe256(t, columns, best, n, found)
	}
	return kernel.Probe512(t, columns, best, n, found)
}

func (e *engine) scan(t *kernel.Table, keys []flow.Key, best *kernel.Best, found *kernel.Found, n int) {
	if e.lane == AVX2 {
		kernel.Scan256(t, keys, best, found, n)
		return
	}
	kernel.Scan512(t, keys, best, found, n)
}

// hasVectors reports whether a lane can look up bit vectors.
func hasVectors(l Lane) bool { return l == AVX512 || l == AVX2 }

func choose(l Lane, c *kernel.Classes, keys []flow.Key, chosen *kernel.Chosen) {
	if l == AVX2 {
		kernel.Classes256(c, keys, chosen)
		return
	}
	kernel.Classes512(c, keys, chosen)
}

func and(l Lane, v *kernel.Vectors, chosen *kernel.Chosen, n int, best *[kernel.Lanes]int32) {
	if l == AVX2 {
		kernel.And256(v, chosen, n, best)
		return
	}
	kernel.And512(v, chosen, n, best)
}

func final(l Lane, f *kernel.Finals, chosen *kernel.Chosen, n int, best *[kernel.Lanes]int32) {
	if l == AVX2 {
		kernel.Final256(f, chosen, n, best)
		return
	}
	kernel.Final512(f, chosen, n, best)
}

func masksOf(l Lane, b *kernel.Blocks, chosen *kernel.Chosen, n int, masks *kernel.Column, best *[kernel.Lanes]int32) {
	if l == AVX2 {
		kernel.Masks256(b, chosen, n, masks, best)
		return
	}
	kernel.Masks512(b, chosen, n, masks, best)
}

func pass(l Lane, b *kernel.Blocks, n int, masks *kernel.Column, best *[kernel.Lanes]int32, list *kernel.Candidates) int {
	if l == AVX2 {
		return kernel.Pass256(b, n, masks, best, list)
	}
	return kernel.Pass512(b, n, masks, best, list)
}

func try(l Lane, b *kernel.Blocks, chosen *kernel.Chosen, list *kernel.Candidates, n int, best *[kernel.Lanes]int32) {
	if l == AVX2 {
		kernel.Try256(b, chosen, list, n, best)
		return
	}
	kernel.Try512(b, chosen, list, n, best)
}
