package matcher_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/matcher"
)

const batch = 256

// benchmarkSets runs f on generated sets of every family, on uniform traffic.
func benchmarkSets(b *testing.B, sizes []int, f func(b *testing.B, t *flow.Table, keys []flow.Key)) {
	for _, family := range flowtest.Families() {
		for _, n := range sizes {
			rules := flowtest.Generate(family, n, 1)
			tab := flowtest.NewTable(rules, nil)
			keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 64 * batch})
			b.Run(fmt.Sprintf("%s/%d", family, n), func(b *testing.B) { f(b, tab, keys) })
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	benchmarkSets(b, []int{1000, 10_000}, func(b *testing.B, t *flow.Table, keys []flow.Key) {
		c := matcher.Compile(t)
		answers := make([]int32, batch)
		n := 0
		for b.Loop() {
			at := n % (len(keys) / batch) * batch
			c.Lookup(&matcher.Batch{Keys: keys[at : at+batch], Rules: answers})
			n++
		}
		b.ReportMetric(float64(n*batch)/b.Elapsed().Seconds(), "lookups/s")
	})
}

// BenchmarkAdversarial looks up keys in rules of random prefix lengths, ranges and
// masks over many fields: the worst kind of set for hash tables.
func BenchmarkAdversarial(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	tab := randomTable(rng, 10_000)
	c := matcher.Compile(tab)
	bt := matcher.Batch{Rules: make([]int32, batch)}
	for range batch {
		bt.Keys = append(bt.Keys, near(rng, tab))
	}
	for b.Loop() {
		c.Lookup(&bt)
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "lookups/s")
}

func BenchmarkExplain(b *testing.B) {
	benchmarkSets(b, []int{10_000}, func(b *testing.B, t *flow.Table, keys []flow.Key) {
		c := matcher.Compile(t)
		n := 0
		for b.Loop() {
			c.Explain(keys[n%len(keys)])
			n++
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	benchmarkSets(b, []int{10_000}, func(b *testing.B, t *flow.Table, keys []flow.Key) {
		for b.Loop() {
			matcher.Compile(t)
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/float64(t.Len())*1e9, "ns/rule")
	})
}
