package tcflower

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What an entry is in tc.
//
// A filter says less than a match: it cannot say "IP of either version", "any protocol
// that has ports", or that a header was whole. So an entry is a set of filters: one for
// each port it may come from, IP version and protocol that it leaves open. What is left
// then is either implied by the filters (a frame of type IPv4 has the ip flag) and kept
// as the label's rest, or cannot be said, and the entry is refused. A guard may punt more
// than it has to, so it leaves out what cannot be said, and keeps it in the rest too.
//
// Fragments: the kernel's parser and those of cards see no ports in them, so a port rule
// in software could be overtaken by an entry below it. Every entry that answers IP
// therefore pins that the packet is no fragment, and the driver's model says that it
// misses fragments. A tag that is matched is one of type 0x8100; frames with other tags
// are missed by answers and guards alike.

var be = binary.BigEndian

// anyPort are the protocols that have ports.
var anyPort = []uint8{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP}

// lowestType is the lowest number that is a frame's type; below, it is a length.
const lowestType = 0x600

// unsaid is why an entry has no form in tc.
func unsaid(code, reason, fix string) *device.Refusal {
	return &device.Refusal{Code: code, Reason: "tc flower: " + reason, Fix: fix}
}

// shape is one way to fill in what an entry leaves open. Zero leaves it open.
type shape struct {
	ethType uint16
	proto   uint8
	typed   bool // ethType is pinned
	ported  bool // proto is pinned
	double  bool // there are two tags; valid iff m says that there is one and leaves open whether there are two
}

// openTags reports whether m says that a frame of a known type is tagged, and not how often.
func openTags(m *flow.Match, typed bool) bool {
	return typed && m.Value.Get(flow.VLAN)&flow.TagPresent != 0 && m.Mask.Get(flow.CVLAN) == 0
}

// shapes returns the shapes that together are m.
func shapes(m *flow.Match) []shape {
	one := shape{ethType: uint16(m.Value.Get(flow.EthType)), typed: m.Mask.Get(flow.EthType) == flow.EthType.Max(),
		proto: uint8(m.Value.Get(flow.Proto)), ported: m.Mask.Get(flow.Proto) == flow.Proto.Max()}
	out := []shape{one}
	if m.Mask.Get(flow.EthType) == 0 && m.Value.Get(flow.Flags)&flow.FlagIP != 0 {
		out = nil
		for _, t := range []uint16{flow.EthIPv4, flow.EthIPv6} {
			one.ethType, one.typed = t, true
			out = append(out, one)
		}
	}
	if openTags(m, out[0].typed) {
		twice := slices.Clone(out)
		for i := range twice {
			twice[i].double = true
		}
		out = append(out, twice...)
	}
	if m.Mask.Get(flow.Proto) != 0 || m.Value.Get(flow.Flags)&flow.FlagL4 == 0 {
		return out
	}
	var each []shape
	for _, s := range out {
		for _, p := range anyPort {
			s.proto, s.ported = p, true
			each = append(each, s)
		}
	}
	return each
}

// say returns the filter for one shape of m, without its place and actions, and the
// part of m that it says. answers says that it is no guard.
func say(m *flow.Match, s shape, answers bool) (Filter, flow.Match, *device.Refusal) {
	f := Filter{Protocol: EthAll}
	var said flow.Match
	if why := sayTags(&f, &said, m, s); why != nil {
		return f, said, why
	}
	for field, id := range map[flow.Field]KeyID{flow.DstMAC: KeyDstMAC, flow.SrcMAC: KeySrcMAC} {
		v, mask := be.AppendUint64(nil, m.Value.Get(field)), be.AppendUint64(nil, m.Mask.Get(field))
		f.put(id, v[2:], mask[2:])
		said.Pin(field, m.Value.Get(field), m.Mask.Get(field))
	}
	if s.typed {
		said.Pin(flow.EthType, uint64(s.ethType), flow.EthType.Max())
	}
	if s.typed && (s.ethType == flow.EthIPv4 || s.ethType == flow.EthIPv6) {
		sayIP(&f, &said, m, s, answers)
	}
	return f, said, nil
}

