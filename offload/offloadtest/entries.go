package offloadtest

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// some returns n entries that the device holds at the same time: one mask, one
// priority, no two the same, and packets that match them.
func (c *conform) some(n int) []flow.Entry {
	c.Helper()
	act := c.anActions()
	for _, f := range []flow.Field{flow.DstMAC, flow.SrcMAC, flow.VLAN, flow.DstPort, flow.SrcPort} {
		if uint64(n) > f.Max()&^flow.TagPresent>>1 {
			continue
		}
		var out []flow.Entry
		for i := range n {
			m := c.needed(flow.Match{})
			m.Pin(f, 1+uint64(i), f.Max())
			e := flow.Entry{ID: id(i), Rule: flow.RuleID(i + 1), Priority: 7, Match: m, Actions: act}
			if !c.admits(&e) {
				break
			}
			out = append(out, e)
		}
		if len(out) == n {
			return out
		}
	}
	c.Fatalf("the model admits no %d entries that differ in one field", n)
	return nil
}

// id returns the i-th ID; some look like bladeflow's, some like another's.
func id(i int) flow.EntryID {
	if i%7 == 3 {
		return flow.EntryID(i + 1)
	}
	return 0xb1ad<<48 | flow.EntryID(i+1)
}

// anActions returns actions that the device has.
func (c *conform) anActions() flow.Actions {
	for _, a := range []flow.Actions{{{Op: flow.Drop}}, {{Op: flow.Output, Ports: c.o.Ports[:1]}}} {
		if c.m.Does(a[0].Op) {
			return a
		}
	}
	c.Fatal("the model can neither drop nor output")
	return nil
}

// admits reports whether the driver has to take e.
func (c *conform) admits(e *flow.Entry) bool {
	return c.m.Admit(&e.Match, e.Actions, e.Kind) == nil && (c.o.Admits == nil || c.o.Admits(e))
}

// needed returns m with what the model and the driver need in every entry, as in TCP over
// IPv4, where m says nothing of it.
func (c *conform) needed(m flow.Match) flow.Match {
	for f := range flow.NumFields {
		if m.Mask.Get(f) == 0 {
			m.Pin(f, c.o.Base.Value.Get(f), c.o.Base.Mask.Get(f))
		}
	}
	for part, pin := range map[device.Part]struct {
		field flow.Field
		value uint64
	}{device.EthType: {flow.EthType, flow.EthIPv4}, device.Proto: {flow.Proto, flow.ProtoTCP}} {
		if slices.Contains(c.m.Needs, part) && m.Mask.Get(pin.field) == 0 {
			m.Pin(pin.field, pin.value, pin.field.Max())
		}
	}
	if c.m.Tags == device.TagsSaid && m.Mask.Get(flow.VLAN)&flow.TagPresent == 0 {
		m.Pin(flow.VLAN, m.Value.Get(flow.VLAN), m.Mask.Get(flow.VLAN)|flow.TagPresent)
	}
	return m
}

// every returns an entry for each way of matching, each list of actions, each kind
// and the extremes of each number, as far as the model admits them.
func (c *conform) every() []flow.Entry {
	var out []flow.Entry
	add := func(e flow.Entry) {
		e.ID = id(len(out))
		if err := e.Match.Valid(); err != nil {
			c.Fatal(err)
		}
		if c.admits(&e) {
			out = append(out, e)
		}
	}
	base := flow.Entry{Rule: 1, Priority: 7, Actions: c.anActions()}
	for _, m := range matches(c.o.Ports) {
		e := base
		e.Match = c.needed(m)
		add(e)
	}
	base.Match = c.needed(flow.Match{})
	for _, a := range actions(c.o.Ports) {
		e := base
		e.Actions = a
		add(e)
	}
	for _, kind := range []flow.EntryKind{flow.RuleEntry, flow.GuardEntry, flow.PieceEntry} {
		for _, n := range []uint64{0, 1, 1 << 31, 1<<63 | 1, 1<<64 - 1} {
			e := base
			e.Kind, e.Rule, e.Priority = kind, flow.RuleID(n), n
			if kind == flow.GuardEntry {
				e.Actions = nil
			}
			add(e)
		}
	}
	return out
}

