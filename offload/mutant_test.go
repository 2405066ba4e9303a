package offload_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// step is one thing that happens: an operation, or the swap.
type step struct {
	op   offload.Op
	swap bool
}

func steps(ops []offload.Op) []step {
	var out []step
	for _, op := range ops {
		out = append(out, step{op: op})
	}
	return out
}

func swap() []step { return []step{{swap: true}} }

func reversed(ops []offload.Op) []offload.Op {
	ops = slices.Clone(ops)
	slices.Reverse(ops)
	return ops
}

func only(ops []offload.Op, keep func(*offload.Op) bool) []offload.Op {
	return slices.DeleteFunc(slices.Clone(ops), func(op offload.Op) bool { return !keep(&op) })
}

// altered returns ops with the entries that they add changed.
func altered(ops []offload.Op, change func(*flow.Entry)) []offload.Op {
	ops = slices.Clone(ops)
	for i := range ops {
		if ops[i].Kind == offload.Add {
			change(&ops[i].Entry)
		}
	}
	return ops
}

// wider takes away the lowest bit that m looks at outside of ports, or the ports.
func wider(m *flow.Match) {
	for w := range m.Mask {
		mask := m.Mask[w]
		if w == 2 {
			mask &^= 1<<32 - 1
		}
		if bit := mask & -mask; bit != 0 {
			m.Mask[w] &^= bit
			m.Value[w] &^= bit
			return
		}
	}
	m.SetPorts(flow.DstPort, 0, 0xffff)
}

// narrower pins one more bit of m.
func narrower(m *flow.Match) {
	for _, f := range []flow.Field{flow.DstLo, flow.SrcLo, flow.TTL, flow.SrcMAC, flow.Proto} {
		if free := f.Max() &^ m.Mask.Get(f); free != 0 {
			m.Pin(f, 0, free&-free)
			return
		}
	}
}

// TestMutants carries plans out in wrong ways, and wrong plans as a broken planner
// would make them, and expects that the harness of TestEveryStep notices each of them,
// soon. The first is no mutant: it is never noticed.
func TestMutants(t *testing.T) {
	us := flowtest.Universes()
	const most = 600 // a mutant is noticed in the 14th round on the average, or sooner
	right := most
	if testing.Short() {
		right = 100
	}
	guard := func(op *offload.Op) bool { return op.Entry.Kind != flow.GuardEntry }
	add := func(op *offload.Op) bool { return op.Kind == offload.Add }
	for _, mutant := range []struct {
		name  string
		order func(p offload.Plan) []step
	}{
		{"", func(p offload.Plan) []step { return slices.Concat(steps(p.Retire), swap(), steps(p.Promote)) }},
		{"swap before retire", func(p offload.Plan) []step { return slices.Concat(swap(), steps(p.Retire), steps(p.Promote)) }},
		{"swap last", func(p offload.Plan) []step { return slices.Concat(steps(p.Retire), steps(p.Promote), swap()) }},
		{"promote before retire", func(p offload.Plan) []step { return slices.Concat(steps(p.Promote), steps(p.Retire), swap()) }},
		{"retire highest first", func(p offload.Plan) []step {
			return slices.Concat(steps(reversed(p.Retire)), swap(), steps(p.Promote))
		}},
		{"promote lowest first", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(reversed(only(p.Promote, add))))
		}},
		{"no guards", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(only(p.Promote, guard)))
		}},
		{"guards asked last", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if e.Punt() {
					e.Priority = 0
				}
			})))
		}},
		{"guards too narrow", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if e.Punt() {
					narrower(&e.Match)
				}
			})))
		}},
		{"rules too wide", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if e.Kind == flow.RuleEntry {
					wider(&e.Match)
				}
			})))
		}},
		{"pieces too wide", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if e.Kind == flow.PieceEntry {
					wider(&e.Match)
				}
			})))
		}},
		{"every rule a piece", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if !e.Punt() {
					e.Priority = 6 << 61
				}
			})))
		}},
		{"the last rule first", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) { e.Priority = ^e.Priority })))
		}},
		{"dropped instead", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) {
				if !e.Punt() {
					e.Actions = flow.Actions{{Op: flow.Drop}}
				}
			})))
		}},
		{"counted for another rule", func(p offload.Plan) []step {
			return slices.Concat(steps(p.Retire), swap(), steps(altered(p.Promote, func(e *flow.Entry) { e.Rule ^= 1 })))
		}},
		{"no retiring", func(p offload.Plan) []step { return slices.Concat(swap(), steps(p.Promote)) }},
		{"flush from the top", func(p offload.Plan) []step {
			all := slices.Clone(p.Entries) // of the plan before, see below
			var flush []offload.Op
			for _, e := range all {
				flush = append(flush, offload.Op{Kind: offload.Remove, Entry: e})
			}
			return slices.Concat(steps(flush), swap())
		}},
	} {
		t.Run(mutant.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(flowtest.Seed(t), 12))
			began := time.Now()
			rounds := most
			if mutant.name == "" {
				rounds = right
			}
			for round := range rounds {
				u := us[rng.IntN(len(us))]
				m := smallModel(rng)
				m.Order, m.Punt = device.Honoured, true
				w := newWorld(u, m, edited(rng, u, u.Table(rng, 10), 6))
				first := plan(w.table, w.table, nil, m, randomTraffic(rng, u, w.table))
				if err := w.follow(steps(first.Promote), nil); err != nil {
					t.Fatalf("the first plan is wrong: %v", err)
				}
				want := nextTable(rng, u, w.table)
				p := plan(w.table, want, w.installed(), m, randomTraffic(rng, u, want))
				if mutant.name == "flush from the top" {
					p.Entries = first.Entries
				}
				err := w.follow(mutant.order(p), want)
				switch {
				case err != nil && mutant.name == "":
					t.Fatalf("round %d: the right order is wrong: %v", round, err)
				case err != nil:
					t.Logf("caught in round %d, after %v: %v", round, time.Since(began), err)
					return
				}
			}
			if mutant.name != "" {
				t.Errorf("not caught in %d rounds", most)
			}
		})
	}
}

// follow takes steps one by one and returns what is wrong after any of them. The
// device may refuse: a mutant may ask for too much.
func (w *world) follow(steps []step, want *flow.Table) error {
	for _, s := range steps {
		if s.swap {
			w.table = want
		} else {
			w.nic.Apply(context.Background(), []offload.Op{s.op})
		}
		if err := w.wrong(); err != nil {
			return err
		}
	}
	return nil
}
