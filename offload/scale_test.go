package offload_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// generated is a table of n generated rules and Zipf heat over them in random order.
func generated(tb testing.TB, f flowtest.Family, n int) (*flow.Table, offload.Heat) {
	tb.Helper()
	table := flowtest.NewTable(flowtest.Generate(f, n, 1), flow.Actions{{Op: flow.Drop}})
	heat := offload.Heat{}
	for rank, i := range rand.New(rand.NewPCG(1, 2)).Perm(table.Len()) {
		heat[table.Rule(i).ID] = 1_000_000 / uint64(rank+1)
	}
	return table, heat
}

// shipped is a shipped model with another number of entries.
func shipped(tb testing.TB, name string, entries int) device.Model {
	tb.Helper()
	m, err := device.Load(name)
	if err != nil {
		tb.Fatal(err)
	}
	m.Entries = entries
	return m
}

// hitRate is the share of the heat that rules wholly in hardware have.
func hitRate(p *offload.Plan, heat offload.Heat) float64 {
	var hit, all uint64
	for i := range p.Placements {
		n := heat[p.Placements[i].Rule]
		all += n
		if p.Placements[i].Whole() {
			hit += n
		}
	}
	return float64(hit) / float64(max(1, all))
}

// TestScale has the checker prove plans for generated sets on every shipped model,
// and what is kept of them when the table changes.
func TestScale(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 400
	}
	for _, f := range flowtest.Families() {
		table, heat := generated(t, f, n)
		var rules []flow.Rule
		for i := range table.Len() {
			if i%10 > 0 {
				rules = append(rules, *table.Rule(i))
			}
		}
		next := flowtest.NewTable(rules, flow.Actions{{Op: flow.Drop}})
		for _, name := range device.List() {
			m := shipped(t, name, n/5)
			p := offload.NewPlan(table, table, nil, m, heat)
			if err := verify.Check(table, p.Entries, m); err != nil {
				t.Errorf("%v, %s: %v", f, name, err)
			}
			q := offload.NewPlan(table, next, p.Entries, m, heat)
			kept := slices.DeleteFunc(slices.Clone(p.Entries), func(e flow.Entry) bool {
				return slices.ContainsFunc(q.Retire, func(op offload.Op) bool { return op.Entry.ID == e.ID })
			})
			for _, in := range []*flow.Table{table, next} {
				if err := verify.Check(in, kept, m); err != nil {
					t.Errorf("%v, %s: around the swap: %v", f, name, err)
				}
			}
			if err := verify.Check(next, q.Entries, m); err != nil {
				t.Errorf("%v, %s: %v", f, name, err)
			}
			t.Logf("%v, %s: %+v, %.0f %% of the packets; then %d retired, %d promoted", f, name, p.Used, 100*hitRate(&p, heat), len(q.Retire), len(q.Promote))
		}
	}
}

// TestDeterminism plans the same twice, and with what is installed in another order.
func TestDeterminism(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, f := range flowtest.Families() {
		table, heat := generated(t, f, 600)
		next, _ := generated(t, f, 500)
		m := shipped(t, "softnic", 200)
		have := offload.NewPlan(table, table, nil, m, heat).Entries
		a := offload.NewPlan(table, next, have, m, nil)
		shuffled := slices.Clone(have)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		b := offload.NewPlan(table, next, shuffled, m, nil)
		if a.String() != b.String() || !reflect.DeepEqual(a.Retire, b.Retire) || !reflect.DeepEqual(a.Promote, b.Promote) ||
			!reflect.DeepEqual(a.Entries, b.Entries) || !reflect.DeepEqual(a.Placements, b.Placements) || a.Used != b.Used {
			t.Errorf("%v: two plans of the same differ", f)
		}
		if len(a.Entries) > 200 || len(a.Retire) == 0 {
			t.Errorf("%v: %d entries, %d retired", f, len(a.Entries), len(a.Retire))
		}
	}
}
