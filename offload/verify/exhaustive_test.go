package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// trial is one table and one device to check.
type trial struct {
	u       *universe
	table   *flow.Table
	entries []flow.Entry
	model   device.Model
}

func (u *universe) actionIndex(a flow.Actions) int { return slices.IndexFunc(u.actions, a.Equal) }

// mayAnswer is the device: the entries that may answer a packet.
func mayAnswer(entries []flow.Entry, m device.Model, k *flow.Key) (out []int) {
	for i := range m.Missed {
		if m.Missed[i].Matches(k) {
			return nil
		}
	}
	for i := range entries {
		if !entries[i].Match.Matches(k) {
			continue
		}
		if m.Order == device.Honoured && len(out) > 0 {
			if top := entries[out[0]].Priority; entries[i].Priority < top {
				continue
			} else if entries[i].Priority > top {
				out = out[:0]
			}
		}
		out = append(out, i)
	}
	return out
}

// verdict is the oracle: how many packets an entry may answer with other emissions
// than the table, and how many for another rule only.
func (t *trial) verdict() (different, misbooked int) {
	act := make([]int, len(t.entries))
	for i, e := range t.entries {
		act[i] = t.u.actionIndex(e.Actions)
	}
	ruleAct := make([]int, t.table.Len()+1)
	for i := range ruleAct {
		ruleAct[i] = t.u.actionIndex(t.table.Rule(i).Actions)
	}
	for n := range t.u.keys {
		k := &t.u.keys[n]
		for _, i := range mayAnswer(t.entries, t.model, k) {
			e := &t.entries[i]
			if e.Punt() {
				continue
			}
			w := t.table.Lookup(k)
			switch {
			case !t.u.same(act[i], ruleAct[w], n):
				different++
			case t.table.Rule(w).ID != e.Rule:
				misbooked++
			}
		}
	}
	return different, misbooked
}

// confirm checks everything that a mismatch says, by the definitions.
func (t *trial) confirm(m *Mismatch) error {
	in := flow.Port(m.Key.Get(flow.InPort))
	k, err := flow.Parse(m.Frame, in)
	if err != nil || k != m.Key {
		return fmt.Errorf("frame %x parses to %x, %v", m.Frame, k, err)
	}
	if w := t.table.Rule(t.table.Lookup(&k)); w != m.Rule {
		return fmt.Errorf("rule %v wins, not %v", w.ID, m.Rule.ID)
	}
	if w := flow.Judge(t.table, m.Frame, in); !flow.SameEmissions(w, m.Want) {
		return fmt.Errorf("the table emits %v, not %v", w, m.Want)
	}
	clear := slices.DeleteFunc(slices.Clone(t.entries), func(e flow.Entry) bool { return newChecker(t.model).takes(&e.Match) != nil })
	if !slices.ContainsFunc(mayAnswer(clear, t.model, &k), func(i int) bool { return clear[i].Equal(&m.Entry) }) {
		return errors.New("the entry does not answer the packet")
	}
	if m.Entry.Punt() {
		return errors.New("the entry punts")
	}
	if g := flow.Act(m.Entry.Actions, t.table.Switch(), m.Entry.Rule, m.Frame, in); !flow.SameEmissions(g, m.Got) {
		return fmt.Errorf("the entry emits %v, not %v", g, m.Got)
	}
	if !m.Differs() && (m.Rule.ID == m.Entry.Rule || !strings.Contains(m.Reason, "the wrong rule would count it")) {
		return errors.New("nothing is wrong with the packet")
	}
	return nil
}

