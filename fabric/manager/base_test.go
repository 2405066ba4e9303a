package manager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// TestRecords changes the rules of a blade again and again, sometimes with a manager that
// has just begun to lead. What each record means with the shards in the store is always the
// content; small changes write no shards, and no record grows for ever.
func TestRecords(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	ports := flow.NewPorts("nic0/pf0")
	rules := map[int]flow.Rule{}
	change := func(i int) {
		r, err := flow.ParseRule(fmt.Sprintf("name=r%d,priority=1,ip_proto=tcp,dst_ip=10.0.%d.%d,dst_port=%d actions=drop", i, i/250, i%250, 1+rng.IntN(60000)), ports)
		if err != nil {
			t.Fatal(err)
		}
		r.ID = flow.NewRuleID("test", r.Name)
		rules[i] = r
	}
	for i := range 1000 {
		change(i)
	}
	var b bases
	var before *api.GenerationSpec
	stored := map[string]api.Shard{}
	small, whole := 0, 0
	for n := range 300 {
		for range 1 + rng.IntN(10) {
			if i := rng.IntN(1100); rng.IntN(4) == 0 {
				delete(rules, i)
			} else {
				change(i)
			}
		}
		if rng.IntN(50) == 0 {
			b = bases{}
		}
		c := fabric.Content{Blade: "b1", Table: flow.TableSpec{Ports: ports, Switch: &flow.Switch{}}}
		for _, i := range slices.Sorted(maps.Keys(rules)) {
			c.Table.Rules = append(c.Table.Rules, rules[i])
		}
		g, shards, err := b.record(c, before)
		if err != nil {
			t.Fatal(err)
		}
		for sum, text := range shards {
			var s api.Shard
			if err := json.Unmarshal(text, &s); err != nil {
				t.Fatal(err)
			}
			stored[fmt.Sprintf("%x", sum)] = s
		}
		var parts []api.TableRule
		for _, sum := range g.Shards {
			s, there := stored[sum]
			if !there {
				t.Fatalf("seed %d, record %d: shard %s was never written", seed, n, sum)
			}
			parts = append(parts, s.Rules...)
		}
		got := slices.SortedFunc(slices.Values(g.Edited(parts)), func(a, b api.TableRule) int { return cmp.Compare(a.ID, b.ID) })
		if diff := gocmp.Diff(wireRules(c), got); diff != "" || g.Rules != len(got) {
			t.Fatalf("seed %d, record %d (-want +got):\n%s", seed, n, diff)
		}
		text, err := json.Marshal(g)
		if err != nil || len(text) > mostEdits+4096 {
			t.Fatalf("seed %d, record %d: %d bytes, %v", seed, n, len(text), err)
		}
		if len(shards) == 0 {
			small++
		} else {
			whole++
		}
		before = &g
	}
	if small < 200 || whole < 5 {
		t.Errorf("%d records of edits, %d with shards: the test tests nothing", small, whole)
	}
}
