// Package ntuple reads and writes the receive-flow rules of a NIC, as `ethtool -N` does:
// a match on one kind of packet, a location, and a queue or a drop. It is for cards
// without tc flower, and for auditing what others put there.
//
// It is no offload.Driver. A rule has nowhere to keep a mark, so that nobody can tell
// after a restart whose rule it is; most drivers choose precedence by themselves; and the
// cards that have nothing else lose what they miss to software, so no entry may be in
// them at all (docs/adr/0011-tc-entries.md).
//
// Start reading with [Rule]; [Rule.Append] and [Parse] are the codec, [Card] is a device.
package ntuple

import (
	"encoding/binary"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// Kind is which packets a rule looks at (linux/ethtool.h). It also says where the fields
// of a match lie.
type Kind uint32

// The kinds that this package knows.
const (
	TCPv4  Kind = 0x01
	UDPv4  Kind = 0x02
	SCTPv4 Kind = 0x03
	TCPv6  Kind = 0x05
	UDPv6  Kind = 0x06
	SCTPv6 Kind = 0x07
	IPv4   Kind = 0x0d
	IPv6   Kind = 0x0e
	Ether  Kind = 0x12

	extVLAN = 0x80000000 // the rule also looks at a VLAN tag or user data
	extMAC  = 0x40000000 // the rule also looks at the destination MAC
)

// Any as a rule's location lets the driver choose one, where it can.
const Any uint32 = 0xffffffff

// Discard as a rule's queue drops the packet.
const Discard uint64 = 1<<64 - 1

// Rule is one receive-flow rule. Match has the fields that its kind has, and the kind
// itself: eth_type and ip_proto. Ports have masks, never ranges.
type Rule struct {
	Kind     Kind
	Match    flow.Match
	Location uint32
	Queue    uint64 // or Discard; the upper half may name a VF
}

// Where things lie in a struct ethtool_rxnfc of 192 bytes.
const (
	size       = 192
	offData    = 8
	offSpec    = 16
	offValue   = offSpec + 4  // 52 bytes, by kind
	offExt     = offSpec + 56 // 2 padding, 6 MAC, 2 VLAN type, 2 VLAN tci, 8 user data
	offMask    = offSpec + 76
	offMaskExt = offSpec + 128
	offQueue   = offSpec + 152
	offWhere   = offSpec + 160
	offCount   = 184
)

var (
	native = binary.NativeEndian
	be     = binary.BigEndian
)

// slot is where a field lies among the 52 bytes of a kind: bits of it from the least on.
type slot struct {
	field  flow.Field
	offset int
	bytes  int
}

// slots says which fields a kind has, and what it pins by itself.
func (k Kind) slots() (fields []slot, ethType, proto uint64, ok bool) {
	ports := func(at int) []slot { return []slot{{flow.SrcPort, at, 2}, {flow.DstPort, at + 2, 2}} }
	v4 := []slot{{flow.SrcLo, 0, 4}, {flow.DstLo, 4, 4}}
	v6 := []slot{{flow.SrcHi, 0, 8}, {flow.SrcLo, 8, 8}, {flow.DstHi, 16, 8}, {flow.DstLo, 24, 8}}
	l4 := map[Kind]uint64{TCPv4: flow.ProtoTCP, UDPv4: flow.ProtoUDP, SCTPv4: flow.ProtoSCTP, TCPv6: flow.ProtoTCP, UDPv6: flow.ProtoUDP, SCTPv6: flow.ProtoSCTP}
	switch k {
	case TCPv4, UDPv4, SCTPv4:
		return append(append(v4, ports(8)...), slot{flow.TOS, 12, 1}), flow.EthIPv4, l4[k], true
	case TCPv6, UDPv6, SCTPv6:
		return append(append(v6, ports(32)...), slot{flow.TOS, 36, 1}), flow.EthIPv6, l4[k], true
	case IPv4: // four bytes of the L4 header lie at 8: no field that a key has by itself
		return append(v4, slot{flow.TOS, 12, 1}, slot{flow.Proto, 14, 1}), flow.EthIPv4, 0, true
	case IPv6:
		return append(v6, slot{flow.TOS, 36, 1}, slot{flow.Proto, 37, 1}), flow.EthIPv6, 0, true
	case Ether:
		return []slot{{flow.DstMAC, 0, 6}, {flow.SrcMAC, 6, 6}, {flow.EthType, 12, 2}}, 0, 0, true
	}
	return nil, 0, 0, false
}

func put(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte(v)
		v >>= 8
	}
}