// random returns a table and entries that are mostly right: rules with guards,
// pieces that were tried, and, rarely, anything.
func (u *universe) random(rng *rand.Rand) *trial {
	t := &trial{u: u, model: anyDevice(device.Honoured)}
	if rng.IntN(5) == 0 {
		t.model.Order = device.Undefined
	}
	for range rng.IntN(3) {
		t.model.Missed = append(t.model.Missed, u.match(rng, 0.5))
	}
	spec := flow.TableSpec{Switch: u.sw, Default: u.anyActions(rng)}
	n := 1 + rng.IntN(7)
	for i := range n {
		r := flow.Rule{ID: flow.RuleID(i + 1), Name: fmt.Sprint("r", i+1), Priority: int32(100 - i), Tier: flow.TierTenant,
			Match: u.match(rng, 0.6), Actions: u.anyActions(rng)}
		spec.Rules = append(spec.Rules, r)
		if i > 0 && rng.IntN(8) == 0 { // a tie, which is allowed if both act alike
			spec.Rules[i].Priority = spec.Rules[i-1].Priority
			spec.Rules[i].Actions = spec.Rules[i-1].Actions
		}
	}
	t.table = must(flow.NewTable(spec))
	for i := range n + 1 {
		r := t.table.Rule(i)
		switch rng.IntN(4) {
		case 0:
			t.whole(rng, i, r.Actions)
		case 1, 2:
			for range 1 + rng.IntN(3) {
				t.piece(rng)
			}
		}
	}
	for i := range t.entries {
		t.entries[i].ID = flow.EntryID(i + 1)
	}
	return t
}

func (u *universe) anyActions(rng *rand.Rand) flow.Actions {
	return u.actions[rng.IntN(len(u.actions))]
}

// inDevice are actions that an entry can have.
func inDevice(a flow.Actions) bool {
	op := a.Terminal().Op
	return op != flow.Normal && op != flow.Pass
}

// whole adds rule i, and a guard over each rule asked before it that meets it.
// What is asked earlier gets a higher priority, with room for a guard between.
func (t *trial) whole(rng *rand.Rand, i int, acts flow.Actions) {
	if !inDevice(acts) || t.model.Order != device.Honoured {
		return
	}
	r := t.table.Rule(i)
	prio := uint64(2 * (t.table.Len() - i))
	t.entries = append(t.entries, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: prio, Match: r.Match, Actions: acts})
	for j := range i {
		g := t.table.Rule(j).Match
		if g.Overlaps(&r.Match) {
			if b, ok := new(box), false; rng.IntN(2) == 0 {
				o, _ := newBox(&r.Match)
				if *b, ok = newBox(&g); ok {
					*b, _ = b.and(&o)
					if b.match().Valid() == nil {
						g = *b.match()
					}
				}
			}
			t.entries = append(t.entries, flow.Entry{Kind: flow.GuardEntry, Rule: r.ID, Priority: prio + 1, Match: g})
		}
	}
}

// piece adds a random box if the table gives all of it to one rule, with actions
// that do there what the rule's do.
func (t *trial) piece(rng *rand.Rand) {
	m := t.u.match(rng, 0.8)
	winner := -1
	var held []int
	for n := range t.u.keys {
		if m.Matches(&t.u.keys[n]) {
			w := t.table.Lookup(&t.u.keys[n])
			if winner >= 0 && w != winner {
				return
			}
			winner = w
			held = append(held, n)
		}
	}
	if winner < 0 {
		return
	}
	r := t.table.Rule(winner)
	of := t.u.actionIndex(r.Actions)
	for _, a := range rng.Perm(len(t.u.actions)) {
		if inDevice(t.u.actions[a]) && !slices.ContainsFunc(held, func(n int) bool { return !t.u.same(a, of, n) }) {
			t.entries = append(t.entries, flow.Entry{Kind: flow.PieceEntry, Rule: r.ID,
				Priority: uint64(rng.IntN(20)), Match: m, Actions: t.u.actions[a]})
			return
		}
	}
}

// free returns an ID that no entry has.
func (t *trial) free() flow.EntryID {
	id := flow.EntryID(1)
	for _, e := range t.entries {
		id = max(id, e.ID+1)
	}
	return id
}

