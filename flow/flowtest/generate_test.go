package flowtest_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestGenerate checks what every set promises, also the very small ones: n valid,
// different rules that make a table, the last of which covers all others.
func TestGenerate(t *testing.T) {
	for _, f := range flowtest.Families() {
		for _, n := range []int{1, 2, 3, 7, 50, 1000} {
			rules := flowtest.Generate(f, n, 1)
			if len(rules) != n {
				t.Fatalf("%s: %d rules, want %d", f, len(rules), n)
			}
			seen := map[flow.Match]bool{}
			last := &rules[n-1]
			for i := range rules {
				m := &rules[i].Match
				if seen[*m] || !last.Match.Covers(m) {
					t.Fatalf("%s: rule %d of %d is there twice or not covered by the last: %+v", f, i, n, *m)
				}
				if _, ok := flow.Shared(m); !ok {
					t.Fatalf("%s: no packet matches rule %d: %+v", f, i, *m)
				}
				seen[*m] = true
			}
			tab := flowtest.NewTable(rules, nil)
			for i := range rules {
				if tab.Rule(i).ID != rules[i].ID {
					t.Fatalf("%s: rule %d of the table is another", f, i)
				}
			}
		}
	}
}

// TestGenerateSeeds checks that seeds decide everything.
func TestGenerateSeeds(t *testing.T) {
	for _, f := range flowtest.Families() {
		a, b, c := flowtest.Generate(f, 200, 1), flowtest.Generate(f, 200, 1), flowtest.Generate(f, 200, 2)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: two sets from one seed", f)
		}
		if reflect.DeepEqual(a[0].Match, c[0].Match) && reflect.DeepEqual(a[1].Match, c[1].Match) {
			t.Errorf("%s: one set from two seeds", f)
		}
	}
}

func TestParseFamily(t *testing.T) {
	for _, f := range flowtest.Families() {
		if got, err := flowtest.ParseFamily(f.String()); err != nil || got != f {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	var fault *flow.Fault
	if _, err := flowtest.ParseFamily("acl1"); !errors.As(err, &fault) || fault.Code != "E_FAMILY" {
		t.Errorf("acl1: %v", err)
	}
}

// TestTrace checks every packet of traces: some rule matches it, a packet can have
// its key, and the winner is the definition's.
func TestTrace(t *testing.T) {
	for _, f := range flowtest.Families() {
		rules := flowtest.Generate(f, 500, 3)
		tab := flowtest.NewTable(rules, nil)
		for _, traffic := range []flowtest.Traffic{{Packets: 2000}, {Packets: 2000, Zipf: 1}, {Packets: 2000, Mix: 0.3, Seed: 4}} {
			keys := flowtest.Trace(rules, traffic)
			winners := flowtest.Winners(rules, keys)
			last := 0
			for i := range keys {
				if !flow.Possible(&keys[i]) {
					t.Fatalf("%s %+v: no packet has key %x", f, traffic, keys[i])
				}
				if want := tab.Lookup(&keys[i]); int(winners[i]) != want || want == tab.Len() {
					t.Fatalf("%s %+v: key %x is won by %d, the definition says %d", f, traffic, keys[i], winners[i], want)
				}
				if int(winners[i]) == len(rules)-1 {
					last++
				}
			}
			if share := float64(last) / float64(len(keys)); share < traffic.Mix-0.05 || share > traffic.Mix+0.1 {
				t.Errorf("%s %+v: %.0f%% of the packets fall to the last rule", f, traffic, 100*share)
			}
			if !reflect.DeepEqual(keys, flowtest.Trace(rules, traffic)) {
				t.Errorf("%s %+v: two traces from one seed", f, traffic)
			}
		}
	}
}

// TestTraceShapes checks the popularity of rules on disjoint ones: uniform traffic
// is flat, Zipf traffic is not, and all of a rule's box is used.
func TestTraceShapes(t *testing.T) {
	var rules []flow.Rule
	for i := range uint64(16) {
		var m flow.Match
		m.Pin(flow.DstLo, i<<28, 0xf0000000)
		m.SetPorts(flow.DstPort, 1000, 1003)
		rules = append(rules, flow.Rule{Match: m})
	}
	count := func(zipf float64) (most, least int) {
		hits := make([]int, len(rules))
		keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 16_000, Zipf: zipf})
		for _, w := range flowtest.Winners(rules, keys) {
			hits[w]++
		}
		var ports [4]int
		for i := range keys {
			ports[keys[i].Get(flow.DstPort)-1000]++
		}
		for p, n := range ports {
			if n < 3500 || n > 4500 {
				t.Errorf("port %d has %d of 16000 packets", 1000+p, n)
			}
		}
		most, least = hits[0], hits[0]
		for _, h := range hits {
			most, least = max(most, h), min(least, h)
		}
		return most, least
	}
	if most, least := count(0); least < 850 || most > 1150 {
		t.Errorf("uniform: %d to %d packets for a rule", least, most)
	}
	// With s = 1 the first of 16 rules has 1/H(16) = 29.6 % of the packets, the last 1.85 %.
	if most, least := count(1); most < 4500 || most > 5000 || least < 230 || least > 360 {
		t.Errorf("Zipf: %d to %d packets for a rule", least, most)
	}
	if got := flowtest.Winners(rules[:1], []flow.Key{flowtest.TCP()}); got[0] != -1 {
		t.Errorf("a key no rule matches is won by %d", got[0])
	}
}

// TestWinners compares the index with the definition on rules of every kind.
func TestWinners(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, u := range flowtest.Universes() {
		for range 20 {
			tab := u.Table(rng, 40)
			var rules []flow.Rule
			for i := range tab.Len() {
				rules = append(rules, *tab.Rule(i))
			}
			for i, w := range flowtest.Winners(rules, u.Keys) {
				want := tab.Lookup(&u.Keys[i])
				if want == tab.Len() {
					want = -1
				}
				if int(w) != want {
					t.Fatalf("%s: key %x is won by %d, want %d", u.Name, u.Keys[i], w, want)
				}
			}
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	for range b.N {
		flowtest.Generate(flowtest.ACL, 10_000, 1)
	}
}

func BenchmarkMeasure(b *testing.B) {
	rules := flowtest.Generate(flowtest.FW, 10_000, 1)
	for b.Loop() {
		flowtest.Measure(rules, 1)
	}
}
