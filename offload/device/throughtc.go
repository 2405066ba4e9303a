package device

import (
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// What is left of a model where entries go to the card as filters of tc flower. The driver
// (offload/tcflower) and offline plans of cards that it is for take it from here.

// ThroughTC returns m less what tc flower cannot say in one way for all drivers, and with what
// its filters make sure is missed: software says that the kernel itself works them, which looks
// at all that they say.
func ThroughTC(m Model, software bool) Model {
	known := m.Missed
	for part, most := range map[Part]How{InPort: Exact, EthType: Exact, Proto: Exact, VLANID: Exact, VLANPrio: Exact, CVLANID: Exact, CVLANPrio: Exact,
		CTState: No, FlagFirst: No, FlagLater: No, FlagOdd: No} {
		m.Fields[part] = min(m.Fields[part], most)
	}
	if !software { // set mends checksums that were wrong, and no card was seen to police as it is told
		m.Actions = slices.DeleteFunc(slices.Clone(m.Actions), func(op flow.Op) bool { return op > flow.VLANSet })
	}
	m.Typed = true
	m.Missed = nil
	for _, bit := range []uint64{flow.FlagOdd, flow.FlagFragFirst, flow.FlagFragLater} {
		var missed flow.Match
		missed.Pin(flow.Flags, bit, bit)
		// What filters pin of fragments not every card looks at.
		if bit == flow.FlagOdd || software || slices.ContainsFunc(known, func(k flow.Match) bool { return k.Covers(&missed) }) {
			m.Missed = append(m.Missed, missed)
		}
	}
	m.Evidence = maps.Clone(m.Evidence)
	if m.Evidence == nil {
		m.Evidence = map[string]Evidence{}
	}
	m.Evidence["missed"] = Evidence{Expected, "every entry that answers pins that a packet is no fragment, which only some cards look at; odd frames: assumed, has to be shown with packets"}
	return m
}

// Planned returns m as a planner gets it for cards of m's kernel driver: one that ships for a
// driver of tc flower is less than its file says.
func Planned(m Model) Model {
	for _, name := range modelOf {
		if name == m.Name {
			return ThroughTC(m, false)
		}
	}
	return m
}
