package device

import (
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Narrow returns a match that the device takes, that lies in match and holds k, which
// is in match: the widest one, part by part. It is how an entry that answers is
// fitted to a device: to answer less is always right. ok is false if there is none,
// because match looks at something that the device cannot match at all.
func (m *Model) Narrow(match *flow.Match, k *flow.Key) (n flow.Match, ok bool) {
	n = *match
	v4 := m.Fields.only4(match)
	for i := range parts {
		p := &parts[i]
		if n.Mask.Get(p.field)&(p.bits|p.presence()) == 0 && (!p.wide || n.Mask.Get(p.lower) == 0) {
			continue
		}
		if m.Fields[i] == No {
			return n, false
		}
		p.grow(m.Fields[i], &n, k, v4)
	}
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		switch p, r := portPart(f, &n); {
		case r.Any() && n.Mask.Get(f) == 0:
		case m.Fields[p] == No:
			return n, false
		case m.takesRange(p, r):
		default:
			v := uint16(k.Get(f))
			lo, hi := v, v
			if m.Fields[p] >= Prefix {
				lo, hi = Around(v, r.Lo, r.Hi)
			}
			n.SetPorts(f, lo, hi)
		}
	}
	m.say(&n, k)
	if !m.speaks(&n) {
		n.Pin(flow.Proto, k.Get(flow.Proto), flow.Proto.Max())
	}
	for _, part := range m.Needs {
		p := &parts[part]
		pin(&n, p.field, k, p.bits|p.presence())
		if p.wide {
			pin(&n, p.lower, k, p.lower.Max())
		}
	}
	return n, m.admitMatch(&n) == nil
}

// Around returns the largest power of two of ports on its own boundary that holds v
// and lies in lo … hi, which holds v.
func Around(v, lo, hi uint16) (from, to uint16) {
	from, to = v, v
	for size := uint32(2); size <= 1<<16; size <<= 1 {
		low := uint16(size - 1)
		if v&^low < lo || v|low > hi {
			break
		}
		from, to = v&^low, v|low
	}
	return from, to
}

// grow pins more of a part, as k has it, until the device takes it.
func (p *part) grow(h How, n *flow.Match, k *flow.Key, v4 bool) {
	if p.field == flow.SrcPort || p.field == flow.DstPort {
		if mask := n.Mask.Get(p.field); h < Any && mask != 0 {
			n.SetPorts(p.field, uint16(k.Get(p.field)), uint16(k.Get(p.field)))
		}
		return
	}
	if !p.wide {
		pin(n, p.field, k, grown(h, n.Mask.Get(p.field)&p.bits, p.bits))
		return
	}
	const low = 1<<32 - 1
	hi, lo := n.Mask.Get(p.field), n.Mask.Get(p.lower)
	switch {
	case v4:
		pin(n, p.lower, k, grown(h, lo&low, low))
	case h == Exact && hi|lo != 0:
		pin(n, p.field, k, ^uint64(0))
		pin(n, p.lower, k, ^uint64(0))
	case h == Prefix && lo != 0:
		pin(n, p.field, k, ^uint64(0))
		pin(n, p.lower, k, grown(h, lo, ^uint64(0)))
	case h == Prefix:
		pin(n, p.field, k, grown(h, hi, ^uint64(0)))
	}
}

// grown returns the smallest mask with all of mask, in all, that h takes.
func grown(h How, mask, all uint64) uint64 {
	switch {
	case mask == 0 || h == Any:
		return mask
	case h == Exact:
		return all
	}
	return all &^ (1<<bits.TrailingZeros64(mask) - 1)
}

// pin makes m equal k in the bits of a field.
func pin(m *flow.Match, f flow.Field, k *flow.Key, mask uint64) { m.Pin(f, k.Get(f), mask) }

// Along returns the bits of word w of a key that an entry has to match if it matches
// one bit of it: that bit, those above it in its part, or all of the part; and the
// bit that says that a tag is there with a bit of the tag. It is zero if the device
// cannot match the bit. v4 says that the entry matches IPv4 only.
func (m *Model) Along(w int, bit uint64, v4 bool) uint64 {
	i := partAt[w][bits.TrailingZeros64(bit)]
	if i == NumParts || m.Fields[i] == No {
		return 0
	}
	p := &parts[i]
	f := p.field
	if word, _, _ := f.Place(); word != w {
		f = p.lower
	}
	_, shift, _ := f.Place()
	all := p.bits
	if p.wide {
		all = f.Max()
		if v4 && f == p.lower {
			all = 1<<32 - 1
		}
	}
	if bit>>shift&all == 0 {
		return bit // of no part, but of its field: that a tag is there
	}
	return (grown(m.Fields[i], bit>>shift, all) | p.presence()) << shift
}

// partAt says which part a bit of a key belongs to, NumParts if none.
var partAt = func() (at [8][64]Part) {
	for w := range at {
		for b := range at[w] {
			at[w][b] = NumParts
		}
	}
	set := func(i int, f flow.Field, mask uint64) {
		w, shift, _ := f.Place()
		for b := range 64 {
			if mask<<shift>>b&1 != 0 {
				at[w][b] = Part(i)
			}
		}
	}
	for i := range parts {
		p := &parts[i]
		if p.wide {
			set(i, p.field, p.field.Max())
			set(i, p.lower, p.lower.Max())
		} else {
			set(i, p.field, p.bits|p.presence())
		}
	}
	return at
}()

// speaks reports whether the device can match the ports that match looks at: some
// know the ports of some protocols only.
func (m *Model) speaks(match *flow.Match) bool {
	if len(m.Protocols) == 0 || !ported(match) {
		return true
	}
	return match.Mask.Get(flow.Proto) == flow.Proto.Max() && slices.Contains(m.Protocols, uint8(match.Value.Get(flow.Proto)))
}

// lacks returns a part that every entry has to pin and match does not; NumParts if
// there is none.
func (m *Model) lacks(match *flow.Match) Part {
	for _, part := range m.Needs {
		p := &parts[part]
		all := p.bits | p.presence()
		if match.Mask.Get(p.field)&all != all || p.wide && match.Mask.Get(p.lower) != p.lower.Max() {
			return part
		}
	}
	return NumParts
}

// Whole returns match with every part that it looks at pinned wholly, as far as the
// device can match it, and what the device needs: the shape of one packet in these
// parts. A range of ports counts as looked at if its mask says so.
func (m *Model) Whole(match *flow.Match) *flow.Match {
	var w flow.Match
	for i := range parts {
		p := &parts[i]
		looks := match.Mask.Get(p.field)&(p.bits|p.presence()) != 0 || p.wide && match.Mask.Get(p.lower) != 0
		looks = looks || slices.Contains(m.Needs, Part(i)) || Part(i) == Proto && len(m.Protocols) > 0
		if m.Fields[i] == No || !looks {
			continue
		}
		w.Pin(p.field, match.Value.Get(p.field), p.bits|p.presence())
		if p.wide {
			w.Pin(p.lower, match.Value.Get(p.lower), p.lower.Max())
		}
	}
	if m.Tags == TagsSaid {
		w.Pin(flow.VLAN, match.Value.Get(flow.VLAN), flow.TagPresent)
	}
	return &w
}
