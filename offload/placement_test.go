package offload_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// crowdOf is traffic for a table: flows with the rules that answer them, and packets.
// The rules are popular by Zipf in random order, each has a few flows at random points
// with exponential weights, and the rule that wins a flow need not be the one it was
// made for.
type crowdOf struct {
	flows []offload.Flow
	heat  offload.Heat
	total uint64
}

// flowsPerRule is how many flows each rule is given.
const flowsPerRule = 8

// crowds returns traffic for each skew, of the same flows.
func crowds(t *flow.Table, seed, points uint64, skews ...float64) []crowdOf {
	var rules []flow.Rule
	for i := range t.Len() {
		rules = append(rules, *t.Rule(i))
	}
	var keys []flow.Key
	for i := range rules {
		keys = append(keys, flowtest.Trace(rules[i:i+1], flowtest.Traffic{Packets: flowsPerRule, Seed: points<<32 | uint64(i)})...)
	}
	winners := flowtest.Winners(rules, keys)
	var all []crowdOf
	for _, zipf := range skews {
		rng := rand.New(rand.NewPCG(seed, 9))
		rank := rng.Perm(len(rules))
		c := crowdOf{heat: offload.Heat{}}
		for i, k := range keys {
			w := 1e9 * math.Pow(float64(rank[i/flowsPerRule]+1), -zipf)
			won := t.Len()
			if winners[i] >= 0 {
				won = int(winners[i])
			}
			f := offload.Flow{Key: k, Rule: t.Rule(won).ID, Packets: uint64(w * rng.ExpFloat64())}
			c.flows = append(c.flows, f)
			c.heat[f.Rule] += f.Packets
			c.total += f.Packets
		}
		all = append(all, c)
	}
	return all
}

// bound is the share of packets of the hottest rules, as many as fit if none depends
// on another.
func (c *crowdOf) bound(entries int) float64 {
	var all []uint64
	for _, n := range c.heat {
		all = append(all, n)
	}
	slices.Sort(all)
	slices.Reverse(all)
	var sum uint64
	for _, n := range all[:min(entries, len(all))] {
		sum += n
	}
	return float64(sum) / float64(c.total)
}

// hits is the share of packets that entries answer. They are proved: an entry answers
// only packets that its rule wins, so only those of a flow's rule are looked at, and guards.
func (c *crowdOf) hits(entries []flow.Entry) float64 {
	of := map[flow.RuleID][]*flow.Entry{}
	var guards []*flow.Entry
	for i := range entries {
		if e := &entries[i]; e.Punt() {
			guards = append(guards, e)
		} else {
			of[e.Rule] = append(of[e.Rule], e)
		}
	}
	var sum uint64
	for i := range c.flows {
		f, top := &c.flows[i], uint64(0)
		for _, e := range of[f.Rule] {
			if e.Match.Matches(&f.Key) {
				top = max(top, e.Priority)
			}
		}
		punted := slices.ContainsFunc(guards, func(g *flow.Entry) bool { return g.Priority > top && g.Match.Matches(&f.Key) })
		if top > 0 && !punted {
			sum += f.Packets
		}
	}
	return float64(sum) / float64(c.total)
}

// placed is one line of the table that TestPlacement prints.
type placed struct {
	Set      string  `json:"set"`
	Rules    int     `json:"rules"`
	Zipf     float64 `json:"zipf"`
	Capacity int     `json:"capacity_percent"`
	Bound    float64 `json:"bound"`
	Hits     float64 `json:"hit_rate"`
	Share    float64 `json:"percent_of_bound"`
	Fresh    float64 `json:"hit_rate_of_other_flows"`
	Guards   int     `json:"guards"`
	Pieces   int     `json:"pieces"`
	First    float64 `json:"first_plan_ms"`
	Again    float64 `json:"replan_ms"`
	Other    float64 `json:"replan_other_flows_ms"`
	Ten      float64 `json:"ten_rules_ms"`
}

