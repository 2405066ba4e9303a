package matcher

import (
	"math/bits"
	"slices"
)

// set is a set of rules: a bit for each.
type set []uint64

func (s set) flip(i int) { s[i/64] ^= 1 << (i % 64) }

func (s set) add(i int) { s[i/64] |= 1 << (i % 64) }

// has reports whether i is in s; what s has no room for is not.
func (s set) has(i int) bool { return i/64 < len(s) && s[i/64]>>(i%64)&1 != 0 }

// next returns the least element from i on, or 0.
func (s set) next(i int) int {
	for ; i < 64*len(s); i = (i/64 + 1) * 64 {
		if word := s[i/64] >> (i % 64); word != 0 {
			return i + bits.TrailingZeros64(word)
		}
	}
	return 0
}

// sets numbers different sets.
type sets struct {
	words int      // of a set
	bits  []uint64 // the sets, one after the other
	sums  []uint64
	slots []int32 // by sum: the number of a set, and one; a power of two
}

// newSets returns no sets, with room for as many as are likely.
func newSets(words, likely int) *sets {
	size := 64
	for size < 2*likely {
		size *= 2
	}
	return &sets{words: words, bits: make([]uint64, 0, likely*words), slots: make([]int32, size)}
}

func (s *sets) len() int { return len(s.sums) }

func (s *sets) at(i int) set { return s.bits[i*s.words:][:s.words] }

// of returns the number of a set, a new one if there is none. Equal sets have equal
// sums, others nearly never.
func (s *sets) of(x set, sum uint64) int {
	at := s.slot(sum)
	for ; s.slots[at] != 0; at = (at + 1) & (len(s.slots) - 1) {
		if i := int(s.slots[at] - 1); s.sums[i] == sum && slices.Equal(s.at(i), x) {
			return i
		}
	}
	s.sums = append(s.sums, sum)
	s.bits = append(s.bits, x...)
	s.slots[at] = int32(len(s.sums))
	if 2*len(s.sums) > len(s.slots) {
		s.slots = make([]int32, 2*len(s.slots))
		for i, sum := range s.sums {
			at := s.slot(sum)
			for s.slots[at] != 0 {
				at = (at + 1) & (len(s.slots) - 1)
			}
			s.slots[at] = int32(i + 1)
		}
	}
	return len(s.sums) - 1
}

// slot returns where a sum is looked for first.
func (s *sets) slot(sum uint64) int {
	return int(sum >> (64 - bits.Len(uint(len(s.slots)-1))))
}
