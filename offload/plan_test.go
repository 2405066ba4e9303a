package offload_test

import (
	"context"
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

// world is one device, the software table in force, and a small universe in which
// every packet is tried after every single operation.
type world struct {
	u      *flowtest.Universe
	nic    *offloadtest.NIC
	model  device.Model
	table  *flow.Table // in force
	states int         // in which every packet was tried
	hits   int         // packets, over all states, that hardware answered
}

func newWorld(u *flowtest.Universe, m device.Model, t *flow.Table) *world {
	return &world{u: u, nic: offloadtest.New(m), model: m, table: t}
}

// wrong tries every packet and returns what is wrong with one, or nil: what the
// device may answer has to be a punt or what the table in force says, byte for byte
// and booked to the rule that wins.
func (w *world) wrong() error {
	w.states++
	for i := range w.u.Keys {
		k := &w.u.Keys[i]
		answers := w.nic.Answers(k)
		if len(answers) == 0 {
			continue
		}
		winner := w.table.Rule(w.table.Lookup(k))
		in := flow.Port(k.Get(flow.InPort))
		for _, e := range answers {
			if e.Punt() {
				continue
			}
			w.hits++
			if e.Rule != winner.ID {
				return fmt.Errorf("packet %x: entry %016x (%s of %x, priority %x) answers, rule %s wins", *k, uint64(e.ID), e.Kind, e.Rule, e.Priority, winner.Name)
			}
			if e.Actions.Equal(winner.Actions) && winner.Actions.Terminal().Op != flow.Normal {
				continue
			}
			frame, err := flow.Frame(*k, []byte("payload"))
			if err != nil {
				return err
			}
			want, got := flow.Judge(w.table, frame, in), flow.Act(e.Actions, w.table.Switch(), e.Rule, frame, in)
			if !flow.SameEmissions(want, got) {
				return fmt.Errorf("packet %x: entry %016x sends %v, rule %s sends %v", *k, uint64(e.ID), got, winner.Name, want)
			}
		}
	}
	return nil
}

func (w *world) installed() []flow.Entry {
	e, err := w.nic.Installed(context.Background())
	if err != nil {
		panic(err)
	}
	return e
}

// smallModel is a random device that universes can exercise.
func smallModel(rng *rand.Rand) device.Model {
	m, err := device.Load([]string{"softnic", "softnic", "hash64", "flat1k"}[rng.IntN(4)])
	if err != nil {
		panic(err)
	}
	m.Entries = rng.IntN(14)
	if rng.IntN(3) == 0 {
		m.Order = []device.Order{device.Undefined, device.Constant}[rng.IntN(2)]
	}
	m.Punt = m.Punt || rng.IntN(2) == 0
	m.Ranges = m.Ranges && rng.IntN(3) > 0
	if m.Masks > 0 {
		m.Masks = 1 + rng.IntN(4)
	}
	if m.Priorities > 0 {
		m.Priorities = 1 + rng.IntN(5)
	}
	if rng.IntN(6) == 0 {
		m.Counted = 1 + rng.IntN(5)
	}
	if m.Fields[device.EthType] != device.No && m.Fields[device.Proto] != device.No {
		if rng.IntN(6) == 0 {
			m.Needs = []device.Part{device.EthType, device.Proto}
		}
		if rng.IntN(4) == 0 {
			m.MasksPer = []device.Part{device.EthType, device.Proto}
		}
		if rng.IntN(6) == 0 {
			m.Protocols = []uint8{flow.ProtoTCP, flow.ProtoUDP}
		}
	}
	if rng.IntN(5) == 0 {
		m.Ports = []flow.Port{1, 3}
	}
	for p := range m.Fields { // some cards know less
		if rng.IntN(12) == 0 {
			m.Fields[p] = device.How(rng.IntN(int(m.Fields[p]) + 1))
		}
	}
	return m
}

// randomHeat is heat as it is in life: many rules cold, some hot.
func randomHeat(rng *rand.Rand, t *flow.Table) offload.Heat {
	if rng.IntN(3) == 0 {
		return nil
	}
	h := offload.Heat{}
	for i := range t.Len() + 1 {
		if rng.IntN(3) > 0 {
			h[t.Rule(i).ID] = uint64(rng.IntN(1000))
		}
	}
	return h
}

// randomTraffic is heat, and as a rule flows, now and then booked to a wrong rule.
func randomTraffic(rng *rand.Rand, u *flowtest.Universe, t *flow.Table) offload.Traffic {
	out := offload.Traffic{Rules: randomHeat(rng, t)}
	for range rng.IntN(3) * rng.IntN(12) {
		k := u.Key(rng)
		rule := t.Rule(t.Lookup(&k)).ID
		if rng.IntN(10) == 0 {
			rule = t.Rule(rng.IntN(t.Len() + 1)).ID
		}
		out.Flows = append(out.Flows, offload.Flow{Key: k, Rule: rule, Packets: uint64(rng.IntN(1000))})
	}
	return out
}

// plan is NewPlan for traffic.
func plan(old, want *flow.Table, installed []flow.Entry, m device.Model, t offload.Traffic) offload.Plan {
	return new(offload.Planner).Plan(old, want, installed, m, t)
}

// nextTable is one or several edits from t, or unrelated to it.
func nextTable(rng *rand.Rand, u *flowtest.Universe, t *flow.Table) *flow.Table {
	switch rng.IntN(4) {
	case 0:
		return edited(rng, u, u.Table(rng, rng.IntN(10)), 3)
	case 1:
		return t
	}
	return edited(rng, u, t, 1+rng.IntN(4))
}

// edited returns t after n random edits of rules, priorities shared by several of
// them among it, of the default and of the switch. What would be a tie is left out.
func edited(rng *rand.Rand, u *flowtest.Universe, t *flow.Table, n int) *flow.Table {
	for range n {
		s := flow.TableSpec{Generation: t.Generation() + 1, Default: t.Default(), Switch: t.Switch(), Ports: t.Ports()}
		for i := range t.Len() {
			s.Rules = append(s.Rules, *t.Rule(i))
		}
		other := u.Table(rng, 1)
		fresh := *other.Rule(0)
		fresh.Name = fmt.Sprintf("g%d/%x", s.Generation, rng.Uint32())
		fresh.ID = flow.NewRuleID("edited", fresh.Name)
		fresh.Priority = int32(rng.IntN(10))
		at := rng.IntN(len(s.Rules) + 1)
		choice := rng.IntN(7)
		switch {
		case choice == 0:
			s.Default = other.Default()
		case choice == 1 && rng.IntN(3) == 0:
			sw, err := flow.NewSwitch(t.Switch().Uplink(), flow.Station{MAC: 2<<40 | 3, Port: flow.Port(1 + rng.IntN(3))})
			if err != nil {
				panic(err)
			}
			s.Switch = sw
		case at == len(s.Rules):
			s.Rules = append(s.Rules, fresh)
		case choice == 2:
			s.Rules = slices.Delete(s.Rules, at, at+1)
		case choice == 3:
			s.Rules[at].Actions = fresh.Actions
		case choice == 4:
			s.Rules[at].Match = fresh.Match
		case choice == 5:
			s.Rules[at].Priority = fresh.Priority
		default:
			from := s.Rules[rng.IntN(len(s.Rules))]
			s.Rules[at].Priority, s.Rules[at].Actions = from.Priority, from.Actions
		}
		if next, err := flow.NewTable(s); err == nil {
			t = next
		}
	}
	return t
}

// TestEveryStep tries every packet after every single operation of random plans on
// a device that works, and holds the plan to what it says of itself.
func TestEveryStep(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	states, hits, kept, ops := 0, 0, 0, 0
	us := flowtest.Universes()
	for round := range rounds {
		u := us[rng.IntN(len(us))]
		w := newWorld(u, smallModel(rng), edited(rng, u, u.Table(rng, rng.IntN(10)), 6))
		for range 3 {
			want := nextTable(rng, u, w.table)
			traffic := randomTraffic(rng, u, want)
			before := w.installed()
			p := plan(w.table, want, before, w.model, traffic)
			kept += len(before) - len(p.Retire)
			ops += len(p.Retire) + len(p.Promote)
			step := func(op offload.Op) {
				t.Helper()
				if out := w.nic.Apply(t.Context(), []offload.Op{op}); out[0].Status != offload.Done {
					t.Fatalf("round %d: %s %+v: %+v", round, op.Kind, op.Entry, out[0])
				}
				if err := w.wrong(); err != nil {
					t.Fatalf("round %d: after %s of %016x: %v", round, op.Kind, uint64(op.Entry.ID), err)
				}
			}
			for _, op := range p.Retire {
				step(op)
			}
			if err := verify.Check(w.table, w.installed(), w.model); err != nil {
				t.Fatalf("round %d: retired, old table: %v", round, err)
			}
			w.table = want
			if err := w.wrong(); err != nil {
				t.Fatalf("round %d: after the swap: %v", round, err)
			}
			for _, op := range p.Promote {
				step(op)
			}
			holds(t, w, p)
			if err := verify.Check(want, w.installed(), w.model); err != nil {
				t.Fatalf("round %d: promoted: %v", round, err)
			}
			again := plan(want, want, w.installed(), w.model, traffic)
			if len(again.Retire)+len(again.Promote) > 0 {
				t.Fatalf("round %d: a device as planned needs more:\n%s", round, again.String())
			}
		}
		states += w.states
		hits += w.hits
	}
	t.Logf("%d states, %d packets answered by hardware, %d operations, %d entries left untouched", states, hits, ops, kept)
}

// holds checks that the device holds what the plan says, and that the plan says
// something of every rule.
func holds(t *testing.T, w *world, p offload.Plan) {
	t.Helper()
	have := w.installed()
	byID := func(a, b flow.Entry) int { return int(int64(a.ID>>1) - int64(b.ID>>1)) }
	slices.SortFunc(have, byID)
	want := slices.Clone(p.Entries)
	slices.SortFunc(want, byID)
	if !slices.EqualFunc(have, want, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		t.Fatalf("device holds %v, plan says %v", have, want)
	}
	if len(p.Placements) != w.table.Len()+1 {
		t.Fatalf("%d placements for %d rules", len(p.Placements), w.table.Len())
	}
	for i, pl := range p.Placements {
		if pl.Rule != w.table.Rule(i).ID || len(pl.Entries) == 0 && pl.Whole() {
			t.Fatalf("placement %d: %+v", i, pl)
		}
		if !pl.Whole() && (pl.Reason == "" || pl.Fix == "") {
			t.Fatalf("placement %d has a code and no words: %+v", i, pl)
		}
	}
}