// sayTags says how a frame is tagged, and its type behind the tags.
func sayTags(f *Filter, said *flow.Match, m *flow.Match, s shape) *device.Refusal {
	kind := func(id KeyID, t uint16) { f.put(id, be.AppendUint16(nil, t), nil) }
	outer, inner := m.Mask.Get(flow.VLAN), m.Mask.Get(flow.CVLAN)
	tagged, double := m.Value.Get(flow.VLAN)&flow.TagPresent != 0, m.Value.Get(flow.CVLAN)&flow.TagPresent != 0
	switch {
	case outer&flow.TagPresent == 0: // any tags, or none
		if s.typed {
			kind(KeyEthType, s.ethType)
		}
		return nil
	case !tagged:
		if s.typed {
			f.Protocol = s.ethType
			kind(KeyEthType, s.ethType)
			said.Pin(flow.VLAN, 0, flow.TagPresent)
		}
		return nil
	}
	f.Protocol = flow.EthVLAN
	kind(KeyEthType, flow.EthVLAN)
	if !sayTag(f, said, m, flow.VLAN, KeyVLANID, KeyVLANPrio) {
		return unsaid("E_MASK_UNSUPPORTED", "a VLAN is matched whole or not at all", "write vlan_id and vlan_prio without masks")
	}
	switch {
	case inner&flow.TagPresent != 0 && double || s.double:
		kind(KeyVLANEthType, flow.EthVLAN)
		if !sayTag(f, said, m, flow.CVLAN, KeyCVLANID, KeyCVLANPrio) {
			return unsaid("E_MASK_UNSUPPORTED", "a VLAN is matched whole or not at all", "write cvlan_id and cvlan_prio without masks")
		}
		if s.typed {
			kind(KeyCVLANEthType, s.ethType)
		}
	case s.typed: // the type follows the tag, so there is no second one
		kind(KeyVLANEthType, s.ethType)
		said.Pin(flow.CVLAN, 0, flow.TagPresent)
	}
	return nil
}

// sayTag says id and priority of a tag that is there.
func sayTag(f *Filter, said *flow.Match, m *flow.Match, field flow.Field, id, prio KeyID) bool {
	v, mask := m.Value.Get(field), m.Mask.Get(field)
	said.Pin(field, flow.TagPresent, flow.TagPresent)
	switch mask & flow.TagID {
	case 0:
	case flow.TagID:
		f.put(id, native.AppendUint16(nil, uint16(v&flow.TagID)), nil)
		said.Pin(field, v, flow.TagID)
	default:
		return false
	}
	switch mask & flow.TagPrio {
	case 0:
	case flow.TagPrio:
		f.put(prio, []byte{byte(v >> 13)}, nil)
		said.Pin(field, v, flow.TagPrio)
	default:
		return false
	}
	return true
}

// sayIP says what is matched above Ethernet.
func sayIP(f *Filter, said *flow.Match, m *flow.Match, s shape, answers bool) {
	sayAddress(f, said, m, s, flow.SrcHi, flow.SrcLo, KeySrcIPv4, KeySrcIPv6)
	sayAddress(f, said, m, s, flow.DstHi, flow.DstLo, KeyDstIPv4, KeyDstIPv6)
	for field, id := range map[flow.Field]KeyID{flow.TOS: KeyTOS, flow.TTL: KeyTTL} {
		f.put(id, []byte{byte(m.Value.Get(field))}, []byte{byte(m.Mask.Get(field))})
		said.Pin(field, m.Value.Get(field), m.Mask.Get(field))
	}
	const either = flow.FlagFragFirst | flow.FlagFragLater
	switch frag := m.Value.Get(flow.Flags) & either; {
	case answers || frag == 0 && m.Mask.Get(flow.Flags)&either == either:
		f.put(KeyFlags, be.AppendUint32(nil, 0), be.AppendUint32(nil, FragmentBit))
	case frag == flow.FlagFragFirst:
		f.put(KeyFlags, be.AppendUint32(nil, FragmentBit|FirstFragmentBit), be.AppendUint32(nil, FragmentBit|FirstFragmentBit))
		said.Pin(flow.Flags, frag, frag)
	case frag == flow.FlagFragLater:
		f.put(KeyFlags, be.AppendUint32(nil, FragmentBit), be.AppendUint32(nil, FragmentBit|FirstFragmentBit))
		said.Pin(flow.Flags, frag, frag)
	}
	if s.ported {
		f.put(KeyProto, []byte{s.proto}, nil)
		said.Pin(flow.Proto, uint64(s.proto), flow.Proto.Max())
		sayL4(f, said, m, s)
	}
}

