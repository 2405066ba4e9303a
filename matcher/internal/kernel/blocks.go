package kernel

import "math/bits"

// Blocks is the sets of rules of a table of some thousand as bits, in blocks of
// BlockRules: see package matcher for the idea. What [Classes] choose for them is where
// the row of a set starts, in bytes. The assembly knows its layout.
type Blocks struct {
	// Rows is, for each set, a mask of the blocks in which it has rules, 32 bits in two
	// elements, and for each block the number of its line.
	Rows   []uint16
	Lines  []uint64 // different sets of rules of one block, 8 words each
	Places []int32  // for each block the place of each of its rules, and PlacesPad more that are highest

	Groups uint32
	None   uint32            // the place of the default
	First  [MaxBlocks]uint32 // the best place in each block, the best block first
}

// Limits and units of [Blocks].
const (
	MaxBlocks  = 32
	BlockRules = 512
	// PlacesPad is the places behind those of a block that an empty intersection finds.
	PlacesPad   = 80
	BlockPlaces = BlockRules + PlacesPad
	// MaskElements is the elements of a row before the numbers of lines.
	MaskElements = 2
)

// Candidates is pairs of a lane and a block that may have a better rule for it.
type Candidates struct {
	Lane, Block [Lanes + 16]uint32
}

// MasksGo finds, for each of the first n lanes, the blocks in which all groups have
// rules, and sets its best place to the default's. Lanes behind them, up to a multiple
// of 16, get no blocks.
func MasksGo(b *Blocks, chosen *Chosen, n int, masks *Column, best *[Lanes]int32) {
	for i := range n {
		mask := ^uint32(0)
		for g := range b.Groups {
			row := b.Rows[chosen[g][i]/2:]
			mask &= uint32(row[0]) | uint32(row[1])<<16
		}
		masks[i], best[i] = mask, int32(b.None)
	}
	for i := n; i%16 != 0; i++ {
		masks[i], best[i] = 0, int32(b.None)
	}
}

// PassGo takes the first block out of the mask of each of the first n lanes, rounded up
// to a multiple of 16, and lists it if it may have a better rule than best; else there
// can be none in the lane's other blocks either, and its mask becomes empty. It returns
// the length of the list.
func PassGo(b *Blocks, n int, masks *Column, best *[Lanes]int32, list *Candidates) int {
	count := 0
	for i := range (n + 15) / 16 * 16 {
		if masks[i] == 0 {
			continue
		}
		block := uint32(bits.TrailingZeros32(masks[i]))
		if int32(b.First[block]) >= best[i] {
			masks[i] = 0
			continue
		}
		masks[i] &= masks[i] - 1
		list.Lane[count], list.Block[count] = uint32(i), block
		count++
	}
	return count
}

// TryGo intersects the lines of the first n candidates, and sets best to the place of
// the first rule that is in all where that is better.
func TryGo(b *Blocks, chosen *Chosen, list *Candidates, n int, best *[Lanes]int32) {
	for i := range n {
		lane, block := list.Lane[i], list.Block[i]
		at := 8*64 + 64 // behind the rules
		for w := range 8 {
			word := ^uint64(0)
			for g := range b.Groups {
				line := b.Rows[chosen[g][lane]/2+MaskElements+block]
				word &= b.Lines[8*int(line)+w]
			}
			if word != 0 {
				at = 64*w + bits.TrailingZeros64(word)
				break
			}
		}
		best[lane] = min(best[lane], b.Places[BlockPlaces*int(block)+at])
	}
}
