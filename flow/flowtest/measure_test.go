package flowtest_test

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestOverlaps compares the index with every pair.
func TestOverlaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, u := range flowtest.Universes() {
		for range 20 {
			rules := u.Rules(rng, 60, []flow.Port{1})
			got := map[[2]int]int{}
			flowtest.Overlaps(rules, func(i, j int) { got[[2]int{i, j}]++ })
			want := 0
			for j := range rules {
				for i := range j {
					if !rules[i].Match.Overlaps(&rules[j].Match) {
						continue
					}
					want++
					if got[[2]int{i, j}] != 1 {
						t.Fatalf("%s: pair %d, %d reported %d times", u.Name, i, j, got[[2]int{i, j}])
					}
				}
			}
			if len(got) != want {
				t.Fatalf("%s: %d pairs, want %d", u.Name, len(got), want)
			}
		}
	}
}

// TestMeasure checks every figure on a list small enough to count by hand.
func TestMeasure(t *testing.T) {
	var a, b, c flow.Match
	a.Pin(flow.DstLo, 10<<24, 0xff000000)
	a.SetPorts(flow.DstPort, 1, 6) // 1, 2-3, 4-5, 6
	b.Pin(flow.DstLo, 11<<24, 0xff000000)
	b.SetPorts(flow.DstPort, 80, 80)
	got := flowtest.Measure([]flow.Rule{{Match: a}, {Match: b}, {Match: c}}, 1)
	want := flowtest.Stats{Rules: 3, Overlaps: 2.0 / 3, Masks: 3, Ranges: 1.0 / 3, Expansion: (4 + 1 + 1) / 3.0, ConflictsP99: got.ConflictsP99}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := flowtest.Measure(nil, 1); got != (flowtest.Stats{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

// TestConflicts checks the quantiles where they can be told in advance: of n equal
// rules the i-th has i better ones, half of which act differently.
func TestConflicts(t *testing.T) {
	s := flowtest.Measure(make([]flow.Rule, 1001), 1)
	if s.ConflictsP50 < 225 || s.ConflictsP50 > 275 || s.ConflictsP99 < 470 || s.ConflictsP99 > 530 || s.Overlaps != 500 {
		t.Errorf("%+v", s)
	}
}

// TestExpansion counts prefixes of ranges whose number is known.
func TestExpansion(t *testing.T) {
	for _, c := range []struct {
		lo, hi uint16
		want   float64
	}{{0, 0xffff, 1}, {80, 80, 1}, {0, 1023, 1}, {1024, 0xffff, 6}, {1, 0xfffe, 30}, {137, 139, 2}, {0x8000, 0xffff, 1}} {
		var m flow.Match
		m.SetPorts(flow.SrcPort, c.lo, c.hi)
		if got := flowtest.Measure([]flow.Rule{{Match: m}}, 1).Expansion; got != c.want {
			t.Errorf("%d-%d: %v prefixes, want %v", c.lo, c.hi, got, c.want)
		}
		m.SetPorts(flow.DstPort, 1024, 0xffff)
		if got := flowtest.Measure([]flow.Rule{{Match: m}}, 1).Expansion; got != 6*c.want {
			t.Errorf("%d-%d and 1024-65535: %v entries, want %v", c.lo, c.hi, got, 6*c.want)
		}
	}
}
