package verify

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// box is a set of keys, never empty. It is a [flow.Match] in a wider form: a port
// may have a range and a mask at once. That makes boxes closed under intersection,
// and the difference of two boxes a union of boxes, exactly and whatever the mask.
// newBox, and, and minus keep it so that
//   - Value has no bit outside Mask;
//   - a range has Lo < Hi, its ends are ports of the box, and it says more than the mask;
//   - the upper bits in which the ends of a range agree are in the mask.
//
// By the last, Value and Mask alone are a good first test even between ranges.
type box flow.Match

var portFields = [...]flow.Field{flow.SrcPort, flow.DstPort}

// newBox returns the keys of m, in whatever form m is; ok is false if it has none.
func newBox(m *flow.Match) (b box, ok bool) {
	b = box(*m)
	for w := range b.Value {
		b.Value[w] &= b.Mask[w]
	}
	return b, b.settle()
}

// pinned returns the keys that have v under mask in field f.
func pinned(f flow.Field, v, mask uint64) box {
	var m flow.Match
	m.Pin(f, v, mask)
	return box(m)
}

func (b *box) match() *flow.Match { return (*flow.Match)(b) }

func (b *box) holds(k *flow.Key) bool { return b.match().Matches(k) }

func (b *box) ports(f flow.Field) *flow.PortRange {
	if f == flow.SrcPort {
		return &b.SrcPort
	}
	return &b.DstPort
}

func (b *box) ranged() bool { return !b.SrcPort.Any() || !b.DstPort.Any() }

// settle brings the ranges into the form that box promises; it returns false if
// no port is left.
func (b *box) settle() bool {
	for _, f := range portFields {
		r := b.ports(f)
		if r.Any() {
			continue
		}
		value, mask := uint16(b.Value.Get(f)), uint16(b.Mask.Get(f))
		lo, ok := least(r.Lo, value, mask)
		if !ok || lo > r.Hi {
			return false
		}
		down, _ := least(^r.Hi, ^value&mask, mask) // counted from the other end
		hi := ^down
		agree := ^(uint16(1)<<bits.Len16(lo^hi) - 1)
		mask |= agree
		value |= lo & agree
		b.match().Pin(f, uint64(value), uint64(mask))
		*r = flow.PortRange{Lo: lo, Hi: hi}
		if lo == value && hi == value|^mask {
			*r = flow.PortRange{} // the mask says it all
		}
	}
	return true
}

// least returns the smallest port >= lo that is value under mask.
func least(lo, value, mask uint16) (uint16, bool) {
	for v := uint32(lo); v <= 0xffff; {
		wrong := (uint16(v) ^ value) & mask
		if wrong == 0 {
			return uint16(v), true
		}
		// Counting up, the highest wrong bit comes right first: a zero when it is
		// set, a one when the carry out of it clears it.
		top := uint32(1) << (bits.Len16(wrong) - 1)
		if v&top == 0 {
			v = v&^(top-1) | top
		} else {
			v = (v | (top<<1 - 1)) + 1
		}
	}
	return 0, false
}

// narrow leaves of b the keys whose port f is in lo … hi; it returns false if
// there is none.
func (b *box) narrow(f flow.Field, lo, hi uint16) bool {
	if r := b.ports(f); !r.Any() {
		lo, hi = max(lo, r.Lo), min(hi, r.Hi)
	}
	if lo > hi {
		return false
	}
	if lo == hi { // a mask, because the range 0 … 0 cannot be written
		*b.ports(f) = flow.PortRange{}
		if (b.Value.Get(f)^uint64(lo))&b.Mask.Get(f) != 0 {
			return false
		}
		b.match().Pin(f, uint64(lo), 0xffff)
		return true
	}
	*b.ports(f) = flow.PortRange{Lo: lo, Hi: hi}
	return b.settle()
}

// agrees reports whether no bit that both boxes fix is fixed differently.
func (b *box) agrees(o *box) bool {
	var diff uint64
	for w := range b.Value {
		diff |= (b.Value[w] ^ o.Value[w]) & b.Mask[w] & o.Mask[w]
	}
	return diff == 0
}

