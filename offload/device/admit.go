package device

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Refusal is why a device cannot hold an entry, as data: a code that never
// changes, the reason in words, and what would fix it.
type Refusal struct {
	Code   string // E_…
	Reason string
	Fix    string
}

// Error returns `reason: fix`.
func (r *Refusal) Error() string { return r.Reason + ": " + r.Fix }

// Admit returns nil if the device can hold an entry of this kind with this match
// and these actions, else a *[Refusal]. How many entries there already are is not
// its business. A guard has no actions.
func (m *Model) Admit(match *flow.Match, actions flow.Actions, kind flow.EntryKind) error {
	if m.Barred != nil {
		return m.Barred
	}
	if !m.MissFalls {
		return &Refusal{"E_MISS_LOST", fmt.Sprintf("what %s misses is lost to software", m.Name),
			"use a device, or a mode of it, whose misses reach software"}
	}
	if err := m.admitMatch(match); err != nil {
		return err
	}
	if in := flow.Port(match.Value.Get(flow.InPort)); kind != flow.GuardEntry && match.Mask.Get(flow.InPort) == flow.InPort.Max() && !m.Has(in) {
		return &Refusal{"E_PORT_ELSEWHERE", fmt.Sprintf("port %d is not one of %s", in, m.Name), "none needed: that port's device holds the rule"}
	}
	if kind == flow.GuardEntry {
		if !m.Punt {
			return &Refusal{"E_PUNT_UNSUPPORTED", fmt.Sprintf("%s has no entries that punt", m.Name),
				"order the rules so that no software rule overlaps this one from above"}
		}
		return nil
	}
	if m.Typed {
		if why := m.lacksType(match, actions); why != nil {
			return why
		}
	}
	return m.admitActions(actions, kind)
}

// lacksType returns what an entry that answers leaves open and has to say; see Model.Typed.
func (m *Model) lacksType(match *flow.Match, actions flow.Actions) *Refusal {
	if match.Mask.Get(flow.EthType) != flow.EthType.Max() && match.Value.Get(flow.Flags)&flow.FlagIP == 0 {
		return &Refusal{"E_FIELD_NEEDED", fmt.Sprintf("without an eth_type %s would answer fragments too, and does not see their ports", m.Name), "match one eth_type, or ip"}
	}
	stack, why := StackOf(match), (*Refusal)(nil)
	for i := range actions {
		if stack, why = stack.After(&actions[i]); why != nil {
			return why
		}
	}
	return nil
}

func (m *Model) admitMatch(match *flow.Match) error {
	v4 := m.Fields.only4(match)
	for i := range parts {
		p := &parts[i]
		hi, lo := p.fit(m.Fields[i], match, v4)
		have := match.Mask.Get(p.field) & p.bits
		if p.wide && (hi != have || lo != match.Mask.Get(p.lower)) || !p.wide && lo != have ||
			m.Fields[i] == No && match.Mask.Get(p.field)&p.presence() != 0 {
			return m.refuseField(Part(i))
		}
	}
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		p, r := portPart(f, match)
		if ok := m.takesRange(p, r); !ok && m.Fields[p] == No {
			return m.refuseField(p)
		} else if !ok {
			return &Refusal{"E_RANGE_UNSUPPORTED", fmt.Sprintf("%s takes no such range of %s", m.Name, p), "use single ports or prefixes of ports"}
		}
	}
	if p := m.lacks(match); p != NumParts {
		return &Refusal{"E_FIELD_NEEDED", fmt.Sprintf("%s has to match %s in every entry, and wholly", m.Name, p), fmt.Sprintf("match one value of %s", p)}
	}
	if !m.speaks(match) {
		return &Refusal{"E_PROTOCOL_NEEDED", fmt.Sprintf("%s matches ports of some protocols only", m.Name), "match " + protocolNames(m.Protocols)}
	}
	if match.Mask.Get(flow.Flags)&^knownFlags != 0 || match.Mask.Get(flow.Reserved) != 0 {
		return &Refusal{"E_FIELD_UNSUPPORTED", "reserved bits cannot be matched", "leave them out"}
	}
	if why := m.unseen(match); why != nil {
		return why
	}
	return nil
}

const knownFlags = flow.FlagIP | flow.FlagL4 | flow.FlagFragFirst | flow.FlagFragLater | flow.FlagOdd

func protocolNames(protocols []uint8) string {
	var names []string
	for _, p := range protocols {
		var m flow.Match
		m.Pin(flow.Proto, uint64(p), flow.Proto.Max())
		m.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		names = append(names, flow.FormatMatch(&m, nil))
	}
	return strings.Join(names, " or ")
}

