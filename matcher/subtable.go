package matcher

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// subtable is a hash table of rules under one mask.
type subtable struct {
	best    int32 // the best rule in it
	columns []column
	shift   uint8  // a hash's home slot is hash >> shift
	slots   []slot // a power of two, at most half of them used, so a search ends
}

// column is one word that a mask looks at.
type column struct {
	word uint8
	mask uint64
}

// slot names one bucket: count rows from row start on. Masked keys with the same
// hash share it, which costs time and changes nothing. count 0 is an empty slot.
type slot struct{ hash, start, count uint32 }

// find returns the bucket that k falls into; its count is 0 if there is none.
func (t *subtable) find(k *flow.Key) slot {
	h := t.hash(k)
	last := uint32(len(t.slots) - 1)
	for i := h >> t.shift; ; i++ {
		if s := t.slots[i&last]; s.hash == h || s.count == 0 {
			return s
		}
	}
}

// hash mixes what the table's mask leaves of k.
func (t *subtable) hash(k *flow.Key) uint32 {
	h := uint64(0x9e3779b97f4a7c15)
	for _, c := range t.columns {
		hi, lo := bits.Mul64(h^k[c.word%flow.Words]&c.mask, 0xd6e8feb86659fd93)
		h = hi ^ lo
	}
	return uint32(h >> 32)
}
