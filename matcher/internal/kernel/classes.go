package kernel

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// Classes is what finds out which sets of rules a key chooses: see package matcher
// for the idea. The assembly knows its layout.
type Classes struct {
	// Tables is all tables, one after the other, blocks first. One more element follows
	// the last.
	Tables []uint16

	Quads  uint32 // the words looked at are this many times four
	Groups uint32
	Row    uint32 // what is chosen is the class times this plus the group's Base
	None   uint32 // what the first group chooses for a key that fails the guards

	// Word is the words of a key that are looked at, Pick how the assembly takes four of
	// them out of two keys. [Classes.Look] sets both. Others name such a word by the
	// bytes of a column times its place here.
	Word [Words]uint32
	Pick [Words / 4][16]uint32

	GuardMask, GuardValue [Words]uint32 // bits of the key that are the same in all rules

	Group [MaxGroups]Group
	Part  [MaxParts]Part // those of the first group first
}

// Limits and units of [Classes].
const (
	// Block is the bytes that numbers of blocks count in: one line of the cache.
	Block     = 64
	MaxGroups = 4
	MaxParts  = 12
	MaxLevels = 4
	// MaxFactor bounds factors and the classes they are multiplied with.
	MaxFactor = 1<<15 - 1
)

// Group is parts whose classes together choose one class.
type Group struct {
	Parts uint32
	Cross uint32 // where the combinations start, in bytes; unused if there is one part
	Base  uint32
}

// Part is up to 32 adjacent bits of one word of a key and a tree of tables that ends in
// their class. At each level some of the bits, rotated to their place and masked, are
// an offset in bytes; the table of the first level starts at Base, and the number found
// is that of the block in which the next level's starts. With one level there may be a
// second run of bits, in place of those of the second level.
type Part struct {
	Column       uint32 // the word
	Levels       uint32
	Base         uint32 // in bytes
	Factor       uint32 // of the class in the number of a combination
	Rotate, Mask [MaxLevels]uint32
}

// Chosen is, for each group, what each lane chose.
type Chosen [MaxGroups]Column

// Look sets the words of a key that are looked at.
func (c *Classes) Look(words []int) {
	c.Quads = uint32(len(words)+3) / 4
	for i, w := range words {
		c.Word[i] = uint32(w)
		for j := range uint32(4) {
			c.Pick[i/4][uint32(i%4*4)+j] = uint32(w) + j%2*Words
		}
	}
}

// ClassesGo chooses for at most Lanes keys.
func ClassesGo(c *Classes, keys []flow.Key, chosen *Chosen) {
	for i := range keys {
		k := &keys[i]
		parts := c.Part[:]
		for g, group := range c.Group[:c.Groups] {
			index := uint32(0)
			for p := range parts[:group.Parts] {
				index += c.class(&parts[p], k) * parts[p].Factor
			}
			parts = parts[group.Parts:]
			if group.Parts > 1 {
				index = c.element(group.Cross + 2*index)
			}
			chosen[g][i] = index*c.Row + group.Base
		}
		for w := range uint8(Words) {
			if (Word(k, w)^c.GuardValue[w])&c.GuardMask[w] != 0 {
				chosen[0][i] = c.None
			}
		}
	}
}

// class returns the class of a part of a key.
func (c *Classes) class(p *Part, k *flow.Key) uint32 {
	word := Word(k, uint8(c.Word[p.Column/columnBytes]))
	offset := func(level uint32) uint32 { return bits.RotateLeft32(word, -int(p.Rotate[level])) & p.Mask[level] }
	if p.Levels == 1 {
		return c.element(p.Base + (offset(0) | offset(1)))
	}
	at := p.Base + offset(0)
	for level := uint32(1); level < p.Levels; level++ {
		at = c.element(at)*Block + offset(level)
	}
	return c.element(at)
}

func (c *Classes) element(at uint32) uint32 { return uint32(c.Tables[at/2]) }
