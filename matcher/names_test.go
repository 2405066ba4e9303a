package matcher

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestNames compares names with a map, for IDs that are near each other and for random ones.
func TestNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	for _, rules := range []int{0, 5000, 100_000} {
		var all []flow.Rule // by number
		m := newNames(rules, func(n int32) *flow.Rule { return &all[n] })
		all = append(all, flow.Rule{})
		want := map[flow.RuleID]int32{}
		ids := make([]flow.RuleID, 3000)
		for i := range ids {
			ids[i] = flow.RuleID(i + 1)
			if i%2 == 0 {
				ids[i] = flow.RuleID(rng.Uint64() | 1)
			}
		}
		for range 20_000 {
			id := ids[rng.IntN(len(ids))]
			if _, there := want[id]; there && rng.IntN(2) == 0 {
				m.remove(id)
				delete(want, id)
			} else if !there {
				all = append(all, flow.Rule{ID: id})
				want[id] = int32(len(all) - 1)
				m.add(id, want[id])
			}
		}
		for _, id := range ids {
			n, ok := m.find(id)
			if w, there := want[id]; ok != there || n != w {
				t.Fatalf("%d rules: ID %#x has number %d, %v; wants %d, %v", rules, uint64(id), n, ok, w, there)
			}
		}
		live := 0
		for _, p := range m.parts {
			live += p.live
		}
		if live != len(want) {
			t.Errorf("%d rules: %d live, wants %d", rules, live, len(want))
		}
	}
}

// TestSetNext compares next with a scan.
func TestSetNext(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 2))
	for range 200 {
		s := make(set, 4)
		for range rng.IntN(6) {
			s.add(1 + rng.IntN(255))
		}
		for i := 1; i < 300; i++ {
			want := i
			for want < 256 && !s.has(want) {
				want++
			}
			if want == 256 || i >= 256 {
				want = 0
			}
			if got := s.next(i); got != want {
				t.Fatalf("next(%d) = %d, wants %d in %x", i, got, want, s)
			}
		}
	}
}