// meets reports whether some key is in both boxes.
func (b *box) meets(o *box) bool {
	return b.agrees(o) && meet(b.SrcPort, o.SrcPort, flow.SrcPort, b, o) && meet(b.DstPort, o.DstPort, flow.DstPort, b, o)
}

// meet reports whether some port f is in both boxes, whose bits agree and whose
// ranges are r and q.
func meet(r, q flow.PortRange, f flow.Field, b, o *box) bool {
	if r.Any() && q.Any() {
		return true
	}
	lo, hi := r.Lo, r.Hi
	switch {
	case r.Any():
		lo, hi = q.Lo, q.Hi
	case !q.Any():
		lo, hi = max(lo, q.Lo), min(hi, q.Hi)
	}
	port, ok := least(lo, uint16(b.Value.Get(f)|o.Value.Get(f)), uint16(b.Mask.Get(f)|o.Mask.Get(f)))
	return ok && port <= hi
}

// and returns the keys that are in both boxes; ok is false if there is none.
func (b *box) and(o *box) (c box, ok bool) {
	if !b.agrees(o) {
		return c, false
	}
	c = *b
	for w := range o.Value {
		c.Value[w] |= o.Value[w]
		c.Mask[w] |= o.Mask[w]
	}
	if b.ranged() && !c.settle() {
		return c, false
	}
	for _, f := range portFields {
		if r := *o.ports(f); !r.Any() && !c.narrow(f, r.Lo, r.Hi) {
			return c, false
		}
	}
	return c, true
}

// covers reports whether every key of o is in b. A bit that o does not fix has both
// values in it, also between the ends of a range: the highest port that has a zero
// where the ends first differ has ones in all free bits below, and the lowest that
// has a one there has zeros. And the ends of a range are in the box. So to compare
// bits and ends is enough.
func (b *box) covers(o *box) bool {
	var bad uint64
	for w := range b.Value {
		bad |= b.Mask[w]&^o.Mask[w] | (b.Value[w]^o.Value[w])&b.Mask[w]
	}
	return bad == 0 && lies(o, flow.SrcPort, o.SrcPort, b.SrcPort) && lies(o, flow.DstPort, o.DstPort, b.DstPort)
}

// lies reports whether the ports f of o, whose range there is q, are in r.
func lies(o *box, f flow.Field, q, r flow.PortRange) bool {
	if r.Any() {
		return true
	}
	lo, hi := q.Lo, q.Hi
	if q.Any() {
		lo = uint16(o.Value.Get(f))
		hi = lo | ^uint16(o.Mask.Get(f))
	}
	return r.Lo <= lo && hi <= r.Hi
}

// minus yields, as disjoint boxes, the keys of b that are not in o, which meets b.
// There are at most o.cost(b) of them.
func (b *box) minus(o *box) func(yield func(*box) bool) {
	return func(yield func(*box) bool) {
		in := *b // what is left of b after the pieces cut so far; it always meets o
		for _, f := range portFields {
			r := *o.ports(f)
			if r.Any() {
				continue
			}
			below, above := in, in
			if r.Lo > 0 && below.narrow(f, 0, r.Lo-1) && !yield(&below) {
				return
			}
			if r.Hi < 0xffff && above.narrow(f, r.Hi+1, 0xffff) && !yield(&above) {
				return
			}
			in.narrow(f, r.Lo, r.Hi)
		}
		for w := range o.Mask {
			for {
				free := o.Mask[w] &^ in.Mask[w]
				if free == 0 {
					break
				}
				bit := uint64(1) << (bits.Len64(free) - 1) // from the top, as prefixes grow
				out := in
				out.Mask[w] |= bit
				out.Value[w] |= bit &^ o.Value[w]
				in.Mask[w] |= bit
				in.Value[w] |= bit & o.Value[w]
				if in.ranged() {
					in.settle()
					if !out.settle() {
						continue
					}
				}
				if !yield(&out) {
					return
				}
			}
		}
	}
}

// cost is an upper bound of the number of boxes in o.minus(b).
func (b *box) cost(o *box) int {
	n := 0
	for w := range b.Mask {
		n += bits.OnesCount64(b.Mask[w] &^ o.Mask[w])
	}
	for _, f := range portFields {
		if !b.ports(f).Any() {
			n += 2
		}
	}
	return n
}
