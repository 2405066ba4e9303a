package verify

import (
	"math"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// index finds the boxes that meet, cover or lie in a given box, for any mix of
// masks. Boxes have numbers, which its user gives, and ranks: a question can be for
// low ranks only. They can come and go.
//
// It is a tree. An inner node tests one bit of the key and divides its boxes into
// those that want a zero there, those that want a one, and those that do not care.
// A query that fixes the bit skips the zeros or the ones; so each box sits in one
// place only, memory is linear, and nothing has to be known about fields, prefixes
// or how many masks there are. The bit is the one that separates most pairs of
// boxes. Leaves are scanned.
//
// A box that comes is put where the tree as it is wants it, and a leaf that has
// grown is divided; bits higher up may have become poor choices, so the tree is made
// anew when as many have come as it was made of.
type index struct {
	boxes []box    // by number; valid iff the number is in use
	rank  []uint64 // by number, like boxes
	nodes []node
	count int     // boxes in the tree
	fresh int     // of them, those that came since it was made
	sides []uint8 // scratch: of grow
}

type node struct {
	word uint8
	bit  uint64   // 0 in a leaf
	kid  [3]int32 // of an inner node
	held []int32  // of a leaf, the numbers
	low  uint64   // no box below has a smaller rank
}

// The children of an inner node; a child that holds nothing is node 0, which
// cannot be one, because it is the root.
const (
	zero = iota
	one
	either
)

const leafSize = 12

// noLimit asks for boxes of every rank.
const noLimit = math.MaxUint64

// newIndex indexes boxes under their places in the list. Cost: about n log n.
func newIndex(boxes []box, rank []uint64) index {
	x := index{boxes: boxes, rank: rank}
	held := make([]int32, len(boxes))
	for i := range held {
		held[i] = int32(i)
	}
	x.make(held)
	return x
}

// make makes the tree of the numbers given, anew.
func (x *index) make(held []int32) {
	x.nodes, x.count, x.fresh = append(x.nodes[:0], node{}), len(held), 0
	x.grow(0, held, make([]int32, len(held)))
}

// grow makes node at the root of a subtree that holds the boxes given. It keeps held.
func (x *index) grow(at int32, held, spare []int32) {
	low := uint64(noLimit)
	for _, i := range held {
		low = min(low, x.rank[i])
	}
	x.nodes[at] = node{low: low, held: held[:len(held):len(held)]}
	if len(held) <= leafSize {
		return
	}
	word, bit := x.split(held)
	if bit == 0 {
		return
	}
	mine := spare[:len(held)]
	copy(mine, held)
	x.sides = slices.Grow(x.sides[:0], len(mine))[:len(mine)]
	var count [3]int
	for n, i := range mine { // boxes lie far apart: each is looked at once
		s := x.boxes[i].side(word, bit)
		x.sides[n] = uint8(s)
		count[s]++
	}
	next := [3]int{0, count[zero], count[zero] + count[one]}
	var kid [3]int32
	for s := range kid {
		if from := next[s]; count[s] > 0 {
			kid[s] = int32(len(x.nodes))
			x.nodes = append(x.nodes, node{held: held[from : from+count[s]]})
		}
	}
	for n, i := range mine {
		s := x.sides[n]
		held[next[s]] = i
		next[s]++
	}
	for _, k := range kid {
		if k != 0 {
			x.grow(k, x.nodes[k].held, spare)
		}
	}
	n := &x.nodes[at]
	n.word, n.bit, n.kid, n.held = uint8(word), bit, kid, nil
}

// side returns the child that b belongs to where a bit divides boxes.
func (b *box) side(word int, bit uint64) int {
	switch {
	case b.Mask[word]&bit == 0:
		return either
	case b.Value[word]&bit == 0:
		return zero
	}
	return one
}

// split returns the bit that separates most pairs among a sample of held, or 0 if
// none separates any. Most bits are alike in all boxes; they are not counted.
func (x *index) split(held []int32) (word int, bit uint64) {
	const sample = 48
	step := max(1, len(held)/sample)
	var some [2]flow.Key // which bits are zeros, and ones, somewhere
	for i := 0; i < len(held); i += step {
		b := &x.boxes[held[i]]
		for w := range b.Mask {
			some[zero][w] |= b.Mask[w] &^ b.Value[w]
			some[one][w] |= b.Mask[w] & b.Value[w]
		}
	}
	best := int32(0)
	for w := range some[zero] {
		differ := some[zero][w] & some[one][w]
		if differ == 0 {
			continue
		}
		var ones, zeros [64]int32
		for i := 0; i < len(held); i += step {
			b := &x.boxes[held[i]]
			for m := b.Mask[w] & differ; m != 0; m &= m - 1 {
				n := bits.TrailingZeros64(m)
				set := int32(b.Value[w] >> n & 1)
				ones[n] += set
				zeros[n] += 1 - set
			}
		}
		for m := differ; m != 0; m &= m - 1 {
			n := bits.TrailingZeros64(m)
			if pairs := ones[n] * zeros[n]; pairs > best {
				best, word, bit = pairs, w, uint64(1)<<n
			}
		}
	}
	return word, bit
}

// put adds box b as number i, which is not in use.
func (x *index) put(i int32, b *box, rank uint64) {
	if n := int(i) + 1; n > len(x.boxes) {
		x.boxes = slices.Grow(x.boxes, n-len(x.boxes))[:n]
		x.rank = slices.Grow(x.rank, n-len(x.rank))[:n]
	}
	x.boxes[i], x.rank[i] = *b, rank
	x.count++
	if x.fresh++; x.fresh > leafSize+x.count/2 {
		x.make(append(x.all(make([]int32, 0, x.count)), i))
		return
	}
	at := int32(0)
	for {
		n := &x.nodes[at]
		n.low = min(n.low, rank)
		if n.bit == 0 {
			break
		}
		s := b.side(int(n.word), n.bit)
		if n.kid[s] == 0 {
			n.kid[s] = int32(len(x.nodes))
			x.nodes = append(x.nodes, node{low: rank})
			at = x.nodes[at].kid[s]
			continue
		}
		at = n.kid[s]
	}
	n := &x.nodes[at]
	n.held = append(n.held, i)
	if l := len(n.held); l > 2*leafSize && l&(l-1) == 0 { // of boxes that nothing divides, not every time
		x.grow(at, n.held, make([]int32, l))
	}
}

// take removes number i.
func (x *index) take(i int32) {
	n := &x.nodes[0]
	for n.bit != 0 {
		n = &x.nodes[n.kid[x.boxes[i].side(int(n.word), n.bit)]]
	}
	at := slices.Index(n.held, i)
	n.held = slices.Delete(n.held, at, at+1)
	x.count--
}

// all appends every number in the tree to out.
func (x *index) all(out []int32) []int32 {
	for i := range x.nodes {
		out = append(out, x.nodes[i].held...)
	}
	return out
}

// meeting appends to out the numbers of the boxes of ranks below limit that meet b
// and that may passes, in no useful order. may is asked first; nil passes all.
func (x *index) meeting(b *box, limit uint64, may func(i int32) bool, out []int32) []int32 {
	return x.walk(0, b, limit, may, out)
}

func (x *index) walk(at int32, b *box, limit uint64, may func(i int32) bool, out []int32) []int32 {
	n := &x.nodes[at]
	if n.low >= limit && limit != noLimit {
		return out
	}
	for _, i := range n.held {
		if (x.rank[i] < limit || limit == noLimit) && (may == nil || may(i)) && x.boxes[i].meets(b) {
			out = append(out, i)
		}
	}
	skip := -1
	if b.Mask[n.word]&n.bit != 0 {
		skip = one - b.side(int(n.word), n.bit)
	}
	for s, k := range n.kid {
		if k != 0 && s != skip {
			out = x.walk(k, b, limit, may, out)
		}
	}
	return out
}

// first returns the lowest rank below limit of a box that covers b, or limit if
// there is none.
func (x *index) first(b *box, limit uint64) uint64 {
	return x.climb(0, b, limit)
}

func (x *index) climb(at int32, b *box, limit uint64) uint64 {
	n := &x.nodes[at]
	if n.low >= limit {
		return limit
	}
	for _, i := range n.held {
		if x.rank[i] < limit && x.boxes[i].covers(b) {
			limit = x.rank[i]
		}
	}
	if n.bit == 0 {
		return limit
	}
	if k := n.kid[either]; k != 0 {
		limit = x.climb(k, b, limit)
	}
	s := b.side(int(n.word), n.bit)
	if k := n.kid[s]; k != 0 && s != either {
		limit = x.climb(k, b, limit)
	}
	return limit
}

// inside appends to out the numbers of the boxes that b covers and may passes. A box
// that does not fix a bit that b fixes is not among them.
func (x *index) inside(b *box, may func(i int32) bool, out []int32) []int32 {
	return x.descend(0, b, may, out)
}

func (x *index) descend(at int32, b *box, may func(i int32) bool, out []int32) []int32 {
	n := &x.nodes[at]
	for _, i := range n.held {
		if may(i) && b.covers(&x.boxes[i]) {
			out = append(out, i)
		}
	}
	only := either
	if n.bit != 0 {
		only = b.side(int(n.word), n.bit)
	}
	for s, k := range n.kid {
		if k != 0 && (only == either || s == only) {
			out = x.descend(k, b, may, out)
		}
	}
	return out
}
