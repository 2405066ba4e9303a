package offload_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
)

// BenchmarkPlan plans for an empty device, and again for one that lacks one entry,
// at 10 % capacity and with room for everything.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		for _, f := range flowtest.Families() {
			table, heat := generated(b, f, n)
			for _, entries := range []int{n / 10, 2 * n} {
				m := shipped(b, "softnic", entries)
				first := offload.NewPlan(table, table, nil, m, heat)
				b.Run(fmt.Sprintf("%v/%d/entries=%d/first", f, n, entries), func(b *testing.B) {
					for b.Loop() {
						offload.NewPlan(table, table, nil, m, heat)
					}
					b.ReportMetric(float64(len(first.Entries)), "entries")
					b.ReportMetric(float64(first.Used.Guards), "guards")
					b.ReportMetric(hitRate(&first, heat), "hit")
				})
				b.Run(fmt.Sprintf("%v/%d/entries=%d/again", f, n, entries), func(b *testing.B) {
					have := first.Entries[:max(0, len(first.Entries)-1)]
					for b.Loop() {
						offload.NewPlan(table, table, have, m, heat)
					}
				})
			}
		}
	}
}

// BenchmarkPlanner plans one change of ten rules after another, each for a device
// that holds what the last plan says: with room for 10 % of the rules and for all.
// No rule ends in normal, so each takes one entry. It reports processor time, the
// garbage collector's included.
func BenchmarkPlanner(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		for _, f := range flowtest.Families() {
			normal, heat := generated(b, f, n)
			first := delivered(normal)
			second := changed(rand.New(rand.NewPCG(1, 2)), f, first, 10)
			for _, entries := range []int{n / 10, 2 * n} {
				m := shipped(b, "softnic", entries)
				b.Run(fmt.Sprintf("%v/%d/entries=%d", f, n, entries), func(b *testing.B) {
					var p offload.Planner
					old, want := first, second
					have := p.Plan(first, first, nil, m, offload.Traffic{Rules: heat}).Entries
					ops := 0
					used := processor(func() {
						for b.Loop() {
							plan := p.Plan(old, want, have, m, offload.Traffic{Rules: heat})
							old, want, have = want, old, plan.Entries
							ops += len(plan.Retire) + len(plan.Promote)
						}
					})
					b.ReportMetric(used/float64(b.N), "cpu-ms/op")
					b.ReportMetric(float64(len(have)), "entries")
					b.ReportMetric(float64(ops)/float64(b.N), "ops")
				})
			}
		}
	}
}

// delivered returns t with an output in place of each normal.
func delivered(t *flow.Table) *flow.Table {
	var rules []flow.Rule
	for i := range t.Len() {
		r := *t.Rule(i)
		if normal := r.Actions.Terminal().Op == flow.Normal; normal {
			r.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{flow.Port(1 + i%3)}}}
		}
		rules = append(rules, r)
	}
	return flowtest.NewTable(rules, t.Default())
}
