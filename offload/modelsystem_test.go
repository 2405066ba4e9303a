package offload_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// The world of the model checker: one device that can fail at any operation, software
// with its table, and all packets of a universe tried on both. modelcheck_test.go says
// what happens in it.

// packets is a set of keys of a universe, by number.
type packets []uint64

func (p packets) add(n int)      { p[n/64] |= 1 << (n % 64) }
func (p packets) has(n int) bool { return p[n/64]>>(n%64)&1 == 1 }

// happening is what goes wrong at one point.
type happening uint8

const (
	nothing   happening = iota
	diesFirst           // the agent dies before
	diesAfter           // and after
	refuses             // from here on as offloadtest.Effect
	lostReply
	lostOp
	resets
	late // no answer, and it happens when the device is next asked for anything else
)

func (h happening) String() string {
	return [...]string{"nothing", "agent dies before", "agent dies after", "refused", "no answer", "lost", "reset", "late"}[h]
}

// crash is the agent's death.
type crash struct{}

// system is one device, software, and what is tried on them. It is the device's
// driver and counts the points at which something can happen.
type system struct {
	*checked
	u     *flowtest.Universe
	model device.Model
	nic   *offloadtest.NIC
	table *flow.Table // in force
	next  *flow.Table // it may become that
	was   *flow.Table // in force before that
	fast  bool        // a device may answer by that, too, until the next one is in force
	batch int         // of one Apply, how many operations may be lost in any way

	point  int                                // counts them
	happen func(point int, op bool) happening // op: at an operation of the device
	late   []offload.Op                       // will be carried out
	empty  bool                               // it was reset since it was restored
	wrong  error                              // the first thing that was

	plans map[string]offload.Plan // of one change, see plan
	seen  map[flow.EntryID]flow.Entry
	holds map[flow.EntryID]packets                 // what entries of ours match
	right map[*flow.Table]map[flow.EntryID]packets // where they answer as the table does
	wins  map[*flow.Table][]int
}

func newSystem(c *checked, u *flowtest.Universe, m device.Model, t *flow.Table) *system {
	c.Universes[u.Name] = len(u.Keys)
	return &system{checked: c, u: u, model: m, nic: offloadtest.New(m), table: t, next: t, was: t, batch: 8,
		seen: map[flow.EntryID]flow.Entry{}, holds: map[flow.EntryID]packets{}, right: map[*flow.Table]map[flow.EntryID]packets{}, wins: map[*flow.Table][]int{}}
}

func (s *system) none() packets { return make(packets, (len(s.u.Keys)+63)/64) }

// matching returns the packets that e matches and the device does not miss.
func (s *system) matching(e *flow.Entry) packets {
	p, known := s.holds[e.ID]
	if !known {
		p = s.none()
		for n := range s.u.Keys {
			k := &s.u.Keys[n]
			if e.Match.Matches(k) && !slices.ContainsFunc(s.model.Missed, func(m flow.Match) bool { return m.Matches(k) }) {
				p.add(n)
			}
		}
		s.holds[e.ID] = p
	}
	return p
}

// answering returns the packets that e may answer under t.
func (s *system) answering(e *flow.Entry, t *flow.Table) packets {
	of := s.right[t]
	if of == nil {
		of = map[flow.EntryID]packets{}
		s.right[t] = of
		for n := range s.u.Keys {
			s.wins[t] = append(s.wins[t], t.Lookup(&s.u.Keys[n]))
		}
	}
	p, known := of[e.ID]
	if known {
		return p
	}
	p = s.none()
	of[e.ID] = p
	held := s.matching(e)
	for n := range s.u.Keys {
		if !held.has(n) {
			continue
		}
		k, r := &s.u.Keys[n], t.Rule(s.wins[t][n])
		if r.ID != e.Rule {
			continue
		}
		if !e.Actions.Equal(r.Actions) || r.Actions.Terminal().Op == flow.Normal {
			frame, err := flow.Frame(*k, nil)
			if err != nil {
				panic(err)
			}
			in := flow.Port(k.Get(flow.InPort))
			if !flow.SameEmissions(flow.Judge(t, frame, in), flow.Act(e.Actions, t.Switch(), e.Rule, frame, in)) {
				continue
			}
		}
		p.add(n)
	}
	return p
}

// try tries all packets on a device that holds these entries.
func (s *system) try(entries []flow.Entry) {
	s.States++
	s.Entries += len(entries)
	asked := make([]*flow.Entry, len(entries))
	for i := range entries {
		asked[i] = &entries[i]
	}
	honoured := s.model.Order == device.Honoured
	if honoured {
		slices.SortFunc(asked, func(a, b *flow.Entry) int { return cmp.Compare(b.Priority, a.Priority) })
	}
	taken, level := s.none(), s.none()
	for i, e := range asked {
		if honoured && i > 0 && e.Priority != asked[i-1].Priority {
			for w := range taken {
				taken[w] |= level[w]
			}
		}
		held := s.matching(e)
		if !e.Punt() && offload.Ours(e.ID) {
			now, then := s.answering(e, s.table), s.answering(e, s.next)
			lag := s.none()
			if s.fast {
				lag = s.answering(e, s.was)
			}
			for w := range held {
				if answers := held[w] &^ taken[w] &^ lag[w]; answers&^now[w] != 0 {
					s.Unsound++
					if answers&^now[w]&^then[w] != 0 {
						s.Neither++
					}
					if s.wrong == nil {
						s.wrong = fmt.Errorf("entry %016x (%s of %x) answers what it should not", uint64(e.ID), e.Kind, e.Rule)
					}
					return
				}
			}
		}
		for w := range held {
			level[w] |= held[w]
		}
	}
}

