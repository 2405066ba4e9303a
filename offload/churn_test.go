package offload_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
)

// drift is rules that are popular by Zipf, of which in each epoch some change ranks.
// What is counted of a rule in an epoch is noisy and comes in bursts.
type drift struct {
	rng  *rand.Rand
	rank []int
}

// packets returns what is counted of each rule in the next epoch.
func (d *drift) packets() []float64 {
	n := len(d.rank)
	for range n / 200 {
		a, b := d.rng.IntN(n), d.rng.IntN(n)
		d.rank[a], d.rank[b] = d.rank[b], d.rank[a]
	}
	out := make([]float64, n)
	for i, r := range d.rank {
		mean := 40_000 / float64(r+1)
		noisy := mean + math.Sqrt(mean)*d.rng.NormFloat64()
		out[i] = max(0, noisy*math.Exp(0.7*d.rng.NormFloat64()-0.245))
	}
	return out
}

// TestChurn lets traffic drift over 20,000 rules, 1,000 of which fit, and plans once
// in an epoch by smoothed counters. At most 3 % of the table may change in an epoch,
// and the hit rate may be one point below that of planning from nothing each time.
// What was put in less than two epochs ago is not displaced.
func TestChurn(t *testing.T) {
	const capacity, settle = 1000, 20
	began, seed := time.Now(), flowtest.Seed(t)
	epochs, n := flowtest.Count(t, "BLADEFLOW_CHURN", 60), 20_000
	if testing.Short() {
		epochs = 30
	}
	var rules []flow.Rule
	for i := range n {
		var m flow.Match
		m.Pin(flow.DstLo, uint64(i), 1<<32-1)
		rules = append(rules, flow.Rule{ID: flow.RuleID(i + 1), Name: "r", Priority: 1, Match: m, Actions: flow.Actions{{Op: flow.Drop}}})
	}
	table := flowtest.NewTable(rules, flow.Actions{{Op: flow.Pass}})
	m := shipped(t, "softnic", capacity)
	d := drift{rng: rand.New(rand.NewPCG(seed, 1))}
	d.rank = d.rng.Perm(n)

	smooth := make([]float64, n)
	var planner, afresh offload.Planner
	var installed, solved []flow.Entry
	since := map[flow.EntryID]int{}
	ops, resolved, all, hits, best := 0, 0, 0.0, 0.0, 0.0
	answered := func(entries []flow.Entry, packets []float64) float64 {
		sum := 0.0
		for i := range entries {
			sum += packets[entries[i].Rule-1]
		}
		return sum
	}
	for epoch := range epochs + settle {
		packets := d.packets()
		if epoch >= settle {
			for _, p := range packets {
				all += p
			}
			hits += answered(installed, packets)
			best += answered(solved, packets)
		}
		heat := offload.Heat{}
		for i, p := range packets {
			smooth[i] += 0.2 * (p - smooth[i])
			heat[flow.RuleID(i+1)] = uint64(smooth[i])
		}
		young := map[flow.EntryID]bool{}
		for id, at := range since {
			if epoch-at < 2 {
				young[id] = true
			}
		}
		p := planner.Plan(table, table, installed, m, offload.Traffic{Rules: heat, Budget: capacity * 15 / 1000, Young: young})
		q := afresh.Plan(table, table, nil, m, offload.Traffic{Rules: heat})
		for _, op := range p.Promote {
			if op.Kind == offload.Add {
				since[op.Entry.ID] = epoch
			} else if young[op.Entry.ID] {
				t.Fatal("an entry was displaced that is not there for long")
			}
		}
		if epoch >= settle {
			ops += len(p.Retire) + len(p.Promote)
			before := map[flow.EntryID]bool{}
			for i := range solved {
				before[solved[i].ID] = true
			}
			for i := range q.Entries {
				if !before[q.Entries[i].ID] {
					resolved += 2
				}
			}
		}
		installed, solved = p.Entries, q.Entries
	}
	figures := map[string]any{"rules": n, "entries": capacity, "epochs": epochs, "hit_rate": hits / all, "hit_rate_planned_afresh": best / all,
		"operations_per_epoch": float64(ops) / float64(epochs), "operations_per_epoch_planned_afresh": float64(resolved) / float64(epochs)}
	t.Logf("%v", figures)
	if share := float64(ops) / float64(epochs) / capacity; share > 0.03 {
		t.Errorf("%.1f %% of the table change in an epoch", 100*share)
	}
	if lost := best/all - hits/all; lost > 0.01 {
		t.Errorf("%.1f points of hit rate lost", 100*lost)
	}
	if epochs >= 300 {
		flowtest.Record(t, "churn", seed, began, figures)
	}
}
