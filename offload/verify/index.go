package verify

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// index finds the boxes of a list that meet a given box, for any mix of masks.
//
// It is a tree. An inner node tests one bit of the key and divides its boxes into
// those that want a zero there, those that want a one, and those that do not care.
// A query that fixes the bit skips the zeros or the ones; so each box sits in one
// place only, memory is linear, and nothing has to be known about fields, prefixes
// or how many masks there are. The bit is the one that separates most pairs of
// boxes. Leaves are scanned.
//
// 10,000 acl rules: 10 ms to build, 1.4 µs a query; a scan takes 69 µs.
type index struct {
	boxes []box
	order []int32 // box numbers, a leaf's next to each other
	nodes []node
}

type node struct {
	word     uint8
	bit      uint64 // 0 in a leaf
	kid      [3]int32
	from, to int32 // of order
	low      int32 // smallest box number below
}

// The children of an inner node; a child that holds nothing is node 0, which
// cannot be one, because it is the root.
const (
	zero = iota
	one
	either
)

const leafSize = 12

// newIndex indexes boxes, which must not change afterwards. Cost: about n log n.
func newIndex(boxes []box) *index {
	x := &index{boxes: boxes, order: make([]int32, len(boxes))}
	for i := range x.order {
		x.order[i] = int32(i)
	}
	if len(boxes) > 0 {
		x.grow(0, int32(len(boxes)), make([]int32, len(boxes)))
	}
	return x
}

// grow makes the subtree of order[from:to] and returns its root.
func (x *index) grow(from, to int32, spare []int32) int32 {
	at := int32(len(x.nodes))
	x.nodes = append(x.nodes, node{from: from, to: to, low: x.order[from]})
	if to-from <= leafSize {
		return at
	}
	word, bit := x.split(from, to)
	if bit == 0 {
		return at
	}
	// Deal the boxes out, keeping their order, so that low stays the first.
	side := func(i int32) int {
		b := &x.boxes[i]
		switch {
		case b.Mask[word]&bit == 0:
			return either
		case b.Value[word]&bit == 0:
			return zero
		}
		return one
	}
	mine := spare[:to-from]
	copy(mine, x.order[from:to])
	var kid [3]int32
	end := from
	for s := range kid {
		start := end
		for _, i := range mine {
			if side(i) == s {
				x.order[end] = i
				end++
			}
		}
		kid[s] = end - start
	}
	for s, n := range kid {
		kid[s] = 0
		if n > 0 {
			kid[s] = x.grow(from, from+n, spare)
		}
		from += n
	}
	n := &x.nodes[at]
	n.word, n.bit, n.kid = uint8(word), bit, kid
	return at
}

// split returns the bit that separates most pairs among a sample of order[from:to],
// or 0 if none separates any.
func (x *index) split(from, to int32) (word int, bit uint64) {
	const sample = 48
	step := max(1, (to-from)/sample)
	var ones, zeros [flow.Words][64]int32
	for i := from; i < to; i += step {
		b := &x.boxes[x.order[i]]
		for w := range b.Mask {
			for m := b.Mask[w]; m != 0; m &= m - 1 {
				n := bits.TrailingZeros64(m)
				if b.Value[w]>>n&1 == 1 {
					ones[w][n]++
				} else {
					zeros[w][n]++
				}
			}
		}
	}
	best := int32(0)
	for w := range ones {
		for n := range ones[w] {
			if pairs := ones[w][n] * zeros[w][n]; pairs > best {
				best, word, bit = pairs, w, uint64(1)<<n
			}
		}
	}
	return word, bit
}

// meeting appends to out the numbers below limit of the boxes that meet b, in no
// useful order.
func (x *index) meeting(b *box, limit int32, out []int32) []int32 {
	if len(x.nodes) == 0 {
		return out
	}
	return x.walk(0, b, limit, out)
}

func (x *index) walk(at int32, b *box, limit int32, out []int32) []int32 {
	n := &x.nodes[at]
	if n.low >= limit {
		return out
	}
	if n.bit == 0 {
		for _, i := range x.order[n.from:n.to] {
			if i >= limit {
				break
			}
			if x.boxes[i].meets(b) {
				out = append(out, i)
			}
		}
		return out
	}
	skip := -1
	if b.Mask[n.word]&n.bit != 0 {
		skip = one
		if b.Value[n.word]&n.bit != 0 {
			skip = zero
		}
	}
	for s, k := range n.kid {
		if k != 0 && s != skip {
			out = x.walk(k, b, limit, out)
		}
	}
	return out
}
