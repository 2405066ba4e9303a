package offload_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// The model checker of the update protocol. It takes one device and software through
// random changes in a small universe, by [offload.Run] itself, and for every change
//
//   - lets it go well,
//   - lets the agent die at each point where it deals with the device or swaps, before
//     and after that, and start again from what the device holds,
//   - lets each single operation be refused, be lost, be carried out without an
//     answer, be carried out late, and the device reset at it,
//   - and lets several of these happen at random, during the recovery too;
//
// each from the same beginning. After every operation it tries all packets of the
// universe on what the device holds, and before every Apply on what it would hold if
// any part of its operations were lost: no entry may answer a packet otherwise than
// the table in force says, so no packet gets a verdict that is neither the old one
// nor the new one. One system in three changes in the fast mode, in which an entry may
// also answer as the table before did, until the change is done. A state is one content of the device under one table in force
// with all packets tried on it; contents that come again are counted again.
//
// Sets of packets are bit sets, made once for each entry and table by the definitions
// (Match.Matches, Table.Lookup, flow.Act): that makes a state a matter of a microsecond.

// checked counts what a model checker did.
type checked struct {
	States    int            `json:"states"`
	Changes   int            `json:"changes"`
	Runs      int            `json:"runs"`
	Swapped   int            `json:"runs_that_swapped"`
	Aborted   int            `json:"runs_that_kept_the_old_generation"`
	Crashes   int            `json:"crashes"`
	Faults    map[string]int `json:"faults"`
	Neither   int            `json:"states_with_a_verdict_neither_old_nor_new"`
	Unsound   int            `json:"unsound_states"`
	Entries   int            `json:"entries_in_all_states"`
	Stayed    int            `json:"entries_that_stayed_in_the_fast_mode"`
	Universes map[string]int `json:"packets_of_universes"`
}

func (c *checked) sum(o *checked) {
	c.States, c.Changes, c.Runs, c.Entries = c.States+o.States, c.Changes+o.Changes, c.Runs+o.Runs, c.Entries+o.Entries
	c.Swapped, c.Aborted, c.Crashes = c.Swapped+o.Swapped, c.Aborted+o.Aborted, c.Crashes+o.Crashes
	c.Neither, c.Unsound, c.Stayed = c.Neither+o.Neither, c.Unsound+o.Unsound, c.Stayed+o.Stayed
	for f, n := range o.Faults {
		c.Faults[f] += n
	}
	maps.Copy(c.Universes, o.Universes)
}

// moment is where runs start from.
type moment struct {
	table   *flow.Table
	entries []flow.Entry
}

func (s *system) moment() moment { return moment{s.table, s.held()} }

func (s *system) restore(m moment) {
	s.table, s.next, s.was, s.late, s.point, s.empty = m.table, m.table, m.table, nil, 0, false
	s.nic = offloadtest.New(s.model)
	for _, e := range m.entries {
		s.put(e)
	}
}

// put puts an entry into the device behind everybody's back.
func (s *system) put(e flow.Entry) {
	s.nic.Put(e)
	s.seen[e.ID] = e
}

// attempt runs the change to want from m with what happens, and then again, until
// nothing happens any more and it has to succeed.
func (s *system) attempt(m moment, want *flow.Table, t offload.Traffic, check offload.Check, happen func(point int, op bool) happening) error {
	s.restore(m)
	s.happen = happen
	for n := 0; ; n++ {
		alive, err := s.run(want, t, check)
		if s.wrong != nil {
			return s.wrong
		}
		calm := s.happen == nil
		if calm && (!alive || err != nil) {
			return fmt.Errorf("nothing happened, and yet: %w", err)
		}
		if calm || alive && err == nil {
			return s.done(m, want)
		}
		if n == 1 {
			s.happen = nil
		}
	}
}

// done checks how a change has ended.
func (s *system) done(m moment, want *flow.Table) error {
	ours, foreign := apart(s.held())
	_, there := apart(m.entries)
	if s.empty {
		there = nil
	}
	switch {
	case s.table != want:
		return errors.New("a change that succeeded did not swap")
	case !slices.EqualFunc(foreign, there, func(a, b flow.Entry) bool { return a.Equal(&b) }):
		return errors.New("a foreign entry was touched")
	}
	for i := range ours {
		for j := range foreign {
			if ours[i].Match.Overlaps(&foreign[j].Match) {
				return fmt.Errorf("entry %016x overlaps a foreign one", uint64(ours[i].ID))
			}
		}
	}
	return verify.Check(want, ours, s.model)
}

