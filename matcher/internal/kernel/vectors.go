package kernel

import (
	"math/bits"
	"unsafe"

	"github.com/bladeflow/bladeflow/flow"
)

// Vectors is a small table as bit vectors: see package matcher for the idea. The
// assembly knows its layout.
type Vectors struct {
	// Classes is, one after the other, the classes of every value of each part and
	// the classes of every combination in each group. One more element follows the last.
	Classes []uint16
	// Rows is the sets of rules: the first bit of a row is rule 0, and the bit after the
	// last rule is set in all. Rows have Lines lines of 8 words.
	Rows []uint64

	Groups   uint32
	Lines    uint32 // 1 or 2
	Guards   uint32 // number of words that are the same in all rules
	None     uint32 // where in Rows, in bytes, the row of no rule starts
	RowShift uint32 // a row has 1 << RowShift bytes

	// Used is the number of words of a key that are looked at, Offset where they are
	// in it, in bytes. Others name such a word by 64 times its place here.
	Used   uint32
	Offset [Words]uint32

	Group                              [MaxGroups]Group
	Part                               [MaxParts]Part // those of the first group first
	GuardColumn, GuardMask, GuardValue [MaxGuards]uint32
}

// Limits of [Vectors].
const (
	MaxGroups = 4
	MaxParts  = 12
	MaxGuards = 4
)

// Group is parts whose classes together choose one row.
type Group struct {
	Parts uint32
	Cross uint32 // where in Classes the combinations start; unused if there is one part
	Base  uint32 // where in Rows, in bytes, the row of class 0 starts
}

// Part is at most 16 bits of one word of a key: two runs, each shifted to its place
// and masked.
type Part struct {
	Column              uint32 // the word
	HighShift, HighMask uint32
	LowShift, LowMask   uint32
	Table               uint32 // where in Classes its values start
	Factor              uint32 // of its class in the number of a combination
}

// Value returns what the part is in a word.
func (c *Part) Value(word uint32) uint32 {
	return word>>c.HighShift&c.HighMask | word>>c.LowShift&c.LowMask
}

// Chosen is, for each group, where the row of each lane starts.
type Chosen [MaxGroups]Column

// word returns the word of a key that has the given name.
func (v *Vectors) word(k *flow.Key, name uint32) uint32 {
	return Word(k, uint8(v.Offset[name/64]/4))
}

// ClassesGo chooses the rows of at most Lanes keys.
func ClassesGo(v *Vectors, keys []flow.Key, chosen *Chosen) {
	for i := range keys {
		parts := v.Part[:]
		for g, group := range v.Group[:v.Groups] {
			index, class := group.Cross, uint32(0)
			for _, p := range parts[:group.Parts] {
				class = uint32(v.Classes[p.Table+p.Value(v.word(&keys[i], p.Column))])
				index += class * p.Factor
			}
			parts = parts[group.Parts:]
			if group.Parts > 1 {
				class = uint32(v.Classes[index])
			}
			chosen[g][i] = group.Base + class<<v.RowShift
		}
		for g := range v.Guards {
			if v.word(&keys[i], v.GuardColumn[g])&v.GuardMask[g] != v.GuardValue[g] {
				chosen[0][i] = v.None
			}
		}
	}
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
