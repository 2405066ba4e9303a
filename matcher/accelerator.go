package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
)

// accelerator answers keys of a table that it was made of, in its own way. It never
// changes.
type accelerator interface {
	// lookup answers at most kernel.Lanes keys.
	lookup(keys []flow.Key, answers []int32)
	// bytes returns the memory it holds.
	bytes() int
}

// newAccelerator returns an accelerator for t on a lane, or nil if none is expected to be faster
// than the hash tables.
func newAccelerator(t *flow.Table, lane Lane) accelerator {
	n := t.Len()
	if !hasVectors(lane) || n == 0 || n > maxBlockRules {
		return nil
	}
	if n > maxVectorRules {
		if b := newBlocks(t, lane); b != nil {
			return b
		}
		return nil
	}
	c := classifySmall(t)
	if c == nil {
		return nil
	}
	if f := asFinals(c, n, lane); f != nil {
		return f
	}
	return asVectors(c, lane)
}
