package flow

import "slices"

// Not every key can come from a packet: nothing has TCP ports without being IP.
// Two rules that only share impossible keys are no tie, and a difference between
// hardware and software that no packet can show is no difference. So the keys that
// Parse can return are listed here as a union of shapes, each a Match plus values
// that one field must not have. Invariant, tested in both directions: Parse only
// returns keys of some shape, and [Frame] turns each key of a shape into a frame
// that parses to it.

// shape is a set of possible keys: those of m whose field f is none of not.
type shape struct {
	m   Match
	f   Field
	not []uint64
}

// shapes returns every shape.
func shapes() []shape {
	var all []shape
	tagStates := []struct{ vlan, cvlan, mask uint64 }{
		{0, 0, 0xffff}, {TagPresent, 0, TagPresent}, {TagPresent, TagPresent, TagPresent},
	}
	for i, ts := range tagStates {
		var tagged Match
		tagged.Pin(VLAN, ts.vlan, ts.mask)
		cmask := uint64(0xffff)
		if i == 2 {
			cmask = TagPresent
		}
		tagged.Pin(CVLAN, ts.cvlan, cmask)
		tagged.Pin(CTState, 0, 0xff)
		tagged.Pin(Reserved, 0, 0xff)
		all = append(all, nonIP(tagged)...)
		all = append(all, ipShapes(tagged, EthIPv4, ProtoICMP)...)
		all = append(all, ipShapes(tagged, EthIPv6, ProtoICMPv6)...)
	}
	return all
}

func nonIP(m Match) []shape {
	for _, f := range []Field{SrcHi, SrcLo, DstHi, DstLo, Proto, TOS, TTL, TCPFlags, SrcPort, DstPort} {
		m.Pin(f, 0, f.Max())
	}
	m.Pin(Flags, 0, 0xff)
	plain := shape{m, EthType, []uint64{EthIPv4, EthIPv6, EthVLAN, EthQinQ}}
	m.Pin(Flags, FlagOdd, 0xff)
	out := []shape{plain}
	for _, t := range plain.not {
		cut := m
		cut.Pin(EthType, t, 0xffff)
		out = append(out, shape{m: cut})
	}
	return out
}

func ipShapes(m Match, ethType, icmp uint64) []shape {
	m.Pin(EthType, ethType, 0xffff)
	if ethType == EthIPv4 {
		m.Pin(SrcHi, 0, SrcHi.Max())
		m.Pin(DstHi, 0, DstHi.Max())
		m.Pin(SrcLo, 0, SrcLo.Max()<<32)
		m.Pin(DstLo, 0, DstLo.Max()<<32)
	}
	// with returns m with flags set; of the flags only those in free may be either.
	with := func(m Match, flags, free uint64, noPorts, noTCP bool) Match {
		m.Pin(Flags, FlagIP|flags, 0xff&^free)
		if noPorts {
			m.Pin(SrcPort, 0, 0xffff)
			m.Pin(DstPort, 0, 0xffff)
		}
		m.Pin(TCPFlags, 0, 0xf000)
		if noTCP {
			m.Pin(TCPFlags, 0, 0xffff)
		}
		return m
	}
	proto := func(m Match, p uint64) Match { m.Pin(Proto, p, 0xff); return m }

	ported := []uint64{ProtoTCP, ProtoUDP, ProtoSCTP, icmp}
	plainNot := ported
	if ethType == EthIPv6 {
		plainNot = slices.Concat(ported, []uint64{extHopByHop, extRouting, extFragment, extAuth, extDestination,
			extMobility, extHIP, extShim6, extTest1, extTest2})
	}
	out := []shape{{m: with(m, FlagFragLater, FlagOdd, true, true)}}
	first := uint64(FlagFragFirst)
	out = append(out,
		shape{m: with(proto(m, ProtoTCP), FlagL4, first|FlagOdd, false, false)},
		shape{m: with(proto(m, ProtoUDP), FlagL4, first|FlagOdd, false, true)},
		shape{m: with(proto(m, ProtoSCTP), FlagL4, first|FlagOdd, false, true)},
		shape{with(m, 0, first, true, true), Proto, plainNot},
		shape{with(m, FlagOdd, first, true, true), Proto, []uint64{icmp}},
	)
	types := with(proto(m, icmp), 0, first|FlagOdd, false, true)
	types.Pin(SrcPort, 0, 0xff00)
	types.Pin(DstPort, 0, 0xff00)
	return append(out, shape{m: types})
}

var possible = shapes()

