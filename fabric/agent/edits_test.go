package agent

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestEdits follows records with edits on shards that stay, some of which the blade never
// sees, and compares the rules with what the record means by definition.
func TestEdits(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	f, err := NewFabric(FabricConfig{Blade: blade, Ports: testPorts})
	if err != nil {
		t.Fatal(err)
	}
	c := content(t, blade, nil)
	rules := map[int]flow.Rule{}
	stored := map[[32]byte][]byte{}
	var names []string       // of the shards of the records
	var base []api.TableRule // and what is in them
	kept, whole, skipped := 0, 0, 0
	for n := range uint64(2000) {
		for range rng.IntN(6) {
			i := rng.IntN(40)
			if rng.IntN(3) == 0 {
				delete(rules, i)
				continue
			}
			r, err := flow.ParseRule(fmt.Sprintf("name=r%d,priority=%d,ip_proto=tcp,dst_ip=10.0.0.%d,dst_port=%d actions=drop", i, i, i, 1+rng.IntN(3)), testPorts)
			if err != nil {
				t.Fatal(err)
			}
			r.ID, r.Tier = flow.NewRuleID("test", r.Name), flow.TierTenant
			rules[i] = r
		}
		c.Table.Rules = nil
		for _, i := range slices.Sorted(maps.Keys(rules)) {
			c.Table.Rules = append(c.Table.Rules, rules[i])
		}
		c.Digest = c.Sum()
		now := wireRules(c)
		g, shards := published(n+1, c, 5)
		if names != nil && rng.IntN(8) > 0 {
			edited(g, names, base, now)
			kept++
		} else {
			names, base = g.Spec.Shards, now
			maps.Copy(stored, shards)
			whole++
		}
		byID := func(a, b api.TableRule) int { return cmp.Compare(a.ID, b.ID) }
		slices.SortFunc(now, byID)
		if diff := gocmp.Diff(now, slices.SortedFunc(slices.Values(g.Spec.Edited(base)), byID)); diff != "" {
			t.Fatalf("the record says another thing than was meant (-want +got):\n%s", diff)
		}
		if rng.IntN(4) == 0 {
			skipped++
			continue
		}
		next, err := f.understand(marshal(g), func(sum [32]byte) []byte { return stored[sum] }, "", int64(n+1))
		if err != nil {
			t.Fatalf("record %d: %v", n+1, err)
		}
		if !slices.IsSortedFunc(next.content.Table.Rules, func(a, b flow.Rule) int { return a.Before(&b) }) {
			t.Fatalf("record %d: its rules are not in order", n+1)
		}
		f.taken = next
	}
	if kept < 100 || whole < 100 || skipped < 100 {
		t.Errorf("%d records with edits, %d without, %d unseen: the test tests nothing", kept, whole, skipped)
	}
}
