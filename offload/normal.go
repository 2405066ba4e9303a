package offload

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// `normal` delivers by a switch that only software holds whole. What a device can
// hold of it is one station at a time: packets of one VLAN state and one
// destination MAC go to one port, unless they came from there. So a rule that ends
// in `normal` reaches hardware as narrowed entries, one for each known station it
// matches, with `output: PORT` in place of `normal`.
//
// The packets that came from the station's own port need care: `normal` never
// sends back and an output does. Where the device can punt, one guard per station
// serves all rules; where it cannot, the entry pins each other port in turn.

// pinned returns the packets for a station: its VLAN state and destination MAC. For
// VLAN 0 these are the untagged ones; tagged with priority only stays in software.
func pinned(st flow.Station) flow.Match {
	var m flow.Match
	m.Pin(flow.DstMAC, st.MAC, flow.DstMAC.Max())
	if st.VLAN == 0 {
		m.Pin(flow.VLAN, 0, flow.TagPresent)
	} else {
		m.Pin(flow.VLAN, flow.TagPresent|uint64(st.VLAN), flow.TagPresent|flow.TagID)
	}
	return m
}

// meet returns what a and b share, for a b without port ranges that constrains no
// port at all; ok is false if that is nothing.
func meet(a, b *flow.Match) (m flow.Match, ok bool) {
	if !a.Overlaps(b) {
		return flow.Match{}, false
	}
	m = *a
	for i := range m.Value {
		m.Value[i] |= b.Value[i]
		m.Mask[i] |= b.Mask[i]
	}
	return m, true
}

// fromPort returns the packets of m that came in by port p, which m allows.
func fromPort(m flow.Match, p flow.Port) flow.Match {
	m.Pin(flow.InPort, uint64(p), flow.InPort.Max())
	return m
}

// mayComeFrom reports whether m has packets that came in by port p.
func mayComeFrom(m *flow.Match, p flow.Port) bool {
	return (m.Value.Get(flow.InPort)^uint64(p))&m.Mask.Get(flow.InPort) == 0
}

// resolved returns the actions of a rule with output to a port in place of normal.
func resolved(a flow.Actions, to flow.Port) flow.Actions {
	out := slices.Clone(a)
	out[len(out)-1] = flow.Action{Op: flow.Output, Ports: []flow.Port{to}}
	return out
}

// switches reports whether a ends in normal, and retags whether an action on the VLAN or
// on the destination MAC comes before that: then the switch sees another station than the
// match does.
func switches(a flow.Actions) (ends, retags bool) {
	for _, x := range a {
		retags = retags || x.Op == flow.VLANPush || x.Op == flow.VLANPop || x.Op == flow.VLANSet ||
			slices.ContainsFunc(x.Settings, func(s flow.Setting) bool { return s.Field == flow.DstMAC })
	}
	return a.Terminal().Op == flow.Normal, retags
}

// ports returns the ports that packets of t can come from, ascending.
func ports(t *flow.Table) []flow.Port {
	all := []flow.Port{t.Switch().Uplink()}
	for n := range t.Ports().Len() {
		all = append(all, flow.Port(n+1))
	}
	for _, st := range t.Switch().Stations() {
		all = append(all, st.Port)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(p flow.Port) bool { return p == 0 })
}

// group is the bit of a MAC that makes it a group address.
const group = 1 << 40

// stations returns the stations a device can deliver to, each once: group
// addresses are flooded, whatever a station says.
func stations(sw *flow.Switch) []flow.Station {
	var out []flow.Station
	seen := map[flow.Station]bool{}
	for _, st := range sw.Stations() {
		if st.MAC&group == 0 && st.Port != 0 && !seen[st] {
			seen[st] = true
			out = append(out, st)
		}
	}
	return out
}