// matches returns matches on every field: whole, by prefix, by odd masks, by ranges.
func matches(ports []flow.Port) []flow.Match {
	out := []flow.Match{{}}
	pin := func(f flow.Field, v, mask uint64) {
		var m flow.Match
		m.Pin(f, v&mask, mask)
		out = append(out, m)
	}
	for f := range flow.NumFields {
		all := f.Max()
		switch f {
		case flow.InPort:
			pin(f, uint64(ports[1]), all)
		case flow.SrcPort, flow.DstPort:
			for _, r := range []flow.PortRange{{Lo: 80, Hi: 80}, {Lo: 80, Hi: 443}, {Lo: 0, Hi: 1023}, {Lo: 1, Hi: 65535}, {Lo: 65534, Hi: 65535}} {
				var m flow.Match
				m.SetPorts(f, r.Lo, r.Hi)
				out = append(out, m)
			}
			var m flow.Match
			m.SetPortMask(f, 0x0101, 0x0f0f)
			out = append(out, m)
		case flow.VLAN, flow.CVLAN:
			pin(f, 0, flow.TagPresent)
			pin(f, flow.TagPresent, flow.TagPresent)
			pin(f, flow.TagPresent|100, flow.TagPresent|flow.TagID)
			pin(f, flow.TagPresent|5<<13|100, all)
			pin(f, flow.TagPresent|0x10, flow.TagPresent|0x30)
		case flow.Flags:
			for bit := uint64(1); bit <= flow.FlagOdd; bit <<= 1 {
				pin(f, bit, bit)
				pin(f, 0, bit)
			}
		default:
			pin(f, 0x0123456789abcdef, all)
			pin(f, 0, all)
			pin(f, 0x0123456789abcdef, all&^(all>>3))
			pin(f, 0x0123456789abcdef, all&0x5555555555555555)
		}
	}
	for _, l := range []int{1, 8, 24, 31, 32} {
		var m flow.Match
		m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		mask := uint64(0xffffffff) << (32 - l) & 0xffffffff
		m.Pin(flow.DstLo, 0x0a010203&mask, mask)
		out = append(out, m)
	}
	var five flow.Match // an exact five-tuple with everything around it
	for f, v := range map[flow.Field]uint64{flow.InPort: uint64(ports[0]), flow.EthType: flow.EthIPv6, flow.SrcHi: 0x20010db8 << 32, flow.SrcLo: 1,
		flow.DstHi: 0x20010db8 << 32, flow.DstLo: 2, flow.Proto: flow.ProtoTCP, flow.SrcPort: 1024, flow.DstPort: 443} {
		five.Pin(f, v, f.Max())
	}
	five.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4|flow.FlagFragLater)
	return append(out, five)
}

// actions returns lists of every action in many combinations.
func actions(ports []flow.Port) []flow.Actions {
	out := flow.Action{Op: flow.Output, Ports: ports[:1]}
	drop := flow.Action{Op: flow.Drop}
	steps := []flow.Action{{Op: flow.Mirror, Ports: ports[1:2]}, {Op: flow.VLANPop}, {Op: flow.VLANSet, Tag: 100}, {Op: flow.VLANSet, Tag: 0},
		{Op: flow.VLANPush, Tag: 5<<13 | 100, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Tag: 4095, Proto: flow.EthQinQ}}
	all := []flow.Actions{{drop}, {out}, {{Op: flow.Output, Ports: ports}}, {{Op: flow.Output, Ports: slices.Repeat(ports[:1], 2)}}}
	for i, s := range steps {
		all = append(all, flow.Actions{s, out}, flow.Actions{s, drop})
		for _, then := range steps[i:] {
			all = append(all, flow.Actions{s, then, out}, flow.Actions{then, s, out})
		}
	}
	return all
}