// apart divides entries into ours and foreign ones.
func apart(entries []flow.Entry) (ours, foreign []flow.Entry) {
	for _, e := range entries {
		if offload.Ours(e.ID) {
			ours = append(ours, e)
		} else {
			foreign = append(foreign, e)
		}
	}
	return ours, foreign
}

// explore makes one change in every way that the head of this file lists, and then
// leaves the system after one of them.
func (s *system) explore(rng *rand.Rand, want *flow.Table) error {
	s.Changes++
	s.plans = map[string]offload.Plan{}
	clear(s.right)
	clear(s.wins)
	clear(s.holds)
	check := new(verify.Prover).Check
	from, heat := s.moment(), randomTraffic(rng, s.u, want)
	try := func(what string, happen func(point int, op bool) happening) error {
		if err := s.attempt(from, want, heat, check, happen); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	ops := []bool{}
	if err := try("all goes well", func(_ int, op bool) happening { ops = append(ops, op); return nothing }); err != nil {
		return err
	}
	for at, isOp := range ops {
		kinds := []happening{diesFirst, diesAfter}
		if isOp {
			kinds = append(kinds, refuses, lostReply, lostOp, resets, late)
		}
		for _, h := range kinds {
			if err := try(fmt.Sprintf("%v at point %d", h, at), func(point int, _ bool) happening {
				if point == at {
					return h
				}
				return nothing
			}); err != nil {
				return err
			}
		}
	}
	for range 6 {
		often := 2 + rng.IntN(12)
		if err := try("several faults", func(_ int, op bool) happening {
			switch {
			case rng.IntN(often) > 0:
				return nothing
			case op:
				return happening(rng.IntN(int(late) + 1))
			}
			return happening(rng.IntN(int(diesAfter) + 1))
		}); err != nil {
			return err
		}
	}
	return nil
}

// walk takes systems through changes until it has seen enough.
func (c *checked) walk(rng *rand.Rand, enough func() bool) error {
	us := flowtest.Universes()
	for !enough() {
		u := us[rng.IntN(len(us))]
		m := smallModel(rng)
		m.Entries += 4 + rng.IntN(12)
		s := newSystem(c, u, m, edited(rng, u, u.Table(rng, 2+rng.IntN(9)), 4))
		s.fast = rng.IntN(3) == 0
		for range 4 {
			if rng.IntN(4) == 0 { // another program's
				s.put(flow.Entry{ID: flow.EntryID(rng.IntN(3)), Kind: flow.EntryKind(rng.IntN(2)), Priority: rng.Uint64(), Match: u.Match(rng)})
			}
			next := nextTable(rng, u, s.table)
			if s.fast && rng.IntN(4) > 0 {
				next = reacting(rng, u, s.table)
			}
			if err := s.explore(rng, next); err != nil {
				return fmt.Errorf("universe %s, %d changes: %w", u.Name, c.Changes, err)
			}
		}
	}
	return nil
}

// reacting returns t with other actions of some rules, and now and then another edit: what
// the fast mode is for.
func reacting(rng *rand.Rand, u *flowtest.Universe, t *flow.Table) *flow.Table {
	s := flow.TableSpec{Generation: t.Generation() + 1, Default: t.Default(), Switch: t.Switch(), Ports: t.Ports()}
	for i := range t.Len() + 1 {
		r := *t.Rule(i)
		if rng.IntN(3) == 0 {
			r.Actions = u.Table(rng, 1).Rule(0).Actions
		}
		if i == t.Len() {
			s.Default = r.Actions
		} else {
			s.Rules = append(s.Rules, r)
		}
	}
	next, err := flow.NewTable(s)
	if err != nil {
		return t // a tie
	}
	return edited(rng, u, next, max(0, rng.IntN(4)-2))
}

// TestModelCheck looks at ten million states; `make long-modelcheck` at a hundred, and
// `make modelcheck T=1h` for as long as it is told to.
func TestModelCheck(t *testing.T) {
	seed, began := flowtest.Seed(t), time.Now()
	most := 10_000_000
	if testing.Short() {
		most = 200_000
	}
	states := flowtest.Count(t, "BLADEFLOW_STATES", most)
	var end time.Time
	if d := os.Getenv("BLADEFLOW_MODELCHECK"); d != "" {
		long, err := time.ParseDuration(d)
		if err != nil {
			t.Fatal(err)
		}
		end = began.Add(long)
	}
	workers := runtime.GOMAXPROCS(0)
	all := make([]checked, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			c := &all[w]
			*c = checked{Faults: map[string]int{}, Universes: map[string]int{}}
			errs[w] = c.walk(rand.New(rand.NewPCG(seed, uint64(w))), func() bool {
				if !end.IsZero() {
					return time.Now().After(end)
				}
				return c.States*workers >= states
			})
		})
	}
	wg.Wait()
	c := checked{Faults: map[string]int{}, Universes: map[string]int{}}
	for w := range workers {
		c.sum(&all[w])
	}
	t.Logf("%+v", c)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if c.Stayed == 0 && !testing.Short() {
		t.Error("no entry ever stayed in the fast mode")
	}
	if c.Aborted == 0 || c.Crashes == 0 || len(c.Faults) != int(late) {
		t.Error("some kind of fault never happened")
	}
	if states > most {
		flowtest.Record(t, "modelcheck", seed, began, c)
	}
}

