package kernel

import (
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
)

// SpreadGo copies the given words of at most Lanes keys into columns and sets the
// best rule of each lane to the default, whose number is none. Lanes without a key, up
// to a multiple of 16, get a place that nothing improves.
func SpreadGo(keys []flow.Key, words []uint8, columns []Column, best *Best, none int32) {
	for c, w := range words {
		for i := range keys {
			columns[c][i] = Word(&keys[i], w)
		}
	}
	for i := range keys {
		best.Place[i], best.Rule[i] = None, none
	}
	for i := len(keys); i%16 != 0; i++ {
		best.Place[i], best.Rule[i] = -1, none
	}
}

// ProbeGo lists the buckets of t that may hold a better rule than the best of the
// lane, for the first n lanes, and returns how many there are, or -1 if no lane can
// improve in t, and so in no table behind it.
func ProbeGo(t *Table, columns []Column, best *Best, n int, found *Found) int {
	count, live := 0, false
	lowest := atomic.LoadInt32(&t.Best)
lanes:
	for i := range n {
		if best.Place[i] <= lowest {
			continue
		}
		live = true
		for g := range t.Guards {
			if columns[t.GuardColumn[g]/columnBytes][i]&t.GuardMask[g] != t.GuardValue[g] {
				continue lanes
			}
		}
		h := uint32(0)
		for w := range t.Hashed {
			h = mix(h, columns[t.HashColumn[w]/columnBytes][i]&t.HashMask[w])
		}
		h ^= h >> 15
		head := atomic.LoadUint32(&t.Heads[h>>t.Shift])
		if tag := head >> 24; head == 0 || tag != Tag(h) && tag != sharedTag {
			continue
		}
		found.Lane[count], found.Head[count] = uint32(i), head
		count++
	}
	if !live {
		return -1
	}
	return count
}

// ScanGo looks for better rules in the first n buckets found.
func ScanGo(t *Table, keys []flow.Key, best *Best, found *Found, n int) {
	for i := range n {
		lane := found.Lane[i]
		best.Place[lane], best.Rule[lane] = t.Search(found.Head[i], &keys[lane], best.Place[lane], best.Rule[lane])
	}
}

const columnBytes = 4 * Lanes
