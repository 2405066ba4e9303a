package kernel

import (
	"math/bits"
	"unsafe"
)

// Vectors is the sets of rules of a small table as bits. What [Classes] choose for
// them is where a row starts, in bytes. The assembly knows its layout.
type Vectors struct {
	// Rows is the sets of rules: the first bit of a row is rule 0, and the bit after the
	// last rule is set in all. Rows have Lines lines of 8 words.
	Rows   []uint64
	Groups uint32
	Lines  uint32 // 1 or 2
}

// AndGo sets the best rule of the first n lanes to the first bit that all their rows
// have.
func AndGo(v *Vectors, chosen *Chosen, n int, best *[Lanes]int32) {
	for i := range n {
		for w := range 8 * v.Lines {
			word := ^uint64(0)
			for g := range v.Groups {
				word &= v.Rows[chosen[g][i]/8+w]
			}
			if word != 0 {
				best[i] = int32(64*int(w) + bits.TrailingZeros64(word))
				break
			}
		}
	}
}

// AlignedWords returns n words that start at a multiple of 64 bytes, so that a line
// of a row is one line of the cache.
func AlignedWords(n int) []uint64 {
	words := make([]uint64, n+7)
	// Only the number is used; memory that holds still is no requirement for being
	// right, only for being fast.
	skip := int(-uintptr(unsafe.Pointer(&words[0])) % 64 / 8)
	return words[skip : skip+n : skip+n]
}

// AlignedElements returns n elements that start at a multiple of 64 bytes, for the same
// reason.
func AlignedElements(n int) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(AlignedWords((n+3)/4)))), n)
}