func sayAddress(f *Filter, said *flow.Match, m *flow.Match, s shape, hi, lo flow.Field, v4, v6 KeyID) {
	if s.ethType == flow.EthIPv4 {
		const low = 1<<32 - 1
		v, mask := m.Value.Get(lo)&low, m.Mask.Get(lo)&low
		f.put(v4, be.AppendUint32(nil, uint32(v)), be.AppendUint32(nil, uint32(mask)))
		said.Pin(lo, v, mask)
		return
	}
	wide := func(k *flow.Key) []byte { return be.AppendUint64(be.AppendUint64(nil, k.Get(hi)), k.Get(lo)) }
	f.put(v6, wide(&m.Value), wide(&m.Mask))
	said.Pin(hi, m.Value.Get(hi), m.Mask.Get(hi))
	said.Pin(lo, m.Value.Get(lo), m.Mask.Get(lo))
}

// portKeys are the keys of ports, by protocol.
var portKeys = map[uint8][2]KeyID{flow.ProtoTCP: {KeyTCPSrc, KeyTCPDst}, flow.ProtoUDP: {KeyUDPSrc, KeyUDPDst}, flow.ProtoSCTP: {KeySCTPSrc, KeySCTPDst}}

// icmpKeys returns the keys of ICMP type and code if s is ICMP of its IP version.
func (s shape) icmpKeys() (keys [2]KeyID, ok bool) {
	switch {
	case s.ethType == flow.EthIPv4 && s.proto == flow.ProtoICMP:
		return [2]KeyID{KeyICMPv4Type, KeyICMPv4Code}, true
	case s.ethType == flow.EthIPv6 && s.proto == flow.ProtoICMPv6:
		return [2]KeyID{KeyICMPv6Type, KeyICMPv6Code}, true
	}
	return keys, false
}

// sayL4 says ports, TCP flags, and type and code of ICMP.
func sayL4(f *Filter, said *flow.Match, m *flow.Match, s shape) {
	if ids, ok := s.icmpKeys(); ok {
		for i, field := range []flow.Field{flow.SrcPort, flow.DstPort} {
			v, mask := m.Value.Get(field), m.Mask.Get(field)&0xff
			f.put(ids[i], []byte{byte(v)}, []byte{byte(mask)})
			said.Pin(field, v, mask)
		}
		return
	}
	ids, ok := portKeys[s.proto]
	if !ok {
		return
	}
	for i, field := range []flow.Field{flow.SrcPort, flow.DstPort} {
		r, from := m.SrcPort, KeySrcPortMin
		if i == 1 {
			r, from = m.DstPort, KeyDstPortMin
		}
		switch low := r.Hi - r.Lo; {
		case r.Any():
			v, mask := m.Value.Get(field), m.Mask.Get(field)
			f.put(ids[i], be.AppendUint16(nil, uint16(v)), be.AppendUint16(nil, uint16(mask)))
			said.Pin(field, v, mask)
		case low&(low+1) == 0 && r.Lo&low == 0: // what a mask says, which more drivers take
			f.put(ids[i], be.AppendUint16(nil, r.Lo), be.AppendUint16(nil, ^low))
			said.SetPorts(field, r.Lo, r.Hi)
		default:
			f.put(from, be.AppendUint16(nil, r.Lo), nil)
			f.put(from+1, be.AppendUint16(nil, r.Hi), nil)
			said.SetPorts(field, r.Lo, r.Hi)
		}
	}
	if s.proto == flow.ProtoTCP {
		mask := m.Mask.Get(flow.TCPFlags) & 0x0fff
		f.put(KeyTCPFlags, be.AppendUint16(nil, uint16(m.Value.Get(flow.TCPFlags)&mask)), be.AppendUint16(nil, uint16(mask)))
		said.Pin(flow.TCPFlags, m.Value.Get(flow.TCPFlags), mask)
	}
}

// plain are the packets that no entry misses.
func plain(m flow.Match) flow.Match {
	m.Pin(flow.Flags, 0, flow.FlagFragFirst|flow.FlagFragLater|flow.FlagOdd)
	return m
}