// held returns what the device holds, without reading it back: that would end the
// silence after a reset.
func (s *system) held() (out []flow.Entry) {
	counts, err := s.nic.Counters(context.Background())
	if err != nil {
		panic(err)
	}
	for _, c := range counts {
		out = append(out, s.seen[c.Entry])
	}
	return out
}

// here is a point at which something may happen.
func (s *system) here(op bool) happening {
	h := nothing
	if s.happen != nil {
		h = s.happen(s.point, op)
	}
	s.point++
	if h != nothing {
		s.Faults[h.String()]++
	}
	if h == diesFirst {
		panic(crash{})
	}
	return h
}

// settle carries out what is late.
func (s *system) settle() {
	ops := s.late
	s.late = nil
	for i := range ops {
		s.nic.Apply(context.Background(), ops[i:i+1])
		s.try(s.held())
	}
}

// Model is an offload.Driver's.
func (s *system) Model(ctx context.Context) (device.Model, error) { return s.nic.Model(ctx) }

// Installed is an offload.Driver's. What was late has happened by then.
func (s *system) Installed(ctx context.Context) ([]flow.Entry, error) {
	h := s.here(false)
	s.settle()
	out, err := s.nic.Installed(ctx)
	if h == diesAfter {
		panic(crash{})
	}
	return out, err
}

// Apply is an offload.Driver's.
func (s *system) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	for _, op := range ops {
		s.seen[op.Entry.ID] = op.Entry
	}
	s.lose(ops)
	var out []offload.Outcome
	for i := range ops {
		h := s.here(true)
		effect := offloadtest.Works
		switch h {
		case refuses:
			effect = offloadtest.Refuses
		case lostReply:
			effect = offloadtest.LostReply
		case lostOp:
			effect = offloadtest.LostOp
		case resets:
			effect, s.empty = offloadtest.Resets, true
		case late:
			s.late = append(s.late, ops[i])
			effect = offloadtest.LostOp
		}
		s.nic.Fault = func(int, *offload.Op) offloadtest.Effect { return effect }
		out = append(out, s.nic.Apply(ctx, ops[i:i+1])...)
		s.nic.Fault = nil
		s.try(s.held())
		if h == diesAfter {
			panic(crash{})
		}
	}
	return out
}

// lose tries what the device would hold if any part of ops were lost: every part of
// the first few, and all of the others.
func (s *system) lose(ops []offload.Op) {
	have := s.held()
	n := min(len(ops), s.batch)
	for lost := range 1<<n - 1 { // if none is lost it will be tried anyway
		held := slices.Clone(have)
		for i := range n {
			if lost>>i&1 == 1 {
				continue
			}
			e := &ops[i].Entry
			same := func(o flow.Entry) bool { return o.ID == e.ID }
			switch there := slices.ContainsFunc(held, same); {
			case ops[i].Kind == offload.Remove:
				held = slices.DeleteFunc(held, same)
			case !there && s.room(held, e):
				held = append(held, *e)
			}
		}
		s.try(held)
	}
}

// room reports whether the device has room for one more entry.
func (s *system) room(held []flow.Entry, e *flow.Entry) bool {
	return s.model.Entries == 0 || len(held) < s.model.Entries
}

// Barrier is an offload.Driver's. What was late has happened by then.
func (s *system) Barrier(ctx context.Context) error {
	h := s.here(false)
	s.settle()
	if h == diesAfter {
		panic(crash{})
	}
	return s.nic.Barrier(ctx)
}

// Counters is an offload.Driver's.
func (s *system) Counters(ctx context.Context) ([]offload.Count, error) { return s.nic.Counters(ctx) }

// swap makes t the table in force, for good: it is written down first.
func (s *system) swap(t *flow.Table) error {
	h := s.here(false)
	if t != s.table {
		s.was, s.table = s.table, t
	}
	s.try(s.held())
	if h == diesAfter {
		panic(crash{})
	}
	return nil
}

// run makes the change to want as an agent does that was just started: it reads the
// device, plans, and runs. It returns false if the agent died.
func (s *system) run(want *flow.Table, t offload.Traffic, check offload.Check) (alive bool, err error) {
	s.Runs++
	s.next = want
	defer func() {
		if d := recover(); d != nil {
			if _, is := d.(crash); !is {
				panic(d)
			}
			s.Crashes++
			alive, err = false, nil
		}
	}()
	installed, err := s.Installed(context.Background())
	if err != nil {
		return true, err
	}
	target := offload.Target{Name: "nic", Driver: s, Plan: s.plan(want, installed, t)}
	r, err := offload.Run(context.Background(), []offload.Target{target}, s.swap, check)
	if r.Swapped {
		s.Swapped++
	} else {
		s.Aborted++
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Remedy == "" {
			s.wrong = cmp.Or(s.wrong, fmt.Errorf("aborted without saying what to do: %w", err))
		}
	}
	return true, err
}

// plan plans the change. Most runs of one change have the same dump somewhere, and
// planning, which is pure, would take most of the time.
func (s *system) plan(want *flow.Table, installed []flow.Entry, t offload.Traffic) offload.Plan {
	var same strings.Builder
	fmt.Fprintf(&same, "%p", s.table)
	for i := range installed {
		fmt.Fprintf(&same, " %x", uint64(installed[i].ID))
	}
	p, known := s.plans[same.String()]
	if !known {
		planner := offload.Planner{Fast: s.fast}
		p = planner.Plan(s.table, want, installed, s.model, t)
		s.Stayed += len(p.Stale)
		s.plans[same.String()] = p
	}
	return p
}
