package verify

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// maxBoxes is how many boxes one entry's proof may look at. Everything a planner
// of rules, guards and pieces makes needs a few dozen; the worst sets are
// exponential in the number of fields.
const maxBoxes = 1 << 14

// search looks for a packet that is in a box and in none of a list of others. The
// idea: take any packet of the box. If nothing on the list holds it, it is found.
// Otherwise cut out of the box, whole, one of those that hold it, the one that
// leaves the fewest pieces, and search each piece with what still reaches into it.
// A box that is covered by one other ends at once, boxes without a packet are
// never cut, and there is no list of boxes to grow. Only packets matter, so the box
// is first made as small as its packets allow: one with a bit of an IPv6 address is
// all IPv6, say, and covered by a guard of that. Without, such boxes fell to pieces
// by the thousand.
type search struct {
	left  int // boxes that may still be looked at
	boxes int // looked at so far, over all searches
	lists []*box
}

// find returns the key of a packet in b and in none of over. Not found is a proof
// iff left is not negative afterwards.
func (s *search) find(b *box, over []*box) (k flow.Key, found bool) {
	s.left--
	s.boxes++
	if s.left < 0 {
		return k, false
	}
	k, some := packet(b)
	if !some {
		return k, false
	}
	holds := func(o *box) bool { return o.holds(&k) }
	if !slices.ContainsFunc(over, holds) {
		return k, true
	}
	b = tight(b)
	var cut *box
	least := 0
	for _, o := range over {
		if holds(o) {
			if n := o.cost(b); cut == nil || n < least {
				cut, least = o, n
			}
		}
	}
	base := len(s.lists)
	defer func() { s.lists = s.lists[:base] }()
	for piece := range b.minus(cut) {
		s.lists = s.lists[:base]
		for _, o := range over {
			if o != cut && o.meets(piece) {
				s.lists = append(s.lists, o)
			}
		}
		if k, found = s.find(piece, s.lists[base:len(s.lists):len(s.lists)]); found {
			return k, true
		}
		if s.left < 0 {
			break
		}
	}
	return flow.Key{}, false
}

// tight returns the part of b that has all of its packets, of which there are some.
func tight(b *box) *box {
	hull, _ := flow.Hull(b.match())
	h, _ := newBox(&hull)
	c, some := b.and(&h)
	if !some {
		panic("verify: a box has a packet and its hull has none")
	}
	return &c
}

// packet returns a key of b that a packet can have. [flow.Shared] is the authority;
// most boxes hold an easy one.
func packet(b *box) (k flow.Key, some bool) {
	if k, some = flow.Witness(b.match()); some && flow.Possible(&k) {
		return k, true
	}
	return flow.Shared(b.match())
}
