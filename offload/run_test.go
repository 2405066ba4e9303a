package offload_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// change runs the change to want on every world and the swap for all of them.
func change(t *testing.T, want *flow.Table, heat offload.Heat, worlds ...*world) (offload.Report, error) {
	var targets []offload.Target
	for i, w := range worlds {
		targets = append(targets, offload.Target{Name: fmt.Sprintf("nic%d", i), Driver: w.nic,
			Plan: offload.NewPlan(w.table, want, w.installed(), w.model, heat)})
	}
	swap := func(next *flow.Table) error {
		for _, w := range worlds {
			w.table = next
		}
		return nil
	}
	return offload.Run(t.Context(), targets, swap, verify.Check)
}

// TestFaults lets operations be refused, go unanswered with and without effect,
// let the device reset, and let the whole thing die at any point, and tries every
// packet after each operation. Then it recovers, and everything is as planned.
func TestFaults(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	rounds := 1500
	if testing.Short() {
		rounds = 100
	}
	us := flowtest.Universes()
	states, aborted, fellShort, died := 0, 0, 0, 0
	for round := range rounds {
		u := us[rng.IntN(len(us))]
		m := smallModel(rng)
		m.Entries += 4
		table := edited(rng, u, u.Table(rng, rng.IntN(10)), 6)
		worlds := []*world{newWorld(u, m, table), newWorld(u, smallModel(rng), table)}
		faulty := false
		for _, w := range worlds {
			w.nic.Fault = func(n int, op *offload.Op) offloadtest.Effect {
				if !faulty || rng.IntN(6) > 0 {
					return offloadtest.Works
				}
				return []offloadtest.Effect{offloadtest.Refuses, offloadtest.Refuses, offloadtest.LostReply, offloadtest.LostOp,
					offloadtest.Resets, offloadtest.Dies}[rng.IntN(6)]
			}
			w.nic.After = func(n int, op *offload.Op) {
				if err := w.wrong(); err != nil {
					t.Fatalf("round %d: after operation %d, %s %016x: %v", round, n, op.Kind, uint64(op.Entry.ID), err)
				}
			}
		}
		for range 3 {
			old, want := worlds[0].table, nextTable(rng, u, worlds[0].table)
			faulty = true
			r, err := change(t, want, randomHeat(rng, want), worlds...)
			faulty = false
			switch {
			case err == nil && worlds[0].table != want, !r.Swapped && worlds[0].table != old:
				t.Fatalf("round %d: swapped %v, %v", round, r.Swapped, err)
			case !r.Swapped:
				aborted++
				if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Remedy == "" {
					t.Fatalf("round %d: aborted without saying what to do: %v", round, err)
				}
			case err != nil:
				fellShort++
			}
			for _, w := range worlds {
				if err := w.wrong(); err != nil {
					t.Fatalf("round %d: after the change: %v", round, err)
				}
				if _, err := w.nic.Installed(t.Context()); err != nil {
					died++
				}
				w.nic.Revive()
			}
			if _, err := change(t, want, nil, worlds...); err != nil {
				t.Fatalf("round %d: recovery: %v", round, err)
			}
			for _, w := range worlds {
				holds(t, w, offload.NewPlan(want, want, w.installed(), w.model, nil))
				if err := verify.Check(want, w.installed(), w.model); err != nil {
					t.Fatalf("round %d: recovered: %v", round, err)
				}
			}
		}
		states += worlds[0].states + worlds[1].states
	}
	t.Logf("%d states; %d changes aborted, %d fell short, %d crashes", states, aborted, fellShort, died)
	if aborted == 0 || fellShort == 0 || died == 0 {
		t.Error("some kind of fault never happened")
	}
}

// allow is a table of two disjoint rules and a guard's reason between them.
func scene(t *testing.T) *world {
	t.Helper()
	u := flowtest.Universes()[0]
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(u, m, table(t, 1, "name=a,priority=9,dst_port=1 actions=pass", "name=b,priority=5,dst_port=0-3 actions=drop",
		"name=c,priority=4,dst_port=8 actions=output:vf0"))
}

