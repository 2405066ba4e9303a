package tcflower

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What `set` is in tc: one pedit with an edit for each 32 bits of a header that change, and a
// csum behind it for the sums over them.
//
// pedit writes where it is told to, whatever is there. So an entry has to pin that the header is
// there: an eth_type for what is of IP, TCP or UDP for ports, and one tag at most, behind which
// the kernel finds the header. csum computes sums anew: one that was wrong is right afterwards,
// where the definition ([flow.Put]) leaves it as wrong as it was. That is why the planner is not
// told that a card can `set`, see [device.ThroughTC].

// span is where a setting is in a header: bytes from its beginning, and bits to the right of it.
type span struct {
	header      uint16
	from, bytes int
	shift       int
}

// spanOf returns where a field is in packets of an IP version, or of any if it is none of IP;
// ok is false if they do not have it there.
func spanOf(f flow.Field, mask uint64, ethType uint16, proto uint8) (s span, ok bool) {
	l4 := map[uint8]uint16{flow.ProtoTCP: HeaderTCP, flow.ProtoUDP: HeaderUDP}[proto]
	switch f {
	case flow.DstMAC:
		return span{HeaderEth, 0, 6, 0}, true
	case flow.SrcMAC:
		return span{HeaderEth, 6, 6, 0}, true
	case flow.SrcPort:
		return span{l4, 0, 2, 0}, l4 != 0
	case flow.DstPort:
		return span{l4, 2, 2, 0}, l4 != 0
	}
	four := mask == 1<<32-1
	switch ethType {
	case flow.EthIPv4:
		switch f {
		case flow.TOS:
			return span{HeaderIPv4, 1, 1, 0}, true
		case flow.TTL:
			return span{HeaderIPv4, 8, 1, 0}, true
		case flow.SrcLo:
			return span{HeaderIPv4, 12, 4, 0}, four
		case flow.DstLo:
			return span{HeaderIPv4, 16, 4, 0}, four
		}
	case flow.EthIPv6:
		switch f {
		case flow.TOS:
			return span{HeaderIPv6, 0, 2, 4}, true
		case flow.TTL:
			return span{HeaderIPv6, 7, 1, 0}, true
		case flow.SrcHi:
			return span{HeaderIPv6, 8, 8, 0}, true
		case flow.SrcLo:
			return span{HeaderIPv6, 16, 8, 0}, !four
		case flow.DstHi:
			return span{HeaderIPv6, 24, 8, 0}, true
		case flow.DstLo:
			return span{HeaderIPv6, 32, 8, 0}, !four
		}
	}
	return s, false
}

// headerBytes is how much of a header can be set.
const headerBytes = 40

// image is what edits do to one header: what they put where, under a mask of ones.
type image struct{ value, mask [headerBytes]byte }

func (i *image) put(s span, value, mask uint64) {
	value, mask = value<<s.shift, mask<<s.shift
	for k := range s.bytes {
		at, shift := s.from+k, 8*(s.bytes-1-k)
		i.value[at] |= byte(value >> shift)
		i.mask[at] |= byte(mask >> shift)
	}
}

func (i *image) get(s span) (value, mask uint64) {
	for k := range s.bytes {
		value, mask = value<<8|uint64(i.value[s.from+k]), mask<<8|uint64(i.mask[s.from+k])
	}
	return value >> s.shift, mask >> s.shift
}