func number(b []byte) uint64 {
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

// Append appends the 192 bytes with which command carries the rule.
func (r *Rule) Append(b []byte, command uint32) ([]byte, error) {
	fields, ethType, proto, ok := r.Kind.slots()
	if !ok {
		return nil, fmt.Errorf("rule %d: kind %#x is not known", r.Location, uint32(r.Kind))
	}
	left := r.Match // what no field says
	take := func(f flow.Field, mask uint64) {
		left.Value.Set(f, left.Value.Get(f)&^mask)
		left.Mask.Set(f, left.Mask.Get(f)&^mask)
	}
	buf := make([]byte, size)
	for _, s := range fields {
		mask := ^uint64(0) >> (64 - 8*s.bytes)
		put(buf[offValue+s.offset:][:s.bytes], r.Match.Value.Get(s.field)&mask)
		put(buf[offMask+s.offset:][:s.bytes], r.Match.Mask.Get(s.field)&mask)
		take(s.field, mask)
	}
	if ethType != 0 {
		if r.Match.Value.Get(flow.EthType) != ethType {
			return nil, fmt.Errorf("rule %d: kind %#x is of Ethernet type %#x", r.Location, uint32(r.Kind), ethType)
		}
		take(flow.EthType, flow.EthType.Max())
		take(flow.Flags, flow.FlagIP)
	}
	if proto != 0 {
		if r.Match.Value.Get(flow.Proto) != proto {
			return nil, fmt.Errorf("rule %d: kind %#x is of protocol %d", r.Location, uint32(r.Kind), proto)
		}
		take(flow.Proto, flow.Proto.Max())
		take(flow.Flags, flow.FlagL4)
	}
	if r.Kind == IPv4 {
		buf[offValue+13], buf[offMask+13] = 1, 0 // ip_ver, whose mask has to be 0
	}
	kind := uint32(r.Kind)
	if mask := r.Match.Mask.Get(flow.DstMAC); mask != 0 && r.Kind != Ether {
		kind |= extMAC
		put(buf[offExt+2:][:6], r.Match.Value.Get(flow.DstMAC))
		put(buf[offMaskExt+2:][:6], mask)
		take(flow.DstMAC, mask)
	}
	if mask := r.Match.Mask.Get(flow.VLAN); mask&^flow.TagPresent != 0 {
		if r.Match.Value.Get(flow.VLAN)&flow.TagPresent == 0 {
			return nil, fmt.Errorf("rule %d: that a tag is missing cannot be matched", r.Location)
		}
		kind |= extVLAN
		be.PutUint16(buf[offExt+10:], uint16(r.Match.Value.Get(flow.VLAN)&^flow.TagPresent))
		be.PutUint16(buf[offMaskExt+10:], uint16(mask&^flow.TagPresent))
		take(flow.VLAN, mask)
	}
	if left != (flow.Match{}) {
		return nil, fmt.Errorf("rule %d: a rule of kind %#x cannot say all of its match", r.Location, uint32(r.Kind))
	}
	native.PutUint32(buf, command)
	native.PutUint32(buf[offSpec:], kind)
	native.PutUint64(buf[offQueue:], r.Queue)
	native.PutUint32(buf[offWhere:], r.Location)
	return append(b, buf...), nil
}

// Parse is the inverse of Append. What it cannot say as a match is an error: user data,
// the type of a tag, the first bytes behind an IP header, a kind that is not known.
func Parse(b []byte) (Rule, error) {
	if len(b) < size {
		return Rule{}, fmt.Errorf("a rule of %d bytes", len(b))
	}
	kind := native.Uint32(b[offSpec:])
	r := Rule{Kind: Kind(kind &^ (extVLAN | extMAC)), Location: native.Uint32(b[offWhere:]), Queue: native.Uint64(b[offQueue:])}
	fields, ethType, proto, ok := r.Kind.slots()
	if !ok {
		return r, fmt.Errorf("rule %d: kind %#x is not known", r.Location, uint32(r.Kind))
	}
	var said [52]bool
	for _, s := range fields {
		v, mask := number(b[offValue+s.offset:][:s.bytes]), number(b[offMask+s.offset:][:s.bytes])
		if s.field == flow.SrcPort || s.field == flow.DstPort {
			r.Match.SetPortMask(s.field, uint16(v), uint16(mask))
		} else {
			r.Match.Pin(s.field, v, mask)
		}
		for i := range s.bytes {
			said[s.offset+i] = true
		}
	}
	for i, there := range said {
		if !there && b[offMask+i] != 0 {
			return r, fmt.Errorf("rule %d: it looks at byte %d of a rule of kind %#x, which no entry does", r.Location, i, uint32(r.Kind))
		}
	}
	if ethType != 0 {
		r.Match.Pin(flow.EthType, ethType, flow.EthType.Max())
		r.Match.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
	}
	if proto != 0 {
		r.Match.Pin(flow.Proto, proto, flow.Proto.Max())
		r.Match.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	}
	return r, r.parseExt(kind, b)
}

func (r *Rule) parseExt(kind uint32, b []byte) error {
	value, mask := b[offExt:][:20], b[offMaskExt:][:20]
	if kind&extMAC != 0 {
		r.Match.Pin(flow.DstMAC, number(value[2:8]), number(mask[2:8]))
	}
	if kind&extVLAN == 0 {
		return nil
	}
	if number(mask[8:10]) != 0 || number(mask[12:20]) != 0 {
		return fmt.Errorf("rule %d: it looks at the type of a tag or at user data, which no entry does", r.Location)
	}
	if tci := number(mask[10:12]); tci&flow.TagPresent != 0 {
		return fmt.Errorf("rule %d: it looks at the drop-eligible bit of a tag, which no entry does", r.Location)
	} else if tci != 0 {
		r.Match.Pin(flow.VLAN, flow.TagPresent|number(value[10:12]), flow.TagPresent|tci)
	}
	return nil
}
