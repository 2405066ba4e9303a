package offload

import (
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestSealed changes one thing of an entry after another: no two have the same ID.
func TestSealed(t *testing.T) {
	did := map[flow.EntryID]string{}
	one := func(what string, change func(e *flow.Entry, a *flow.Action)) {
		t.Helper()
		e := flow.Entry{Kind: flow.RuleEntry, Rule: 1, Priority: 2, Actions: flow.Actions{{Op: flow.Police, Rate: 8, Burst: 9}, {Op: flow.Drop}}}
		change(&e, &e.Actions[0])
		e = sealed(e)
		if was := did[e.ID]; was != "" {
			t.Errorf("%s: the same ID as with %s", what, was)
		}
		did[e.ID] = what
		if !genuine(&e) {
			t.Errorf("%s: not genuine", what)
		}
		if e.Actions[0].Rate++; e.Actions[0].Op == flow.Police && genuine(&e) {
			t.Errorf("%s: genuine at another rate", what)
		}
	}
	one("nothing", func(*flow.Entry, *flow.Action) {})
	one("a kind", func(e *flow.Entry, _ *flow.Action) { e.Kind = flow.PieceEntry })
	one("a rule", func(e *flow.Entry, _ *flow.Action) { e.Rule = 2 })
	one("a priority", func(e *flow.Entry, _ *flow.Action) { e.Priority = 3 })
	one("a value", func(e *flow.Entry, _ *flow.Action) { e.Match.Value[0] = 1 })
	one("a mask", func(e *flow.Entry, _ *flow.Action) { e.Match.Mask[0] = 1 })
	one("a range of source ports", func(e *flow.Entry, _ *flow.Action) { e.Match.SrcPort = flow.PortRange{Lo: 1, Hi: 2} })
	one("a range of destination ports", func(e *flow.Entry, _ *flow.Action) { e.Match.DstPort = flow.PortRange{Lo: 1, Hi: 2} })
	one("no actions", func(e *flow.Entry, _ *flow.Action) { e.Actions = e.Actions[:1] })
	one("a rate", func(_ *flow.Entry, a *flow.Action) { a.Rate = 16 })
	one("a burst", func(_ *flow.Entry, a *flow.Action) { a.Burst = 10 })
	one("a port", func(_ *flow.Entry, a *flow.Action) { *a = flow.Action{Op: flow.Mirror, Ports: []flow.Port{1}} })
	one("ports", func(_ *flow.Entry, a *flow.Action) { *a = flow.Action{Op: flow.Mirror, Ports: []flow.Port{1, 2}} })
	one("a tag", func(_ *flow.Entry, a *flow.Action) { *a = flow.Action{Op: flow.VLANSet, Tag: 1} })
	for _, s := range [][]flow.Setting{{{Field: flow.TTL, Value: 1, Mask: 0xff}}, {{Field: flow.TTL, Value: 2, Mask: 0xff}}, {{Field: flow.TOS, Value: 1, Mask: 0xff}}, {{Field: flow.TOS, Value: 1, Mask: 1}}} {
		one("a setting", func(_ *flow.Entry, a *flow.Action) { *a = flow.Action{Op: flow.Set, Settings: s} })
	}
}