// setActions writes a set action for the packets of m, which may be tagged as t says.
func setActions(a *flow.Action, m *flow.Match, t device.Stack) ([]Action, *device.Refusal) {
	var ethType uint16
	var proto uint8
	if m.Mask.Get(flow.EthType) == flow.EthType.Max() {
		ethType = uint16(m.Value.Get(flow.EthType))
	}
	if m.Mask.Get(flow.Proto) == flow.Proto.Max() && m.Value.Get(flow.Flags)&flow.FlagL4 != 0 {
		proto = uint8(m.Value.Get(flow.Proto))
	}
	images := map[uint16]*image{}
	sums := uint32(0)
	for _, s := range a.Settings {
		at, ok := spanOf(s.Field, s.Mask, ethType, proto)
		switch {
		case !ok && s.SetsPort():
			return nil, unsaid("E_FIELD_NEEDED", "it sets ports where TCP and UDP have theirs", "match ip_proto tcp or udp, and an eth_type")
		case !ok:
			return nil, unsaid("E_FIELD_NEEDED", "it sets a field where one version of IP has it", "match the eth_type")
		case at.header != HeaderEth && (t.Most > 1 || ethType == 0):
			return nil, unsaid("E_FIELD_NEEDED", "behind two tags it finds no IP header", "match an eth_type, and vlan_id: none, or one tag")
		}
		if images[at.header] == nil {
			images[at.header] = &image{}
		}
		images[at.header].put(at, s.Value, s.Mask)
		sums |= sumsOver(s, ethType, proto)
	}
	step := Action{Kind: "pedit", Verdict: Pipe}
	for header := HeaderEth; header <= HeaderUDP; header++ {
		i := images[header]
		if i == nil {
			continue
		}
		for at := 0; at < headerBytes; at += 4 {
			if mask := [4]byte(i.mask[at:]); mask != ([4]byte{}) {
				e := Edit{Header: header, Offset: uint32(at), Value: [4]byte(i.value[at:])}
				for k := range mask {
					e.Mask[k] = ^mask[k]
				}
				step.Edits = append(step.Edits, e)
			}
		}
	}
	if sums == 0 {
		return []Action{step}, nil
	}
	return []Action{step, {Kind: "csum", Verdict: Pipe, Csum: sums}}, nil
}

// sumsOver returns the checksums that are over a setting, in packets of an IP version and, if it
// is known, a protocol.
func sumsOver(s flow.Setting, ethType uint16, proto uint8) (sums uint32) {
	switch s.Field {
	case flow.SrcMAC, flow.DstMAC:
		return 0
	case flow.TOS, flow.TTL:
	default:
		sums = map[uint8]uint32{flow.ProtoTCP: CsumTCP, flow.ProtoUDP: CsumUDP}[proto]
		if proto == 0 {
			sums = CsumTCP | CsumUDP
			if ethType == flow.EthIPv6 {
				sums |= CsumICMP // over the addresses, too, in version 6 alone
			}
		}
	}
	if ethType == flow.EthIPv4 && !s.SetsPort() {
		sums |= CsumIPv4
	}
	return sums
}

// readSet is the inverse of setActions for a pedit.
func readSet(a *Action) (flow.Action, error) {
	images := map[uint16]*image{}
	for _, e := range a.Edits {
		if e.Command != 0 || e.Offset%4 != 0 || e.Offset >= headerBytes || e.Header < HeaderEth || e.Header > HeaderUDP {
			return flow.Action{}, fmt.Errorf("action pedit: %+v, which no entry has", e)
		}
		i := images[e.Header]
		if i == nil {
			i = &image{}
			images[e.Header] = i
		}
		for k := range e.Mask {
			i.mask[int(e.Offset)+k], i.value[int(e.Offset)+k] = ^e.Mask[k], e.Value[k]
		}
	}
	out := flow.Action{Op: flow.Set}
	for _, in := range []struct {
		header  uint16
		ethType uint16
		proto   uint8
		fields  []flow.Field
	}{{HeaderEth, 0, 0, []flow.Field{flow.SrcMAC, flow.DstMAC}}, {HeaderIPv4, flow.EthIPv4, 0, []flow.Field{flow.TOS, flow.TTL, flow.SrcLo, flow.DstLo}},
		{HeaderIPv6, flow.EthIPv6, 0, []flow.Field{flow.TOS, flow.TTL, flow.SrcHi, flow.SrcLo, flow.DstHi, flow.DstLo}},
		{HeaderTCP, 0, flow.ProtoTCP, []flow.Field{flow.SrcPort, flow.DstPort}}, {HeaderUDP, 0, flow.ProtoUDP, []flow.Field{flow.SrcPort, flow.DstPort}}} {
		i := images[in.header]
		if i == nil {
			continue
		}
		for _, f := range in.fields {
			all := f.Max()
			if in.header == HeaderIPv4 && (f == flow.SrcLo || f == flow.DstLo) {
				all = 1<<32 - 1
			}
			at, _ := spanOf(f, all, in.ethType, in.proto)
			if value, mask := i.get(at); mask&all != 0 {
				out.Settings = append(out.Settings, flow.Setting{Field: f, Value: value & mask & all, Mask: mask & all})
			}
		}
	}
	slices.SortStableFunc(out.Settings, func(a, b flow.Setting) int { return cmp.Compare(a.Field, b.Field) })
	return out, nil
}
