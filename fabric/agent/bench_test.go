package agent

import (
	"context"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// BenchmarkChange is a change of ten rules of a thousand, from the table to the proof,
// without the store.
func BenchmarkChange(b *testing.B) {
	f := &fleet{TB: b, kept: b.TempDir()}
	s := f.simulate("b1", 0)
	wanted := &Handed{}
	s.agent.Source = wanted
	for j := range 1000 {
		s.rules = append(s.rules, f.rule(0, j, 0))
	}
	next := func(n int) {
		for j := range 10 {
			s.rules[j] = f.rule(0, j, n)
		}
		t, err := flow.NewTable(flow.TableSpec{Generation: flow.Generation(n), Rules: s.rules, Ports: testPorts})
		if err != nil {
			b.Fatal(err)
		}
		wanted.Want(t)
		if err := s.agent.Reconcile(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	next(1)
	n := 1
	for b.Loop() {
		n++
		next(n)
	}
}