// saying returns the filters of m, one for each shape, and the rest that they do not
// say. For an answer the rest is implied by every one of them.
func saying(m *flow.Match, answers bool) (fs []Filter, rest flow.Match, why *device.Refusal) {
	if partly(m, flow.EthType) || partly(m, flow.Proto) {
		return nil, rest, unsaid("E_MASK_UNSUPPORTED", "eth_type and ip_proto are matched whole", "name one eth_type and one ip_proto")
	}
	all := shapes(m)
	if t := all[0].ethType; all[0].typed && (t < lowestType || t == flow.EthVLAN || t == flow.EthQinQ) {
		return nil, rest, unsaid("E_FIELD_UNSUPPORTED", fmt.Sprintf("%#x is no type that the kernel gives a frame behind its tags", t), "match an eth_type from 0x600 on")
	}
	if answers && !all[0].typed {
		return nil, rest, unsaid("E_FIELD_NEEDED", "without an eth_type it would answer fragments too, and no card sees their ports", "match one eth_type, or ip")
	}
	for i, s := range all {
		f, said, why := say(m, s, answers)
		if why != nil {
			return nil, rest, why
		}
		left := minus(m, &said)
		if i > 0 && left != rest {
			return nil, rest, unsaid("E_FIELD_UNSUPPORTED", "the IP versions or protocols it leaves open cannot all say the rest", "match one eth_type and one ip_proto")
		}
		rest = left
		if whole := plain(said); answers {
			if !implies(&whole, &rest) {
				return nil, rest, unsaid("E_FIELD_UNSUPPORTED", "it looks at something that a filter cannot say", "match the eth_type, VLAN and ip_proto that it goes with")
			}
		}
		fs = append(fs, f)
	}
	return fs, rest, nil
}

func partly(m *flow.Match, f flow.Field) bool {
	return m.Mask.Get(f) != 0 && m.Mask.Get(f) != f.Max()
}

// minus returns what m says and said does not.
func minus(m, said *flow.Match) flow.Match {
	var rest flow.Match
	for i := range m.Mask {
		rest.Mask[i] = m.Mask[i] &^ said.Mask[i]
		rest.Value[i] = m.Value[i] & rest.Mask[i]
	}
	if m.SrcPort != said.SrcPort {
		rest.SrcPort = m.SrcPort
	}
	if m.DstPort != said.DstPort {
		rest.DstPort = m.DstPort
	}
	return rest
}

// implies reports whether every packet of m is in rest.
func implies(m, rest *flow.Match) bool {
	h, ok := flow.Hull(m)
	if !ok || !rest.SrcPort.Any() || !rest.DstPort.Any() {
		return false
	}
	var bad uint64
	for i := range h.Mask {
		bad |= rest.Mask[i]&^h.Mask[i] | (h.Value[i]^rest.Value[i])&rest.Mask[i]
	}
	return bad == 0
}

