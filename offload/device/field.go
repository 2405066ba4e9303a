package device

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// How says which masks a device takes on a [Part] of the key.
type How uint8

// The ways to match, from least to most. Each takes what the one before it takes.
const (
	No     How = iota // the part must be free
	Exact             // free, or every bit of it
	Prefix            // leading bits of it
	Any               // any mask
)

var howNames = [...]string{"no", "exact", "prefix", "any"}

// String returns the word for h in a model file.
func (h How) String() string { return howNames[h] }

// Part is a piece of the key that devices can or cannot match by itself. Most are
// one field of the contract; each parser flag is one.
type Part uint8

// The parts, in the order of the contract.
const (
	InPort Part = iota
	SrcMAC
	DstMAC
	EthType
	VLANID // and whether the tag is there
	VLANPrio
	CVLANID // and whether the tag is there
	CVLANPrio
	SrcIP
	DstIP
	Proto
	TOS
	TTL
	SrcPort
	DstPort
	TCPFlags
	CTState
	FlagIP
	FlagL4
	FlagFirst
	FlagLater
	FlagOdd
	NumParts
)

// Fields says how a device matches each part.
type Fields [NumParts]How

// part is where a Part lives: bits of a field, or of two for an address.
type part struct {
	name  string
	field flow.Field
	bits  uint64
	lower flow.Field // second half of an address; valid iff wide
	wide  bool
}

var parts = [NumParts]part{
	InPort:    {name: "in_port", field: flow.InPort, bits: 0xffff},
	SrcMAC:    {name: "src_mac", field: flow.SrcMAC, bits: 1<<48 - 1},
	DstMAC:    {name: "dst_mac", field: flow.DstMAC, bits: 1<<48 - 1},
	EthType:   {name: "eth_type", field: flow.EthType, bits: 0xffff},
	VLANID:    {name: "vlan_id", field: flow.VLAN, bits: flow.TagID},
	VLANPrio:  {name: "vlan_prio", field: flow.VLAN, bits: flow.TagPrio},
	CVLANID:   {name: "cvlan_id", field: flow.CVLAN, bits: flow.TagID},
	CVLANPrio: {name: "cvlan_prio", field: flow.CVLAN, bits: flow.TagPrio},
	SrcIP:     {name: "src_ip", field: flow.SrcHi, lower: flow.SrcLo, bits: 1<<64 - 1, wide: true},
	DstIP:     {name: "dst_ip", field: flow.DstHi, lower: flow.DstLo, bits: 1<<64 - 1, wide: true},
	Proto:     {name: "ip_proto", field: flow.Proto, bits: 0xff},
	TOS:       {name: "ip_tos", field: flow.TOS, bits: 0xff},
	TTL:       {name: "ip_ttl", field: flow.TTL, bits: 0xff},
	SrcPort:   {name: "src_port", field: flow.SrcPort, bits: 0xffff},
	DstPort:   {name: "dst_port", field: flow.DstPort, bits: 0xffff},
	TCPFlags:  {name: "tcp_flags", field: flow.TCPFlags, bits: 0xffff},
	CTState:   {name: "ct_state", field: flow.CTState, bits: 0xff},
	FlagIP:    {name: "ip", field: flow.Flags, bits: flow.FlagIP},
	FlagL4:    {name: "l4", field: flow.Flags, bits: flow.FlagL4},
	FlagFirst: {name: "frag_first", field: flow.Flags, bits: flow.FlagFragFirst},
	FlagLater: {name: "frag_later", field: flow.Flags, bits: flow.FlagFragLater},
	FlagOdd:   {name: "odd", field: flow.Flags, bits: flow.FlagOdd},
}

// String returns how rules name p. Files of models do so, too, but for the two values of
// ip_frag, which they have apart as frag_first and frag_later.
func (p Part) String() string {
	switch p {
	case FlagFirst:
		return "ip_frag=first"
	case FlagLater:
		return "ip_frag=later"
	}
	return parts[p].name
}

// presence returns the bit that says whether a tag is there, if p is the part it goes
// with: the id, whatever bits of the id are looked at.
func (p *part) presence() uint64 {
	if p.field == flow.VLAN && p.bits == flow.TagID || p.field == flow.CVLAN && p.bits == flow.TagID {
		return flow.TagPresent
	}
	return 0
}

// fit returns the largest part of m's mask on p that h takes: two words for an
// address, else the first is zero. What it drops makes a match wider. v4 says that
// the device looks at nothing but IPv4 here.
func (p *part) fit(h How, m *flow.Match, v4 bool) (hi, lo uint64) {
	if !p.wide {
		return 0, fitBits(h, m.Mask.Get(p.field)&p.bits, p.bits)
	}
	hi, lo = m.Mask.Get(p.field), m.Mask.Get(p.lower)
	const low = 1<<32 - 1
	switch {
	case h == Any || hi == 0 && lo == 0:
		return hi, lo
	case h == No:
		return 0, 0
	case v4: // whatever the upper 96 bits say, IPv4 has zeros there
		return hi, lo&^low | fitBits(h, lo&low, low)
	case h == Exact:
		if hi&lo == 1<<64-1 {
			return hi, lo
		}
		return 0, 0
	case hi != 1<<64-1:
		return fitBits(Prefix, hi, 1<<64-1), 0
	}
	return hi, fitBits(Prefix, lo, 1<<64-1)
}

// only4 reports whether an entry for m, as far as the device can match it, looks at
// IPv4 packets only.
func (f *Fields) only4(m *flow.Match) bool {
	return f[EthType] != No && m.Value.Get(flow.EthType) == flow.EthIPv4 && m.Mask.Get(flow.EthType) == flow.EthType.Max()
}

// fitBits returns the largest subset of mask, which lies in all, that h takes.
func fitBits(h How, mask, all uint64) uint64 {
	switch {
	case h == Any || mask == all:
		return mask & -b2u(h != No)
	case h == Prefix:
		top := bits.Len64(all)
		lead := bits.LeadingZeros64(^(mask << (64 - top)))
		return all &^ (1<<(top-lead) - 1) // all is contiguous where prefixes make sense
	}
	return 0
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