// TestModelCheckMutants makes changes in the three orders that look natural and are
// wrong, with nothing going amiss: the model checker has to find each at once.
func TestModelCheckMutants(t *testing.T) {
	seed := flowtest.Seed(t)
	type steps struct{ adds, removes, all, wanted []offload.Op }
	for name, order := range map[string]func(s *system, to *flow.Table, x steps){
		"swap, add, remove": func(s *system, to *flow.Table, x steps) { s.swap(to); s.each(x.adds); s.each(x.removes) },
		"remove, add, swap": func(s *system, to *flow.Table, x steps) { s.each(x.removes); s.each(x.adds); s.swap(to) },
		"flush, swap, add":  func(s *system, to *flow.Table, x steps) { s.each(x.all); s.swap(to); s.each(x.wanted) },
	} {
		t.Run(name, func(t *testing.T) {
			c := &checked{Faults: map[string]int{}, Universes: map[string]int{}}
			rng := rand.New(rand.NewPCG(seed, 1))
			us := flowtest.Universes()
			for c.Changes < 2000 {
				u, m := us[rng.IntN(len(us))], smallModel(rng)
				m.Order, m.Punt, m.Entries = device.Honoured, true, 0
				s := newSystem(c, u, m, edited(rng, u, u.Table(rng, 8), 4))
				for _, e := range plan(s.table, s.table, nil, m, randomTraffic(rng, u, s.table)).Entries {
					s.put(e)
				}
				for range 4 {
					c.Changes++
					s.next = nextTable(rng, u, s.table)
					have := s.held()
					p := plan(s.table, s.next, have, m, randomTraffic(rng, u, s.next))
					var x steps
					x.wanted = operations(offload.Add, p.Entries)
					x.all = operations(offload.Remove, have)
					slices.SortFunc(x.all, func(a, b offload.Op) int { return cmp.Compare(b.Entry.Priority, a.Entry.Priority) })
					x.adds = operations(offload.Add, without(p.Entries, have))
					x.removes = operations(offload.Remove, without(have, p.Entries))
					order(s, s.next, x)
				}
				if c.Neither > 0 {
					t.Logf("%d changes, %d states: %v; %d states unsound, %d of them with a verdict that is neither the old nor the new one", c.Changes, c.States, s.wrong, c.Unsound, c.Neither)
					return
				}
			}
			t.Errorf("not found in %d changes and %d states", c.Changes, c.States)
		})
	}
}

// each carries out operations one by one.
func (s *system) each(ops []offload.Op) {
	for i := range ops {
		s.Apply(context.Background(), ops[i:i+1])
	}
}

func operations(kind offload.OpKind, entries []flow.Entry) (ops []offload.Op) {
	for _, e := range entries {
		ops = append(ops, offload.Op{Kind: kind, Entry: e})
	}
	return ops
}

// without returns the entries of a that are not in b.
func without(a, b []flow.Entry) []flow.Entry {
	return slices.DeleteFunc(slices.Clone(a), func(e flow.Entry) bool {
		return slices.ContainsFunc(b, func(o flow.Entry) bool { return o.ID == e.ID })
	})
}