func (m *Model) refuseField(p Part) *Refusal {
	if m.Fields[p] == No {
		return &Refusal{"E_FIELD_UNSUPPORTED", fmt.Sprintf("%s cannot match %s", m.Name, p), fmt.Sprintf("leave out %s, or use a device that matches it", p)}
	}
	return &Refusal{"E_MASK_UNSUPPORTED", fmt.Sprintf("%s matches %s by %s only", m.Name, p, m.Fields[p]), fmt.Sprintf("write %s without other masks", p)}
}

func (m *Model) admitActions(actions flow.Actions, kind flow.EntryKind) error {
	copies, tags := 0, 0
	var to []flow.Port
	for _, a := range actions {
		switch {
		case a.Op == flow.Pass:
			return &Refusal{"E_ACTION_PASS", "pass hands packets to the blade's kernel, which only software can", "none: pass rules always run in software"}
		case a.Op == flow.Normal:
			return &Refusal{"E_ACTION_NORMAL", "normal needs the static switch, which only software has whole", "match a known station: its VLAN and destination MAC"}
		case a.Op == flow.Police && kind != flow.RuleEntry:
			return &Refusal{"E_POLICE_PART", "a rule that polices has one meter, and this would be a part of it with another", "none: such a rule lives in one place"}
		case !m.Does(a.Op):
			return &Refusal{"E_ACTION_UNSUPPORTED", fmt.Sprintf("%s cannot %s", m.Name, a.Op), fmt.Sprintf("leave out %s, or use a device that has it", a.Op)}
		}
		switch a.Op {
		case flow.VLANPush, flow.VLANPop, flow.VLANSet:
			tags++
		case flow.Output, flow.Mirror:
			copies += len(a.Ports)
			to = append(to, a.Ports...)
		}
	}
	if m.VLANOps > 0 && tags > m.VLANOps {
		return &Refusal{"E_VLAN_OPS", fmt.Sprintf("%d VLAN actions, %s does %d", tags, m.Name, m.VLANOps), "use fewer VLAN actions"}
	}
	if m.Outputs > 0 && copies > m.Outputs {
		return &Refusal{"E_OUTPUTS", fmt.Sprintf("%d copies, %s makes %d", copies, m.Name, m.Outputs), "send to fewer ports"}
	}
	slices.Sort(to)
	for i, p := range to {
		if !m.Has(p) {
			return &Refusal{"E_PORT_ELSEWHERE", fmt.Sprintf("port %d is not one of %s", p, m.Name), "send to a port of the same device"}
		}
		if m.Copies > 0 && i >= m.Copies && to[i-m.Copies] == p {
			many := "more than one copy"
			if m.Copies > 1 {
				many = fmt.Sprintf("more than %d copies", m.Copies)
			}
			return &Refusal{"E_COPIES", fmt.Sprintf("%s to port #%d", many, p), "send fewer copies to one port"}
		}
	}
	return nil
}

// Widen returns the narrowest match the device takes that holds every key of
// match. It is how a guard is fitted to a device: to punt more is always right.
func (m *Model) Widen(match *flow.Match) flow.Match {
	w := flow.Match{}
	keep := func(f flow.Field, mask uint64) {
		w.Pin(f, match.Value.Get(f)&mask, mask)
	}
	v4 := m.Fields.only4(match)
	for i := range parts {
		p := &parts[i]
		hi, lo := p.fit(m.Fields[i], match, v4)
		if p.wide {
			keep(p.field, hi)
			keep(p.lower, lo)
			continue
		}
		keep(p.field, lo)
		if m.Fields[i] != No {
			keep(p.field, match.Mask.Get(p.field)&p.presence())
		}
	}
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		p, r := portPart(f, match)
		switch mask := uint16(w.Mask.Get(f)); {
		case mask != 0 && mask != 0xffff: // may have become a prefix, which is a range
			w.SetPortMask(f, uint16(w.Value.Get(f)), mask)
		case r.Any():
		case m.takesRange(p, r):
			w.SetPorts(f, r.Lo, r.Hi)
		case m.Fields[p] >= Prefix:
			low := uint16(1)<<bits.Len16(r.Lo^r.Hi) - 1
			w.SetPorts(f, r.Lo&^low, r.Lo|low)
		}
	}
	if !m.speaks(&w) {
		w.SetPorts(flow.SrcPort, 0, 0xffff)
		w.SetPorts(flow.DstPort, 0, 0xffff)
	}
	return w
}