// TestPlacement measures the hit rate of plans for a device with room for 5 and 10 %
// of the rules, against the bound that no rule depends on another: at least 92 % of
// it, and 97 % for acl and ipc. The traffic is skewed as printed; what the plan was
// made for is measured, and flows at other points of the same rules. Every plan is
// proved.
//
// The bars are for sets of 10,000 rules. Seed 1 is held to them each time, which cannot fail
// by chance, and so is a fresh one, which will not: what is nearest to its bar, room for
// 5 % at a skew of 1.0, was 95.1 % on the average of 200 sets of fw with a standard
// deviation of 0.43 and a least one of 93.8, and 98.5 % over 100 of ipc with 0.22 and a
// least one of 97.8: seven deviations away, and less than one run in a million should
// the tails be those of a normal distribution. Sets of 2,000 rules, where 100 entries
// have to do, spread twice as much, so only a named one of them is asked (-short).
//
// BLADEFLOW_PLACEMENT=1 has three named seeds, other traffic and changes, and the sets in
// the directory BLADEFLOW_CLASSBENCH, and writes docs/results/placement.json.
func TestPlacement(t *testing.T) {
	n, seeds := 10_000, []uint64{1, flowtest.Seed(t)}
	long := os.Getenv("BLADEFLOW_PLACEMENT") != ""
	switch {
	case long:
		seeds = []uint64{1, 2, 3}
	case testing.Short():
		n, seeds = 2000, seeds[:1]
	}
	began := time.Now()
	var lines []placed
	measure := func(name string, table *flow.Table, seed uint64, least float64) {
		skews := []float64{1, 1.2}
		trained, fresh := crowds(table, seed, 1, skews...), make([]crowdOf, len(skews))
		if long {
			fresh = crowds(table, seed, 2, skews...)
		}
		for i, zipf := range skews {
			c, fresh := &trained[i], &fresh[i]
			for _, percent := range []int{5, 10} {
				l := placed{Set: name, Rules: table.Len(), Zipf: zipf, Capacity: percent}
				m := shipped(t, "softnic", table.Len()*percent/100)
				traffic := offload.Traffic{Rules: c.heat, Flows: c.flows}
				var p offload.Planner
				var plan, again, other offload.Plan
				l.First = processor(func() { plan = p.Plan(table, table, nil, m, traffic) })
				l.Again = processor(func() { again = p.Plan(table, table, plan.Entries, m, traffic) })
				if len(again.Promote) > 0 {
					t.Errorf("%s: a device as planned needs %d operations", name, len(again.Promote))
				}
				if err := verify.Check(table, plan.Entries, m); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if len(plan.Entries) > m.Entries {
					t.Errorf("%s: %d entries for %d places", name, len(plan.Entries), m.Entries)
				}
				l.Bound, l.Hits = c.bound(m.Entries), c.hits(plan.Entries)
				l.Share, l.Guards, l.Pieces = 100*l.Hits/l.Bound, plan.Used.Guards, plan.Used.Pieces
				if long {
					l.Fresh = fresh.hits(plan.Entries)
					l.Other = processor(func() {
						other = p.Plan(table, table, plan.Entries, m, offload.Traffic{Rules: fresh.heat, Flows: fresh.flows})
					})
					next := changed(rand.New(rand.NewPCG(seed, 3)), flowtest.ACL, table, 10)
					l.Ten = processor(func() { p.Plan(table, next, other.Entries, m, traffic) })
				}
				t.Logf("%-10s %5d rules, Zipf %.1f, room for %2d %%: %.3f of %.3f, %5.1f %%; other flows %.3f; %3d guards, %3d pieces; %3.0f ms, again %3.0f, with other flows %3.0f, ten rules %3.0f",
					name, l.Rules, zipf, percent, l.Hits, l.Bound, l.Share, l.Fresh, l.Guards, l.Pieces, l.First, l.Again, l.Other, l.Ten)
				if l.Share < least {
					t.Errorf("%s: %.1f %% of the bound, want %.0f", name, l.Share, least)
				}
				lines = append(lines, l)
			}
		}
	}
	for _, seed := range seeds {
		for _, f := range flowtest.Families() {
			least := 92.0
			if f == flowtest.ACL || f == flowtest.IPC {
				least = 97
			}
			table := delivered(flowtest.NewTable(flowtest.Generate(f, n, seed), flow.Actions{{Op: flow.Drop}}))
			measure(fmt.Sprintf("%v-%d", f, seed), table, seed, least)
		}
	}
	if !long {
		return
	}
	files, err := filepath.Glob(filepath.Join(os.Getenv("BLADEFLOW_CLASSBENCH"), "*_10k"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sets, err := ruleset.Decode(ruleset.ClassBench, file, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		rules := sets[0].Rules
		for i := range rules {
			rules[i].Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{flow.Port(1 + i%3)}}}
		}
		name, least := filepath.Base(file), 92.0
		if !strings.HasPrefix(name, "fw") {
			least = 97
		}
		measure(name, flowtest.NewTable(rules, flow.Actions{{Op: flow.Drop}}), 1, least)
	}
	flowtest.Record(t, "placement", seeds[0], began, lines)
}

// processor returns how many milliseconds of processor time f takes, with what is
// collected meanwhile; what was there before is collected before.
func processor(f func()) float64 {
	runtime.GC()
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	f()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano()
	return float64(used) / 1e6
}
