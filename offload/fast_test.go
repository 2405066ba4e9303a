package offload_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
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

// TestFastInARow makes three changes of actions in the fast mode, each of which the agent
// does not survive or the device spoils, each planned by a new agent from what it finds. What
// stayed through one swap may be there still when the next change begins, and no longer
// when it swaps: after every operation the device answers as the table in force or as the
// one before that, never as one before that one. In the end all is as it should be.
func TestFastInARow(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	c := checked{Faults: map[string]int{}, Universes: map[string]int{}}
	chains := flowtest.Count(t, "BLADEFLOW_FAST_CHAINS", 600)
	if testing.Short() {
		chains = 150
	}
	us, behind := flowtest.Universes(), 0 // changes that began with what stayed through the last swap
	for chain := range chains {
		u, m := us[rng.IntN(len(us))], smallModel(rng)
		m.Entries += 4 + rng.IntN(12)
		s := newSystem(&c, u, m, edited(rng, u, u.Table(rng, 2+rng.IntN(9)), 4))
		s.fast, s.batch = true, 3
		check := new(verify.Prover).Check
		change := func(want *flow.Table, happen func(int, bool) happening) error {
			s.plans, s.happen, s.point = map[string]offload.Plan{}, happen, 0
			clear(s.right)
			clear(s.wins)
			_, err := s.run(want, randomTraffic(rng, u, want), check)
			if s.wrong != nil {
				t.Fatalf("chain %d, universe %s: %v", chain, u.Name, s.wrong)
			}
			return err
		}
		if err := change(s.table, nil); err != nil {
			t.Fatal(err)
		}
		want := s.table
		for range 3 {
			want = reacting(rng, u, want)
			early := rng.IntN(4) == 0
			_ = change(want, func(_ int, op bool) happening {
				switch swapped := s.table == want; {
				case !op || swapped == early || rng.IntN(3) == 0:
					return nothing
				case rng.IntN(2) == 0:
					return diesFirst
				}
				return happening(rng.IntN(int(late) + 1))
			})
			if s.stale() {
				behind++
			}
		}
		if err := change(want, nil); err != nil {
			t.Fatalf("chain %d: nothing happened, and yet: %v", chain, err)
		}
		if err := s.done(s.moment(), want); err != nil {
			t.Fatalf("chain %d: %v", chain, err)
		}
	}
	if t.Logf("%d began with stale entries; %+v", behind, c); behind <= chains/200 || c.Crashes < chains/4 { // 67 and 510 of 600 on the average
		t.Error("the chains show little")
	}
}

// stale reports whether the device holds an entry that is not right under the table in force.
func (s *system) stale() bool {
	return slices.ContainsFunc(s.held(), func(e flow.Entry) bool {
		if e.Punt() || !offload.Ours(e.ID) {
			return false
		}
		right := s.answering(&e, s.table)
		for w, held := range s.answering(&e, s.was) {
			if held&^right[w] != 0 {
				return true
			}
		}
		return false
	})
}
