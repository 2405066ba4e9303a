package offload

import (
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// A piece is a box around hot traffic in which the table has one answer.
//
// Problem: a rule may be too wide to be in the device whole, because hundreds of
// rules are asked before it and each would need a guard; or the device cannot match
// what the rule looks at. Idea: begin with all that the rule matches, and for each
// rule asked before it that still meets the box, cut the box along one bit (or one
// bound of a port range) in which the hot packet differs from that rule. What is left
// holds the packet, meets no earlier rule, and so needs no guard, no priority and no
// order. Open vSwitch calls such a box a megaflow; here it is computed against the
// whole table, and proved.
//
// Which cut? The one that loses the fewest packets of the other hot flows of the
// rule; among those that lose as many, the one that leaves most of the box. A device
// that takes only prefixes has to cut along the bits above as well, one that takes
// whole fields along the field; Model.Narrow does the rest.

// cut is one way to keep a rule out of a box: bits to pin, or the ports to leave.
type cut struct {
	word   int // of mask; -1 if it is a cut of ports
	mask   uint64
	field  flow.Field
	lo, hi uint16

	lost float64 // packets of flows that it leaves outside
	bits int     // by how many powers of two it makes the box smaller
}

func (c *cut) better(o *cut) bool { return c.lost < o.lost || c.lost == o.lost && c.bits < o.bits }

// holds reports whether a flow stays inside.
func (c *cut) holds(k, around *flow.Key) bool {
	if c.word >= 0 {
		return (k[c.word]^around[c.word])&c.mask == 0
	}
	v := uint16(k.Get(c.field))
	return c.lo <= v && v <= c.hi
}

// few is how many earlier rules are looked at one by one for a box. If there are
// more, the box begins small, and only those are asked for that meet it.
const few = 512

// boxOf returns a box of u, of m's rule, that the device takes and that holds k, which
// u's match does; ok is false if there is none.
func (p *Planner) boxOf(m *member, u *unit, k *flow.Key, flows []*hot) (box flow.Match, ok bool) {
	asks, ok := p.asksOf(m, u)
	box = u.match
	if !ok || len(asks) > few {
		box = p.near(box, k)
		asks = p.asksNear(m, &box)
	}
	if box, ok = p.box(box, asks, k, flows); !ok {
		return box, false
	}
	return p.model.Narrow(&box, k)
}

// near returns the part of m around k in which the addresses that the device can
// match have their first 16 bits, or the first 32 of IPv6.
func (p *Planner) near(m flow.Match, k *flow.Key) flow.Match {
	for _, a := range [...]struct {
		part   device.Part
		hi, lo flow.Field
	}{{device.SrcIP, flow.SrcHi, flow.SrcLo}, {device.DstIP, flow.DstHi, flow.DstLo}} {
		switch {
		case p.model.Fields[a.part] == device.No:
		case k.Get(flow.EthType) == flow.EthIPv4:
			m.Pin(a.lo, k.Get(a.lo), 0xffff<<16)
		default:
			m.Pin(a.hi, k.Get(a.hi), 0xffffffff<<32)
		}
	}
	return m
}

// looked bounds how many flows a cut is weighed by.
const looked = 16

// box returns the largest box found that lies in b, holds k and meets none of the
// given rules; ok is false if one of them matches k. It is shaped for the device, but
// for [device.Model.Narrow] to finish.
func (p *Planner) box(b flow.Match, asks []*member, k *flow.Key, flows []*hot) (box flow.Match, ok bool) {
	var inside [looked]*hot
	n := 0
	for _, f := range flows {
		if n < looked && b.Matches(f.key) {
			inside[n] = f
			n++
		}
	}
	for _, q := range asks {
		r := &q.rule.Match
		if !b.Overlaps(r) {
			continue
		}
		c, ok := p.cut(&b, r, k, inside[:n])
		if !ok {
			return b, false
		}
		if c.word >= 0 {
			b.Mask[c.word] |= c.mask
			b.Value[c.word] |= k[c.word] & c.mask
		} else {
			b.SetPorts(c.field, c.lo, c.hi)
		}
		kept := 0
		for _, f := range inside[:n] {
			if c.holds(f.key, k) {
				inside[kept] = f
				kept++
			}
		}
		n = kept
	}
	return b, true
}

// cut returns the best way to cut r, which does not match k, out of b, which does.
func (p *Planner) cut(b, r *flow.Match, k *flow.Key, inside []*hot) (best cut, found bool) {
	try := func(c cut) {
		for _, f := range inside {
			if !c.holds(f.key, k) {
				if c.lost += f.packets; found && c.lost > best.lost {
					return
				}
			}
		}
		if !found || c.better(&best) {
			best, found = c, true
		}
	}
	v4 := b.Value.Get(flow.EthType) == flow.EthIPv4 && b.Mask.Get(flow.EthType) == flow.EthType.Max()
	for w := range k {
		differ := (k[w] ^ r.Value[w]) & r.Mask[w] &^ b.Mask[w]
		if w == portWord {
			differ &^= portBits
		}
		for differ != 0 && !(found && best.lost == 0 && best.bits == 1) { // no bit is better than that
			bit := uint64(1) << (63 - bits.LeadingZeros64(differ))
			differ &^= bit
			if mask := p.model.Along(w, bit, v4) &^ b.Mask[w]; mask != 0 {
				try(cut{word: w, mask: mask, bits: bits.OnesCount64(mask)})
			}
		}
	}
	for _, f := range [...]flow.Field{flow.SrcPort, flow.DstPort} {
		if how := p.model.Fields[portPart(f)]; how != device.No {
			if from, to, ok := p.portCut(b, r, f, uint16(k.Get(f)), how); ok {
				lo, hi := bounds(b, f)
				try(cut{word: -1, field: f, lo: from, hi: to, bits: bits.Len16(hi-lo) - bits.Len16(to-from)})
			}
		}
	}
	return best, found
}

// portCut returns the ports of b around v without those of r; ok is false if r has v.
func (p *Planner) portCut(b, r *flow.Match, f flow.Field, v uint16, how device.How) (from, to uint16, ok bool) {
	lo, hi := bounds(r, f)
	holes := r.Mask.Get(f) != 0 && r.Mask.Get(f) != f.Max()
	if lo <= v && v <= hi && (!holes || (uint64(v)^r.Value.Get(f))&r.Mask.Get(f) == 0) {
		return v, v, false
	}
	from, to = bounds(b, f)
	switch {
	case holes || how == device.Exact || b.Mask.Get(f) != 0:
		return v, v, true
	case v < lo:
		to = min(to, lo-1)
	default:
		from = max(from, hi+1)
	}
	if !p.model.Ranges {
		from, to = device.Around(v, from, to)
	}
	return from, to, true
}

// bounds returns the lowest and the highest value of a port in m.
func bounds(m *flow.Match, f flow.Field) (lo, hi uint16) {
	r := m.SrcPort
	if f == flow.DstPort {
		r = m.DstPort
	}
	if !r.Any() {
		return r.Lo, r.Hi
	}
	v, mask := uint16(m.Value.Get(f)), uint16(m.Mask.Get(f))
	return v, v | ^mask
}

func portPart(f flow.Field) device.Part {
	if f == flow.SrcPort {
		return device.SrcPort
	}
	return device.DstPort
}

// portWord is the word of a key that has the ports, and portBits is where.
const (
	portWord = 2
	portBits = 1<<32 - 1
)

// pieceAround returns a piece of b around flow f, or nil if there is none.
func (p *placer) pieceAround(b *bid, f *hot) *piece {
	box, ok := p.boxOf(b.m, b.u, f.key, b.flows)
	if !ok || p.model.Admit(&box, b.u.actions, flow.PieceEntry) != nil {
		return nil
	}
	if p.limits.Masks > 0 {
		box = p.fitMask(box, f.key, b.flows)
	}
	if !f.of.sees(&box) {
		return nil
	}
	return p.pieceOf(b, box, nil)
}

// pieceOf makes a piece of a box.
func (p *placer) pieceOf(b *bid, box flow.Match, s *slot) *piece {
	if s == nil {
		s = p.seal(flow.Entry{Kind: flow.PieceEntry, Rule: b.m.rule.ID, Priority: pieceLevel, Match: box, Actions: b.u.actions})
	}
	made := &piece{bid: b, slot: s}
	for _, f := range b.flows {
		if box.Matches(f.key) && f.of.sees(&box) {
			made.held = append(made.held, f)
		}
	}
	return made
}

// fitMask returns box, or, if that would take one mask too many, the part of it
// around k under one of the masks that are there which has the most packets: the
// spare one at least.
func (p *placer) fitMask(box flow.Match, k *flow.Key, flows []*hot) flow.Match {
	t := p.tallyOf(&flow.Entry{Match: box})
	if at(p.use.masks, t.mask) > 0 || p.spare[t.mask] || at(p.use.inSet, t.set) < p.use.most() {
		return box
	}
	best, most, bestMask := box, -1.0, flow.Key{}
	for sm, number := range p.masks {
		if sm.set != t.set || sm.mask.Src || sm.mask.Dst || at(p.use.masks, number) == 0 && !p.spare[number] {
			continue
		}
		under := masked(k, &sm.mask.Key)
		if !box.Covers(&under) || p.model.Admit(&under, nil, flow.PieceEntry) != nil {
			continue
		}
		sum := 0.0
		for _, f := range flows {
			if under.Matches(f.key) {
				sum += f.packets
			}
		}
		if sum > most || sum == most && slices.Compare(sm.mask.Key[:], bestMask[:]) < 0 {
			best, most, bestMask = under, sum, sm.mask.Key
		}
	}
	return best
}

// masked returns the match of k under a mask.
func masked(k, mask *flow.Key) flow.Match {
	var m flow.Match
	for w := range k {
		m.Value[w], m.Mask[w] = k[w]&mask[w], mask[w]
	}
	for _, f := range [...]flow.Field{flow.SrcPort, flow.DstPort} {
		if bits := uint16(mask.Get(f)); bits != 0 {
			m.SetPortMask(f, uint16(k.Get(f)), bits)
		}
	}
	return m
}
