package device

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// What a device does not look at though an entry says it.
//
// Problem. A driver turns what it is told into what its card has, and some leave out a
// part without a word: one takes an address of zeros for no address at all, another
// matches frames without a tag only, unless it is told of tags. The entry that is read
// back is the one that was written, and the card answers more packets than it says, which
// is wrong, or fewer, which is wrong where another entry is below it.
//
// Idea. A model says so, and such entries are not taken at all: what is left means what it
// says. Where packets are the reason (Narrow), the entry says more until it is looked at;
// a rule that leaves open whether there is a tag is two entries (Split).

// Tags is what a device makes of the tags that an entry says nothing of.
type Tags string

// What becomes of frames with tags.
const (
	TagsFree  Tags = ""      // an entry can leave open whether there is a tag, or say that there is none
	TagsThere Tags = "there" // it can say which tag is there, and neither that there is none nor that there is any
	TagsSaid  Tags = "said"  // one that leaves it open is for frames without: so each has to say. Behind a tag it cannot say that there is no second
)

// unseen returns why an entry with this match would not mean to the device what it
// says, or nil.
func (m *Model) unseen(match *flow.Match) *Refusal {
	outer, inner := match.Mask.Get(flow.VLAN)&flow.TagPresent != 0, match.Mask.Get(flow.CVLAN)&flow.TagPresent != 0
	bare := outer && match.Value.Get(flow.VLAN)&flow.TagPresent == 0
	single := inner && match.Value.Get(flow.CVLAN)&flow.TagPresent == 0
	ethType := uint16(match.Value.Get(flow.EthType))
	switch {
	case m.Tags == TagsThere && (bare || single), m.Tags == TagsSaid && single && !bare:
		return &Refusal{"E_FIELD_UNSUPPORTED", fmt.Sprintf("%s cannot match that a tag is not there", m.Name), "match the tag that is there, or leave open whether there is one"}
	case m.Tags == TagsThere && (outer && nameless(match, flow.VLAN) || inner && nameless(match, flow.CVLAN)):
		return &Refusal{"E_FIELD_NEEDED", fmt.Sprintf("%s looks for a tag by what is in it", m.Name), "match one vlan_id, or leave open whether there is a tag"}
	case len(m.EthTypes) > 0 && match.Mask.Get(flow.EthType) != 0 && !slices.Contains(m.EthTypes, ethType):
		return &Refusal{"E_FIELD_UNSUPPORTED", fmt.Sprintf("%s does not look at this eth_type", m.Name), "match a version of IP, or leave out eth_type"}
	case m.Tags == TagsSaid && !outer:
		return &Refusal{"E_FIELD_NEEDED", fmt.Sprintf("%s takes an entry that says nothing of tags for frames without", m.Name), "match a vlan_id, or vlan_id=none"}
	}
	for _, p := range m.NonZero {
		if zero(match, p) {
			return &Refusal{"E_MASK_UNSUPPORTED", fmt.Sprintf("%s does not look at %s if all that it has to equal is zeros", m.Name, p), fmt.Sprintf("match a longer mask of %s", p)}
		}
	}
	if m.ProtoByPort && !m.byPort(match) {
		return &Refusal{"E_FIELD_NEEDED", fmt.Sprintf("%s looks at ip_proto only where it looks at a port", m.Name), "match a port, or leave out ip_proto"}
	}
	return nil
}

// nameless reports whether match says nothing of a tag but that it is there.
func nameless(match *flow.Match, tag flow.Field) bool {
	return match.Mask.Get(tag)&(flow.TagID|flow.TagPrio) == 0
}

// zero reports whether match looks at a part, and all it wants there is zeros.
func zero(match *flow.Match, i Part) bool {
	if i == SrcPort || i == DstPort {
		f := parts[i].field
		_, r := portPart(f, match)
		return !r.Any() && r.Lo == 0 || match.Mask.Get(f) != 0 && match.Value.Get(f)&match.Mask.Get(f) == 0
	}
	p := &parts[i]
	mask, value := match.Mask.Get(p.field)&p.bits, match.Value.Get(p.field)&p.bits
	if p.wide {
		mask, value = mask|match.Mask.Get(p.lower), value|match.Value.Get(p.lower)
	}
	return mask != 0 && value == 0
}

// ported reports whether match looks at a port.
func ported(match *flow.Match) bool {
	return !match.SrcPort.Any() || !match.DstPort.Any() || match.Mask.Get(flow.SrcPort)|match.Mask.Get(flow.DstPort) != 0
}

// byPort reports whether match leaves protocols open, or looks at a port.
func (m *Model) byPort(match *flow.Match) bool {
	return match.Mask.Get(flow.Proto) == 0 && match.Mask.Get(flow.Flags)&flow.FlagL4 == 0 || ported(match)
}

// say makes n, which holds k, say what the device has to be told, as k has it, as far as
// that can be said.
func (m *Model) say(n *flow.Match, k *flow.Key) {
	if m.Tags == TagsSaid {
		n.Pin(flow.VLAN, k.Get(flow.VLAN), flow.TagPresent)
	}
	for _, f := range []flow.Field{flow.VLAN, flow.CVLAN} {
		if m.Tags == TagsThere && n.Value.Get(f)&flow.TagPresent != 0 && nameless(n, f) {
			pin(n, f, k, flow.TagPresent|flow.TagID)
		}
	}
	if m.ProtoByPort && !m.byPort(n) && k.Get(flow.Flags)&flow.FlagL4 != 0 {
		n.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
		v := uint16(k.Get(flow.DstPort))
		n.SetPorts(flow.DstPort, v, v)
	}
	for _, i := range m.NonZero {
		if zero(n, i) {
			parts[i].lengthen(n, k)
		}
	}
}

// lengthen pins the leading bits of a part down to the first that is set in k. If none
// is, nothing helps.
func (p *part) lengthen(n *flow.Match, k *flow.Key) {
	f, all := p.field, p.bits
	if p.wide {
		if all = p.lower.Max(); n.Value.Get(flow.EthType) == flow.EthIPv4 && n.Mask.Get(flow.EthType) == flow.EthType.Max() {
			all = 1<<32 - 1
		} else if k.Get(f) == 0 {
			n.Pin(f, 0, f.Max())
		}
		if k.Get(f) == 0 {
			f = p.lower
		}
	}
	v := k.Get(f) & all
	if v == 0 {
		return
	}
	first := bits.Len64(v) - 1
	if f == flow.SrcPort || f == flow.DstPort {
		lo := uint16(1) << first
		if n.Mask.Get(f) != 0 {
			lo = uint16(v)
			n.SetPorts(f, lo, lo)
		} else if _, r := portPart(f, n); lo+(lo-1) <= r.Hi {
			n.SetPorts(f, lo, lo+(lo-1))
		} else {
			n.SetPorts(f, uint16(v), uint16(v))
		}
		return
	}
	pin(n, f, k, n.Mask.Get(f)|all&^(1<<first-1))
}

// tagged returns match in two, if the device has to be told whether there is a tag and
// match leaves it open: with one and without.
func (m *Model) tagged(match *flow.Match) []flow.Match {
	if m.Tags != TagsSaid || match.Mask.Get(flow.VLAN)&flow.TagPresent != 0 {
		return []flow.Match{*match}
	}
	both := slices.Repeat([]flow.Match{*match}, 2)
	both[0].Pin(flow.VLAN, 0, flow.TagPresent)
	both[1].Pin(flow.VLAN, flow.TagPresent, flow.TagPresent)
	return both
}