// mutate breaks the device in one way, or does no harm.
func (t *trial) mutate(rng *rand.Rand) string {
	if len(t.entries) == 0 {
		t.entries = append(t.entries, flow.Entry{ID: 1, Kind: flow.GuardEntry, Match: t.u.match(rng, 0.5)})
	}
	i := rng.IntN(len(t.entries))
	e := &t.entries[i]
	part := rng.IntN(len(t.u.dims))
	guard := slices.IndexFunc(t.entries, func(e flow.Entry) bool { return e.Punt() })
	switch rng.IntN(12) {
	case 0, 1:
		if guard < 0 {
			guard = i
		}
		t.entries = slices.Delete(t.entries, guard, guard+1)
		return "guard or entry dropped"
	case 2:
		j := rng.IntN(len(t.entries))
		e.Priority, t.entries[j].Priority = t.entries[j].Priority, e.Priority
		return "priorities swapped"
	case 3:
		e.Priority = t.entries[rng.IntN(len(t.entries))].Priority
		return "priorities made equal"
	case 4:
		if a := t.u.anyActions(rng); !e.Punt() && inDevice(a) {
			e.Actions = a
		}
		return "actions changed"
	case 5:
		t.u.ignore(&e.Match, part)
		return "widened"
	case 6, 7:
		t.u.look(rng, &e.Match, part)
		return "part of the match changed"
	case 8:
		e.Rule = t.table.Rule(rng.IntN(t.table.Len() + 1)).ID
		return "booked elsewhere"
	case 9:
		e.Rule = 0xdead
		return "foreign"
	case 10:
		if guard < 0 {
			guard = i
		}
		half := t.entries[guard] // two narrower guards, or one of them
		t.u.look(rng, &t.entries[guard].Match, part)
		if t.u.look(rng, &half.Match, part); rng.IntN(2) == 0 {
			half.ID = t.free()
			t.entries = append(t.entries, half)
		}
		return "guard or entry split"
	default:
		if e.Punt() {
			a := t.u.anyActions(rng)
			if inDevice(a) {
				e.Kind, e.Actions = flow.RuleEntry, a
			}
		} else {
			e.Kind, e.Actions = flow.GuardEntry, nil
		}
		return "guard made a rule, or a rule a guard"
	}
}

// TestExhaustive compares Check with trying every packet, on sound tables and on
// mutants of them, and confirms every packet that Check reports.
func TestExhaustive(t *testing.T) {
	trials := 60_000
	if testing.Short() {
		trials = 5_000
	}
	all := universes()
	count := map[string]int{}
	var sound, different, misbooked, mutants int
	for n := range trials {
		rng := rand.New(rand.NewPCG(uint64(n), 7))
		u := all[n%len(all)]
		x := u.random(rng)
		var how []string
		if n%6 > 0 {
			for range 1 + rng.IntN(2) {
				how = append(how, x.mutate(rng))
			}
		}
		err := Check(x.table, x.entries, x.model)
		diff, booked := x.verdict()
		fail := func(why any) {
			t.Fatalf("trial %d (%s, %v): %v\nchecker: %v\noracle: %d different, %d misbooked", n, u.name, how, why, err, diff, booked)
		}
		var bad *Mismatch
		switch {
		case err == nil && diff+booked > 0:
			fail("missed")
		case err != nil && !errors.As(err, &bad):
			fail("not a mismatch")
		case err != nil && diff+booked == 0:
			fail("false alarm")
		case err != nil:
			if why := x.confirm(bad); why != nil {
				fail(why)
			}
			if diff > 0 && !bad.Differs() {
				fail("there is a packet on which the emissions differ")
			}
		}
		switch {
		case diff > 0:
			different++
		case booked > 0:
			misbooked++
		default:
			sound++
		}
		if len(how) > 0 {
			mutants++
		}
		for _, h := range how {
			if diff+booked > 0 {
				count[h+", unsound"]++
			} else {
				count[h+", sound"]++
			}
		}
	}
	t.Logf("%d trials, %d of them mutants: %d sound, %d with other emissions, %d only misbooked", trials, mutants, sound, different, misbooked)
	for _, u := range all {
		t.Logf("universe %s: %d packets, %d action lists", u.name, len(u.keys), len(u.actions))
	}
	t.Log(count)
}
