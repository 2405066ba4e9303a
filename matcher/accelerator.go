package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
)

// Which accelerator a table gets.
//
// Accelerators look up what they have made of a table before, and are never changed:
// after an update they are wrong and made anew, see tend.go. There are three forms. All
// first find the classes of a key (classes.go), and differ in what they do with them.
//
//	form      rules   ns a key, 1,000 or 10,000 rules   else
//	finals    1,023   3.4                               2^18 combinations of classes at most
//	vectors   1,023   5.0 to 5.5
//	blocks    16,384  4 + 1 + 2.7 for each block tried  1.2 to 2.9 are tried
//	(engine)          11 to 19 or 10 to 37
//
// Prices are of a Sapphire Rapids class processor in the lane avx512; avx2 takes 1.4
// times as long. The first form that a table can have is the best of those it
// can have, and was faster than the engine for every table measured, as long as it stays in the second-level
// cache: what is touched in every batch, not all that there is. So the bytes of a form
// are bounded by that cache, and those of its trees, which grow with random addresses and
// are what makes a table with many of them slow, before it is built.
const (
	maxSmallBytes = 1300 << 10 // for a second-level cache of as much
	maxBlockBytes = 4500 << 10 // for half as much
)

// accelerator answers keys of a table that it was made of, in its own way. It never
// changes.
type accelerator interface {
	// lookup answers at most kernel.Lanes keys.
	lookup(keys []flow.Key, answers []int32)
	// bytes returns the memory it holds.
	bytes() int
}

// newAccelerator returns an accelerator for t on a lane, or nil if none is expected to be
// faster than the engine. Cost: 1 to 2 ms for 1,000 rules, 20 to 40 for 10,000.
func newAccelerator(t *flow.Table, lane Lane) accelerator {
	n := t.Len()
	if !hasVectors(lane) || n == 0 || n > maxBlockRules {
		return nil
	}
	cache := secondLevelCache()
	if n > maxVectorRules {
		if b := newBlocks(t, lane); b != nil && b.bytes() <= min(maxBlockBytes, 2*cache) {
			return b
		}
		return nil
	}
	c := classifySmall(t)
	if c == nil {
		return nil
	}
	most := min(maxSmallBytes, cache)
	if f := asFinals(c, n, lane); f != nil && f.bytes() <= most {
		return f
	}
	if v := asVectors(c, lane); v.bytes() <= most {
		return v
	}
	return nil
}
