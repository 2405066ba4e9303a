package offload_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// samePlan fails the test if a planner's plan is not NewPlan's.
func samePlan(t *testing.T, got, want *offload.Plan) {
	t.Helper()
	for _, x := range []struct {
		name      string
		got, want any
	}{{"retire", got.Retire, want.Retire}, {"promote", got.Promote, want.Promote}, {"entries", got.Entries, want.Entries},
		{"foreign", got.Foreign, want.Foreign}, {"placements", got.Placements, want.Placements}, {"used", got.Used, want.Used}} {
		if !reflect.DeepEqual(x.got, x.want) {
			t.Fatalf("%s: %+v\nNewPlan says %+v", x.name, x.got, x.want)
		}
	}
}

// TestPlanner takes planners through random histories and compares each plan with
// NewPlan's: edits of rules, default and switch, a heat that changes, devices that
// lose, alter and gain entries, changes that are given up, and now and then another
// model or a table out of the blue.
func TestPlanner(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	us := flowtest.Universes()
	for range rounds {
		u := us[rng.IntN(len(us))]
		var planner offload.Planner
		m, table := smallModel(rng), edited(rng, u, u.Table(rng, rng.IntN(20)), 6)
		var installed []flow.Entry
		for range 12 {
			want := nextTable(rng, u, table)
			if rng.IntN(20) == 0 {
				m = smallModel(rng)
			}
			if rng.IntN(10) == 0 {
				m.Entries = rng.IntN(14)
			}
			traffic := randomTraffic(rng, u, want)
			if rng.IntN(4) == 0 {
				traffic.Budget = 1 + rng.IntN(4)
			}
			got, clean := planner.Plan(table, want, installed, m, traffic), plan(table, want, installed, m, traffic)
			samePlan(t, &got, &clean)
			if wrong := planner.Stale(); wrong != "" {
				t.Fatal(wrong)
			}
			if rng.IntN(8) == 0 {
				continue // given up
			}
			table, installed = want, spoiled(rng, u, clean.Entries)
		}
	}
}

// spoiled is what a device is found to hold later: as a rule what it should.
func spoiled(rng *rand.Rand, u *flowtest.Universe, entries []flow.Entry) []flow.Entry {
	out := slices.Clone(entries)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	for rng.IntN(3) == 0 && len(out) > 0 {
		at := rng.IntN(len(out))
		switch rng.IntN(4) {
		case 0:
			out = slices.Delete(out, at, at+1)
		case 1:
			out[at].Priority ^= 1 << rng.IntN(64)
		case 2:
			out[at].Match = u.Match(rng)
		default:
			out = append(out, flow.Entry{ID: flow.EntryID(rng.Uint64N(1 << 40)), Priority: rng.Uint64(), Match: u.Match(rng), Kind: flow.GuardEntry})
		}
	}
	return out
}

// TestPlannerScale compares a planner with NewPlan on generated tables of which a
// few rules change at a time, for devices that are too small and large enough, some of
// the shipped ones each time.
func TestPlannerScale(t *testing.T) {
	n, changes := 500, 6
	if testing.Short() {
		n, changes = 300, 4
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, f := range flowtest.Families() {
		for _, i := range rng.Perm(len(device.List()))[:3] {
			name := device.List()[i]
			table, heat := generated(t, f, n)
			traffic := offload.Traffic{Rules: heat}
			if rng.IntN(2) == 0 {
				c := crowds(table, 1, 1, 1)[0]
				traffic = offload.Traffic{Rules: c.heat, Flows: c.flows}
			}
			m := shipped(t, name, n/5+rng.IntN(2)*n*5)
			var planner offload.Planner
			var installed []flow.Entry
			for range changes {
				next := changed(rng, f, table, 10)
				got, want := planner.Plan(table, next, installed, m, traffic), plan(table, next, installed, m, traffic)
				samePlan(t, &got, &want)
				table, installed = next, got.Entries
			}
		}
	}
}

// changed returns t with n of its rules replaced, edited, moved or taken out, rules
// that end in normal only if it has some.
func changed(rng *rand.Rand, f flowtest.Family, t *flow.Table, n int) *flow.Table {
	var rules []flow.Rule
	normal := false
	for i := range t.Len() {
		rules = append(rules, *t.Rule(i))
		normal = normal || t.Rule(i).Actions.Terminal().Op == flow.Normal
	}
	fresh := flowtest.Generate(f, n+1, rng.Uint64())
	for i := range n {
		at := rng.IntN(len(rules) - 1)
		r := &rules[at]
		switch rng.IntN(4) {
		case 0:
			rules = slices.Delete(rules, at, at+1)
		case 1:
			r.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}}
		case 2:
			r.Match = fresh[i].Match
		default:
			fresh[i].Priority = r.Priority
			fresh[i].Name = fmt.Sprintf("fresh%d", i)
			rules[at] = fresh[i]
		}
	}
	for i := range rules {
		if rules[i].Actions.Terminal().Op == flow.Normal && !normal {
			rules[i].Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{3}}}
		}
	}
	return flowtest.NewTable(rules, t.Default())
}

// TestIdlePieces has other flows hot in each plan, in a card of which nobody knows how much it
// holds: pieces of flows that are no more do not pile up in it, and once it has its fill
// of them as few come and go in a plan as in a card that is full.
func TestIdlePieces(t *testing.T) {
	const hot, full = 1024, 12 // from which plan on
	m := shipped(t, "bnxt", 0)
	rules := flowtest.Generate(flowtest.FW, 1000, 1)
	for i := range rules {
		rules[i].Actions = flow.Actions{{Op: flow.Drop}}
	}
	table := flowtest.NewTable(rules, flow.Actions{{Op: flow.Drop}})
	var p offload.Planner
	var have []flow.Entry
	most, filling, changed := 0, 0, 0.0
	for round := range uint64(16) {
		keys := flowtest.Trace(rules, flowtest.Traffic{Packets: hot, Seed: round})
		traffic := offload.Traffic{Rules: offload.Heat{}, Budget: max(16, len(have)*15/1000)}
		for i, at := range flowtest.Winners(rules, keys) {
			traffic.Flows = append(traffic.Flows, offload.Flow{Key: keys[i], Rule: table.Rule(int(at)).ID, Packets: 1})
		}
		plan := p.Plan(table, table, have, m, traffic)
		if ops := len(plan.Retire) + len(plan.Promote); round < full {
			filling = max(filling, ops)
		} else {
			changed = max(changed, float64(ops)/float64(len(have)))
		}
		have, most = plan.Entries, max(most, plan.Used.Pieces)
	}
	t.Logf("%d pieces at most; up to %d operations in a plan at first, then %.1f %% of the table", most, filling, 100*changed)
	if most > 2048+hot {
		t.Errorf("that many were left behind")
	}
	if changed > 0.03 {
		t.Errorf("%.1f %% of the table change in a plan", 100*changed)
	}
}