// Shared returns a key that is in every match given and that a packet can have
// ([Frame] makes one); ok is false iff no packet is in all of them.
func Shared(ms ...*Match) (k Key, ok bool) {
	if _, any := Witness(ms...); !any {
		return Key{}, false
	}
	with := append(slices.Clone(ms), nil)
	for i := range possible {
		s := &possible[i]
		with[len(ms)] = &s.m
		if k, ok = Witness(with...); ok && s.avoid(&k, with) {
			return k, true
		}
	}
	return Key{}, false
}

// Possible reports whether some packet has key k.
func Possible(k *Key) bool {
	return slices.ContainsFunc(possible, func(s shape) bool {
		return s.m.Matches(k) && !slices.Contains(s.not, k.Get(s.f))
	})
}

// avoid changes the bits of s.f that no match looks at until its value is none of
// s.not. The first len(not)+1 values tried are enough.
func (s *shape) avoid(k *Key, ms []*Match) bool {
	if !slices.Contains(s.not, k.Get(s.f)) {
		return true
	}
	free := s.f.Max()
	for _, m := range ms {
		free &^= m.Mask.Get(s.f)
	}
	base := k.Get(s.f) &^ free
	for bits := free; ; bits = (bits - 1) & free { // every subset of the free bits, largest first
		if !slices.Contains(s.not, base|bits) {
			k.Set(s.f, base|bits)
			return true
		}
		if bits == 0 {
			return false
		}
	}
}

// Hull returns the smallest match that holds every key of m that a packet can have,
// up to the values a shape excludes; ok is false if no packet is in m. It says
// explicitly what follows from m: that a packet with ports has the l4 flag, that
// ICMP has it not. m may have a range and a mask on one port; the hull may then be wider.
func Hull(m *Match) (h Match, ok bool) {
	var lo, hi [2]uint16
	for i := range possible {
		s := &possible[i]
		if !m.Overlaps(&s.m) || slices.ContainsFunc(s.not, func(v uint64) bool {
			return m.Mask.Get(s.f) == s.f.Max() && m.Value.Get(s.f) == v
		}) {
			continue
		}
		var both Match
		for w := range both.Mask {
			both.Mask[w] = m.Mask[w] | s.m.Mask[w]
			both.Value[w] = m.Value[w] | s.m.Value[w]
		}
		var low, high [2]uint16
		for j, f := range []Field{SrcPort, DstPort} {
			if low[j], high[j] = portBounds(f, m); m.ports(f).Any() { // no range: the masks are joined
				v, mask := uint16(both.Value.Get(f)), uint16(both.Mask.Get(f))
				low[j], high[j] = v, v|^mask
			} else if mask := uint16(s.m.Mask.Get(f)); mask != 0 {
				low[j] = max(low[j], uint16(s.m.Value.Get(f)))
				high[j] = min(high[j], uint16(s.m.Value.Get(f))|^mask)
			}
		}
		if !ok {
			h, lo, hi, ok = both, low, high, true
			continue
		}
		for w := range h.Mask {
			h.Mask[w] &= both.Mask[w] &^ (h.Value[w] ^ both.Value[w])
			h.Value[w] &= h.Mask[w]
		}
		for j := range lo {
			lo[j], hi[j] = min(lo[j], low[j]), max(hi[j], high[j])
		}
	}
	if !ok {
		return h, false
	}
	for j, f := range []Field{SrcPort, DstPort} {
		if mask := h.Mask.Get(f); mask == 0 {
			h.SetPorts(f, lo[j], hi[j])
		}
	}
	return h, true
}

// Kinds is a set of shapes of possible keys, see [Match.Kinds].
type Kinds uint64

// Kinds returns the shapes of possible keys that m meets. If plain is true for two
// matches, [Shared] finds a packet in both iff they overlap and have a kind in
// common: a question of nanoseconds instead of microseconds. Plain is false for a
// mask with holes on a port, and for some bits only of eth_type or ip_proto.
func (m *Match) Kinds() (set Kinds, plain bool) {
	whole := func(f Field) bool { mask := m.Mask.Get(f); return mask == 0 || mask == f.Max() }
	plain = whole(EthType) && whole(Proto) && whole(SrcPort) && whole(DstPort)
	for i := range possible {
		s := &possible[i]
		if m.Overlaps(&s.m) && (m.Mask.Get(s.f) == 0 || !slices.Contains(s.not, m.Value.Get(s.f))) {
			set |= 1 << i
		}
	}
	return set, plain
}