// table makes a table of rules in the one-line form.
func table(t *testing.T, generation flow.Generation, lines ...string) *flow.Table {
	t.Helper()
	s := flow.TableSpec{Generation: generation, Default: flow.Actions{{Op: flow.Pass}}, Ports: flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1")}
	var err error
	if s.Switch, err = flow.NewSwitch(1, flow.Station{MAC: 0x02_00_00_00_00_02, Port: 2}, flow.Station{MAC: 0x02_00_00_00_00_03, Port: 3},
		flow.Station{VLAN: 7, MAC: 0x02_00_00_00_00_03, Port: 3}); err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		r, err := flow.ParseRule(l, s.Ports)
		if err != nil {
			t.Fatal(err)
		}
		r.Tier = flow.TierTenant
		s.Rules = append(s.Rules, r)
	}
	made, err := flow.NewTable(s)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestLostRemove has a device say that it removed what it did not: the read-back
// before the swap finds it, and the old generation stays.
func TestLostRemove(t *testing.T) {
	w := scene(t)
	if _, err := change(t, w.table, nil, w); err != nil {
		t.Fatal(err)
	}
	w.nic.Fault = func(n int, op *offload.Op) offloadtest.Effect {
		if op.Kind == offload.Remove {
			return offloadtest.Lies
		}
		return offloadtest.Works
	}
	old := w.table
	want := table(t, 2, "name=a,priority=9,dst_port=1 actions=pass", "name=b,priority=5,dst_port=0-3 actions=output:vf1")
	r, err := change(t, want, nil, w)
	if err == nil || r.Swapped || w.table != old || !strings.Contains(err.Error(), "should not be there") {
		t.Fatalf("swapped %v: %v", r.Swapped, err)
	}
	if err := w.wrong(); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedGuard has a device refuse a guard: the rule that needs it stays out,
// and the placement has the device's words.
func TestRefusedGuard(t *testing.T) {
	w := scene(t)
	w.nic.Fault = func(n int, op *offload.Op) offloadtest.Effect {
		if op.Entry.Kind == flow.GuardEntry {
			return offloadtest.Refuses
		}
		return offloadtest.Works
	}
	w.nic.After = func(int, *offload.Op) {
		if err := w.wrong(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := change(t, w.table, nil, w)
	if err != nil {
		t.Fatal(err)
	}
	b, c := r.Devices[0].Plan.Placements[1], r.Devices[0].Plan.Placements[2]
	if len(b.Entries) != 0 || b.Code != offload.CodeDevice || !strings.Contains(b.Reason, "injected") {
		t.Errorf("rule b: %+v", b)
	}
	if !c.Whole() {
		t.Errorf("rule c, which needs no guard: %+v", c)
	}
}

// TestLearnedCapacity gives a device less room than its model says.
func TestLearnedCapacity(t *testing.T) {
	w := scene(t)
	small := w.model
	small.Entries = 2
	w.nic = offloadtest.New(small)
	r, err := change(t, w.table, offload.Heat{flow.NewRuleID("", "b"): 9}, w)
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Devices[0]; d.Full != 2 || len(d.Installed) != 2 || d.Plan.Placements[2].Code != offload.CodeFull {
		t.Errorf("full %d, %d installed, rule c: %+v", d.Full, len(d.Installed), d.Plan.Placements[2])
	}
}

// TestChecker passes a checker that refuses some entries: they are never put in,
// are taken out where they are, and a checker that refuses everything empties the
// device and stops nothing.
func TestChecker(t *testing.T) {
	w := scene(t)
	if _, err := change(t, w.table, nil, w); err != nil {
		t.Fatal(err)
	}
	refuse := func(rule string) offload.Check {
		return func(want *flow.Table, installed []flow.Entry, m device.Model) error {
			for _, e := range installed {
				if e.Rule == flow.NewRuleID("", rule) && !e.Punt() {
					return culprit(e.ID)
				}
			}
			return nil
		}
	}
	target := func() []offload.Target {
		return []offload.Target{{Name: "nic", Driver: w.nic, Plan: offload.NewPlan(w.table, w.table, w.installed(), w.model, nil)}}
	}
	r, err := offload.Run(t.Context(), target(), nil, refuse("c"))
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Devices[0].Plan.Placements[2]; c.Code != "E_UNPROVEN" || len(c.Entries) > 0 {
		t.Errorf("rule c: %+v", c)
	}
	if r.Swapped || len(r.Devices[0].Removed) != 1 {
		t.Errorf("swapped %v, removed %v", r.Swapped, r.Devices[0].Removed)
	}
	all := func(want *flow.Table, installed []flow.Entry, m device.Model) error {
		if len(installed) > 0 {
			return errors.New("no")
		}
		return nil
	}
	if _, err := offload.Run(t.Context(), target(), nil, all); err != nil || len(w.installed()) != 0 {
		t.Errorf("%v, %d entries left", err, len(w.installed()))
	}
}

type culprit flow.EntryID

func (c culprit) Error() string         { return "refused" }
func (c culprit) Culprit() flow.EntryID { return flow.EntryID(c) }

// TestForeign has a foreign entry overlap rule b: it is never touched, and rule b
// stays in software for as long as it is there.
func TestForeign(t *testing.T) {
	w := scene(t)
	foreign := flow.Entry{ID: 7, Kind: flow.RuleEntry, Priority: 1 << 63, Actions: flow.Actions{{Op: flow.Drop}}}
	foreign.Match.SetPorts(flow.DstPort, 2, 2)
	w.nic.Put(foreign)
	r, err := change(t, w.table, nil, w)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Devices[0].Plan
	if p.Placements[1].Code != "E_FOREIGN" || !p.Placements[2].Whole() || p.Used.Foreign != 1 {
		t.Errorf("%v", p.String())
	}
	if have := w.installed(); len(have) != 2 || !have[0].Equal(&foreign) {
		t.Errorf("installed: %v", have)
	}
	w.nic.Take(7)
	if r, err = change(t, w.table, nil, w); err != nil || !r.Devices[0].Plan.Placements[1].Whole() {
		t.Errorf("%v %v", err, r.Devices[0].Plan.String())
	}
}

// TestDrift alters, loses and adds entries behind the planner's back: the next plan
// puts everything right, taking out first what is wrong.
func TestDrift(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	us := flowtest.Universes()
	for round := range 100 {
		u := us[rng.IntN(len(us))]
		m := smallModel(rng)
		m.Entries += 8
		w := newWorld(u, m, edited(rng, u, u.Table(rng, 8), 5))
		if _, err := change(t, w.table, nil, w); err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(3) {
			have := w.installed()
			if len(have) == 0 {
				break
			}
			e := have[rng.IntN(len(have))]
			switch rng.IntN(4) {
			case 0:
				w.nic.Take(e.ID)
			case 1:
				e.Match = flow.Match{}
				w.nic.Put(e)
			case 2:
				e.Actions = flow.Actions{{Op: flow.Drop}}
				w.nic.Put(e)
			case 3:
				e.ID ^= 1
				e.Priority ^= 1 << 40
				w.nic.Put(e)
			}
		}
		p := offload.NewPlan(w.table, w.table, w.installed(), w.model, nil)
		if _, err := offload.Run(t.Context(), []offload.Target{{Name: "nic", Driver: w.nic, Plan: p}}, nil, verify.Check); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		holds(t, w, p)
		if err := w.wrong(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// TestFinalCounters sums what live and removed entries counted, over changes and
// faults: nothing a device answered is lost.
func TestFinalCounters(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	u := flowtest.Universes()[1]
	m, _ := device.Load("softnic")
	w := newWorld(u, m, u.Table(rng, 10))
	sent, booked := map[flow.RuleID]uint64{}, map[flow.RuleID]uint64{}
	for range 50 {
		r, err := change(t, nextTable(rng, u, w.table), nil, w)
		if err != nil {
			t.Fatal(err)
		}
		for _, gone := range r.Devices[0].Removed {
			booked[gone.Entry.Rule] += gone.Final.Packets
		}
		for range 200 {
			k := u.Key(rng)
			if e, hit := w.nic.Receive(&k, 64); hit {
				sent[e.Rule]++
			}
		}
	}
	counts, err := w.nic.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rules := map[flow.EntryID]flow.RuleID{}
	for _, e := range w.installed() {
		rules[e.ID] = e.Rule
	}
	for _, c := range counts {
		booked[rules[c.Entry]] += c.Packets
	}
	for id, n := range sent {
		if booked[id] != n {
			t.Errorf("rule %x: %d packets, %d counted", id, n, booked[id])
		}
	}
}

// TestSameLevel has two overlapping rules of one priority whose IDs differ too late
// for hardware to order them: the second stays in software, and says why.
func TestSameLevel(t *testing.T) {
	drop := flow.Actions{{Op: flow.Drop}}
	rules := []flow.Rule{{ID: 1, Name: "first", Priority: 5, Actions: drop}, {ID: 2, Name: "second", Priority: 5, Actions: drop}}
	rules[0].Match.SetPorts(flow.DstPort, 0, 9)
	rules[1].Match.SetPorts(flow.DstPort, 5, 20)
	both := flowtest.NewTable(rules, drop)
	p := offload.NewPlan(both, both, nil, shipped(t, "softnic", 0), nil)
	first, second := p.Placements[0], p.Placements[1]
	if !first.Whole() || second.Code != "E_ORDER" || !strings.Contains(second.Reason, "first") || len(second.Entries) > 0 {
		t.Errorf("%s", p.String())
	}
}

// TestManyRefusals has a device refuse, for reasons that its model does not know, more
// entries than one plan has: each round plans without those that were refused and with others
// in their place, and in the end all that it takes are in.
func TestManyRefusals(t *testing.T) {
	var rules []flow.Rule
	for i := range 60 {
		var m flow.Match
		m.Pin(flow.DstLo, uint64(i), 0xffffffff)
		rules = append(rules, flow.Rule{ID: flow.RuleID(i + 1), Name: fmt.Sprint("r", i), Priority: 1, Match: m, Actions: flow.Actions{{Op: flow.Drop}}})
	}
	table := flowtest.NewTable(rules, flow.Actions{{Op: flow.Pass}})
	m := shipped(t, "softnic", 5)
	nic := offloadtest.New(m)
	nic.Fault = func(_ int, op *offload.Op) offloadtest.Effect {
		if op.Kind == offload.Add && op.Entry.Rule <= 40 {
			return offloadtest.Refuses
		}
		return offloadtest.Works
	}
	p := offload.NewPlan(table, table, nil, m, nil)
	r, err := offload.Run(t.Context(), []offload.Target{{Name: "nic", Driver: nic, Plan: p}}, nil, verify.Check)
	if err != nil {
		t.Fatal(err)
	}
	if have := r.Devices[0].Installed; len(have) != 5 {
		t.Errorf("%d entries are in, there is room for 5", len(have))
	}
}
