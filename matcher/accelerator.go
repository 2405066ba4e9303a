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
	if !hasVectors(lane) || n == 0 || n > maxVectorRules {
		return nil
	}
	rules := make([]*flow.Match, n)
	for i := range rules {
		rules[i] = &t.Rule(i).Match
	}
	size := 512
	if n >= 512 {
		size = 1024
	}
	c := classify(rules, size, n, 1<<17)
	if c == nil {
		return nil
	}
	if f := asFinals(c, n, lane); f != nil {
		return f
	}
	return asVectors(c, lane)
}
