package offload

import (
	"iter"
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
// Which other flows of the rule come along is settled first, as cuts that are chosen
// one by one lose more than they have to: 2.5 points of the hit rate in sets for
// firewalls. Some flows fit into one piece iff each earlier rule can be cut off in a bit in
// which they all differ from it, or at a port that lies to one side of them all. So
// what has to be known of flows is in which bits they differ among themselves and
// which ports lie between theirs (a hull), and whether one more fits is asked of each
// earlier rule by itself. The hottest are asked first. Then the box is cut, by cuts
// that keep the hull and of these by the one that leaves most of the box. A device that
// takes only prefixes has to cut along the bits above as well, one that takes whole
// fields along the field; Model.Narrow does the rest.

// cut is one way to keep a rule out of a box: bits to pin, or the ports to leave.
type cut struct {
	word   int // of mask; -1 if it is a cut of ports
	mask   uint64
	field  flow.Field
	lo, hi uint16

	bits int // by how many powers of two it makes the box smaller
}

// hull is what is known of some flows that are to be in one box.
type hull struct {
	key    *flow.Key // of one of them
	apart  flow.Key  // the bits in which some differ from it
	lo, hi [2]uint16 // their lowest and highest source and destination port
}

func hullOf(k *flow.Key) hull {
	ports := [2]uint16{uint16(k.Get(flow.SrcPort)), uint16(k.Get(flow.DstPort))}
	return hull{key: k, lo: ports, hi: ports}
}

// with returns the hull of one flow more.
func (h hull) with(k *flow.Key) hull {
	for w := range k {
		h.apart[w] |= k[w] ^ h.key[w]
	}
	for i, f := range portFields {
		v := uint16(k.Get(f))
		h.lo[i], h.hi[i] = min(h.lo[i], v), max(h.hi[i], v)
	}
	return h
}

// portFields are the fields of ports in the order of [hull.lo].
var portFields = [2]flow.Field{flow.SrcPort, flow.DstPort}

// few is how many earlier rules are looked at one by one for a box. If there are
// more, the box begins small, and only those are asked for that meet it: flows that
// are not near each other are in different boxes then.
const few = 4096

// boxOf returns a box of u, of m's rule, that the device takes and that holds k, which
// u's match does; ok is false if there is none.
func (p *Planner) boxOf(m *member, u *unit, k *flow.Key, flows []*hot) (box flow.Match, ok bool) {
	asks, ok := p.asksUpTo(m, u, p.mostCuts)
	box = u.match
	if !ok {
		box = p.near(box, k)
		asks = p.asksNear(m, &box)
	}
	h, ok := p.together(&box, asks, k, flows)
	if !ok {
		return box, false
	}
	cut, ok := p.box(box, asks, &h)
	if !ok {
		h = hullOf(k)
		if cut, ok = p.box(box, asks, &h); !ok {
			return cut, false
		}
	}
	return p.model.Narrow(&cut, k)
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

// looked bounds how many flows are asked whether they fit into a box.
const looked = 32

// together returns the hull of k and of as many of flows, hottest first, as fit into one
// box in b that meets none of the given rules. Rules that can be cut off from all flows
// at once, and most can, are asked no more than that. ok is false if one of them matches k.
func (p *Planner) together(b *flow.Match, asks []*member, k *flow.Key, flows []*hot) (h hull, ok bool) {
	h = hullOf(k)
	var others [looked]*flow.Key
	n, all := 0, h
	for _, f := range flows {
		if f.pieces == 0 && !f.lost && f.key != k && n < looked && b.Matches(f.key) {
			others[n] = f.key
			n++
			all = all.with(f.key)
		}
	}
	if n == 0 {
		return h, true
	}
	between := p.between[:0]
	for _, q := range asks {
		r := &q.rule.Match
		if p.apart(r, &all) || p.cuttable(b, r, &all) || !b.Overlaps(r) {
			continue
		}
		if r.Matches(k) {
			return h, false
		}
		between = append(between, r)
	}
	p.between = between
	if len(between) == 0 {
		return all, true
	}
	for _, k := range others[:n] {
		wider := h.with(k)
		at := slices.IndexFunc(between, func(r *flow.Match) bool { return !p.apart(r, &wider) && !p.cuttable(b, r, &wider) })
		if at < 0 {
			h = wider
			continue
		}
		between[0], between[at] = between[at], between[0] // it may keep out others as well
	}
	return h, true
}

// apart reports whether all of h differ from r in a bit that the device can match by
// itself, or have ports to one side of r's. If so, r can be cut off without any of h, but
// for boxes of a mask of ports; if not, cuttable knows. It is there because it is quick.
func (p *Planner) apart(r *flow.Match, h *hull) bool {
	for _, w := range quickest {
		if (h.key[w]^r.Value[w])&r.Mask[w]&^h.apart[w]&p.alone[w] != 0 {
			return true
		}
	}
	if !p.model.Ranges || r.Mask[portWord]&portBits == 0 && r.SrcPort.Any() && r.DstPort.Any() {
		return false
	}
	for i, f := range portFields {
		if lo, hi := bounds(r, f); p.model.Fields[portPart(f)] >= device.Prefix && (h.hi[i] < lo || hi < h.lo[i]) {
			return true
		}
	}
	return false
}

// box returns the largest box found that lies in b, holds h and meets none of the
// given rules; ok is false if one of them cannot be cut off. It is shaped for the
// device, but for [device.Model.Narrow] to finish.
func (p *Planner) box(b flow.Match, asks []*member, h *hull) (box flow.Match, ok bool) {
	for _, q := range asks {
		r := &q.rule.Match
		if p.disjoint(&b, r) || !b.Overlaps(r) {
			continue
		}
		c, ok := p.cut(&b, r, h)
		if !ok {
			return b, false
		}
		if c.word >= 0 {
			b.Mask[c.word] |= c.mask
			b.Value[c.word] |= h.key[c.word] & c.mask
		} else {
			b.SetPorts(c.field, c.lo, c.hi)
		}
	}
	return b, true
}

// quickest is the words of a key, those first that tell most rules apart: the addresses
// of IPv4, which are in one cache line, then the protocol and the rest of IPv6.
var quickest = [...]int{4, 6, 7, 3, 5, 1, 2, 0}

// disjoint reports whether b and r differ in a bit that both look at; if not, they may
// have no port in common.
func (p *Planner) disjoint(b, r *flow.Match) bool {
	for _, w := range quickest {
		if (b.Value[w]^r.Value[w])&b.Mask[w]&r.Mask[w] != 0 {
			return true
		}
	}
	return false
}

// cuttable reports whether r can be cut out of b without any of h.
func (p *Planner) cuttable(b, r *flow.Match, h *hull) bool {
	for range p.cuts(b, r, h) {
		return true
	}
	return false
}

// cut returns the best way to cut r out of b without any of h, which b holds.
func (p *Planner) cut(b, r *flow.Match, h *hull) (best cut, found bool) {
	for w, v := range h.key {
		if differ := (v ^ r.Value[w]) & r.Mask[w] &^ (b.Mask[w] | h.apart[w]) & p.alone[w]; differ != 0 {
			return cut{word: w, mask: 1 << (63 - bits.LeadingZeros64(differ)), bits: 1}, true // as most are
		}
	}
	for c := range p.cuts(b, r, h) {
		if !found || c.bits < best.bits {
			best, found = c, true
		}
		if best.bits == 1 {
			break // none is better than that
		}
	}
	return best, found
}

// cuts yields the ways to cut r out of b without any of h, which b holds.
func (p *Planner) cuts(b, r *flow.Match, h *hull) iter.Seq[cut] {
	return func(yield func(cut) bool) {
		k := h.key
		v4 := b.Value.Get(flow.EthType) == flow.EthIPv4 && b.Mask.Get(flow.EthType) == flow.EthType.Max()
		for w := range k {
			differ := (k[w] ^ r.Value[w]) & r.Mask[w] &^ (b.Mask[w] | h.apart[w])
			if w == portWord {
				differ &^= portBits
			}
			for differ != 0 {
				bit := uint64(1) << (63 - bits.LeadingZeros64(differ))
				differ &^= bit
				mask := p.model.Along(w, bit, v4) &^ b.Mask[w]
				if mask != 0 && mask&h.apart[w] == 0 && !yield(cut{word: w, mask: mask, bits: bits.OnesCount64(mask)}) {
					return
				}
			}
		}
		for i, f := range portFields {
			how := p.model.Fields[portPart(f)]
			if how == device.No || r.Mask[portWord]&portBits == 0 && r.SrcPort.Any() && r.DstPort.Any() {
				continue
			}
			from, to, ok := p.portCut(b, r, f, uint16(k.Get(f)), how)
			if !ok || h.lo[i] < from || to < h.hi[i] {
				continue
			}
			lo, hi := bounds(b, f)
			if !yield(cut{word: -1, field: f, lo: from, hi: to, bits: bits.Len16(hi-lo) - bits.Len16(to-from)}) {
				return
			}
		}
	}
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
