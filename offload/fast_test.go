package offload_test

import (
	"fmt"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// TestFast changes the actions of a rule that a hundred others in the card rely on. As a rule
// all of them have to leave before the swap; in the fast mode none, and the rule's own entry
// goes after it, with a guard in its place. The model checker tries every step of such changes.
func TestFast(t *testing.T) {
	const others = 100
	rules := func(first flow.Op) *flow.Table {
		var wide flow.Match
		wide.Pin(flow.DstLo, 0x0a000000, 0xff000000)
		out := []flow.Rule{{ID: 1, Name: "wide", Priority: 2, Match: wide, Actions: flow.Actions{{Op: first}}}}
		if first == flow.Output {
			out[0].Actions[0].Ports = []flow.Port{2}
		}
		for i := range others {
			var m flow.Match
			m.Pin(flow.SrcLo, uint64(i), 0xffffffff)
			out = append(out, flow.Rule{ID: flow.RuleID(i + 2), Name: fmt.Sprint("r", i), Priority: 1, Match: m, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{3}}}})
		}
		return flowtest.NewTable(out, flow.Actions{{Op: flow.Pass}})
	}
	for _, room := range []int{1000, others + 2} { // two rules more than that, and guards
		for _, fast := range []bool{false, true} {
			m := shipped(t, "softnic", room)
			old, want := rules(flow.Output), rules(flow.Drop)
			nic := offloadtest.New(m)
			planner := offload.Planner{Fast: fast}
			var have []flow.Entry
			for _, step := range []*flow.Table{old, want} {
				before := old
				p := planner.Plan(before, step, have, m, offload.Traffic{})
				if step == want {
					out, stayed := len(p.Retire), len(p.Stale)
					t.Logf("room %d, fast %v: %d entries leave before the swap, %d stay though they change", room, fast, out, stayed)
					switch roomy := room > others+2; {
					case fast && roomy && (out != 0 || stayed != 1):
						t.Errorf("%d leave before the swap, %d stay; none shall leave, and one stay", out, stayed)
					case !(fast && roomy) && (out <= others || stayed != 0):
						t.Errorf("%d leave before the swap, %d stay; all that rely on it have to leave", out, stayed)
					}
				}
				check := func(t *flow.Table, entries []flow.Entry, m device.Model) error { return verify.Check(t, entries, m) }
				if _, err := offload.Run(t.Context(), []offload.Target{{Name: "nic", Driver: nic, Plan: p}}, func(*flow.Table) error { return nil }, check); err != nil {
					t.Fatal(err)
				}
				var err error
				if have, err = nic.Installed(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := verify.Check(step, have, m); err != nil {
					t.Fatal(err)
				}
				if step == want && len(have) < others+1 {
					t.Errorf("%d entries in the end", len(have))
				}
			}
		}
	}
}

// TestFastRenamed gives a rule another name, which changes nothing in the card.
func TestFastRenamed(t *testing.T) {
	named := func(name string) *flow.Table {
		var m flow.Match
		m.Pin(flow.DstLo, 0x0a000000, 0xff000000)
		return flowtest.NewTable([]flow.Rule{{ID: 1, Name: name, Priority: 2, Match: m, Actions: flow.Actions{{Op: flow.Drop}}}}, flow.Actions{{Op: flow.Pass}})
	}
	old, want, m := named("a"), named("b"), shipped(t, "softnic", 64)
	planner := offload.Planner{Fast: true}
	p := planner.Plan(old, old, nil, m, offload.Traffic{})
	if p = planner.Plan(old, want, p.Entries, m, offload.Traffic{}); len(p.Entries) == 0 || len(p.Retire)+len(p.Promote)+len(p.Stale) != 0 {
		t.Errorf("%d entries; %d leave, %d come or go after the swap, %d of them stale", len(p.Entries), len(p.Retire), len(p.Promote), len(p.Stale))
	}
}