// hear is the inverse of say: the match that a filter's keys say, without its port. An
// error means a key that says more than a match can.
func hear(f *Filter) (flow.Match, shape, error) {
	var m flow.Match
	var s shape
	if len(f.Unknown) > 0 {
		return m, s, fmt.Errorf("%s: attribute %d of flower is not known, so what it matches is not", f, f.Unknown[0].Kind)
	}
	var from, to [2]uint16
	for _, k := range f.Keys {
		switch id := k.ID; id {
		case KeyDstMAC, KeySrcMAC:
			field := map[KeyID]flow.Field{KeyDstMAC: flow.DstMAC, KeySrcMAC: flow.SrcMAC}[id]
			m.Pin(field, wide(k.Value), wide(k.Mask))
		case KeyEthType, KeyVLANEthType, KeyCVLANEthType:
			t := be.Uint16(k.Value)
			if t == flow.EthVLAN || t == flow.EthQinQ {
				tag := flow.VLAN
				if id != KeyEthType {
					tag = flow.CVLAN
				}
				if id == KeyCVLANEthType {
					return m, s, fmt.Errorf("%s: a third tag", f)
				}
				m.Pin(tag, flow.TagPresent, flow.TagPresent)
				break
			}
			s.ethType, s.typed = t, true
			m.Pin(flow.EthType, uint64(t), flow.EthType.Max())
			if id == KeyVLANEthType {
				m.Pin(flow.CVLAN, 0, flow.TagPresent)
			}
		case KeyVLANID:
			m.Pin(flow.VLAN, flow.TagPresent|uint64(native.Uint16(k.Value)), flow.TagPresent|flow.TagID)
		case KeyCVLANID:
			m.Pin(flow.CVLAN, flow.TagPresent|uint64(native.Uint16(k.Value)), flow.TagPresent|flow.TagID)
		case KeyVLANPrio:
			m.Pin(flow.VLAN, flow.TagPresent|uint64(k.Value[0])<<13, flow.TagPresent|flow.TagPrio)
		case KeyCVLANPrio:
			m.Pin(flow.CVLAN, flow.TagPresent|uint64(k.Value[0])<<13, flow.TagPresent|flow.TagPrio)
		case KeySrcIPv4:
			m.Pin(flow.SrcLo, wide(k.Value), wide(k.Mask))
		case KeyDstIPv4:
			m.Pin(flow.DstLo, wide(k.Value), wide(k.Mask))
		case KeySrcIPv6:
			m.Pin(flow.SrcHi, wide(k.Value[:8]), wide(k.Mask[:8]))
			m.Pin(flow.SrcLo, wide(k.Value[8:]), wide(k.Mask[8:]))
		case KeyDstIPv6:
			m.Pin(flow.DstHi, wide(k.Value[:8]), wide(k.Mask[:8]))
			m.Pin(flow.DstLo, wide(k.Value[8:]), wide(k.Mask[8:]))
		case KeyProto:
			s.proto, s.ported = k.Value[0], true
			m.Pin(flow.Proto, wide(k.Value), wide(k.Mask))
		case KeyTOS:
			m.Pin(flow.TOS, wide(k.Value), wide(k.Mask))
		case KeyTTL:
			m.Pin(flow.TTL, wide(k.Value), wide(k.Mask))
		case KeyTCPFlags:
			m.Pin(flow.TCPFlags, wide(k.Value), wide(k.Mask))
		case KeyTCPSrc, KeyUDPSrc, KeySCTPSrc:
			m.SetPortMask(flow.SrcPort, be.Uint16(k.Value), be.Uint16(k.Mask))
		case KeyTCPDst, KeyUDPDst, KeySCTPDst:
			m.SetPortMask(flow.DstPort, be.Uint16(k.Value), be.Uint16(k.Mask))
		case KeyICMPv4Type, KeyICMPv6Type:
			m.Pin(flow.SrcPort, wide(k.Value), wide(k.Mask))
		case KeyICMPv4Code, KeyICMPv6Code:
			m.Pin(flow.DstPort, wide(k.Value), wide(k.Mask))
		case KeySrcPortMin, KeyDstPortMin:
			from[int(id-KeySrcPortMin)/2] = be.Uint16(k.Value)
		case KeySrcPortMax, KeyDstPortMax:
			to[int(id-KeySrcPortMin)/2] = be.Uint16(k.Value)
		case KeyFlags:
			switch v, mask := be.Uint32(k.Value), be.Uint32(k.Mask); {
			case mask == FragmentBit && v == 0: // no fragment: what every answer says
			case mask == FragmentBit|FirstFragmentBit && v == mask:
				m.Pin(flow.Flags, flow.FlagFragFirst, flow.FlagFragFirst)
			case mask == FragmentBit|FirstFragmentBit && v == FragmentBit:
				m.Pin(flow.Flags, flow.FlagFragLater, flow.FlagFragLater)
			default:
				return m, s, fmt.Errorf("%s: ip_flags %#x/%#x, which no entry matches", f, v, mask)
			}
		default:
			return m, s, fmt.Errorf("%s: it matches %s, which no entry does", f, id)
		}
	}
	for i, field := range []flow.Field{flow.SrcPort, flow.DstPort} {
		if to[i] != 0 {
			m.SetPorts(field, from[i], to[i])
		}
	}
	switch p := f.Protocol; {
	case p == EthAll || p == 0:
	case p == flow.EthVLAN || p == flow.EthQinQ:
		m.Pin(flow.VLAN, flow.TagPresent, flow.TagPresent)
	default:
		m.Pin(flow.EthType, uint64(p), flow.EthType.Max())
		m.Pin(flow.VLAN, 0, flow.TagPresent)
		s.ethType, s.typed = p, true
	}
	return m, s, nil
}

// wide returns a number of at most eight bytes in network order.
func wide(b []byte) uint64 {
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}
