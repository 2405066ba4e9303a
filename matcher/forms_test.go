package matcher_test

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

// BenchmarkAccelerator makes every form that a set can have, whether or not it is chosen,
// and compares what it takes with its price: published sets, and generated ones. Times
// are CPU time; those of lookups are the first quartile of passes in turn with the engine's.
func BenchmarkAccelerator(b *testing.B) {
	run := func(b *testing.B, t *flow.Table, keys []flow.Key) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		lane := matcher.Lanes()[0]
		forms, chosen := matcher.Forms(t, lane, threadTime)
		engine := matcher.Compile(t, matcher.SaveMemory())
		b.ReportMetric(0, "ns/op")
		for _, f := range forms {
			var rates [2][]float64
			for range 16 {
				rates[0] = append(rates[0], nsOf(keys, func(k []flow.Key, a []int32) { engine.Lookup(&matcher.Batch{Keys: k, Rules: a}) }))
				rates[1] = append(rates[1], nsOf(keys, f.Lookup))
			}
			slices.Sort(rates[0])
			slices.Sort(rates[1])
			b.ReportMetric(float64(f.Bytes)/(1<<20), f.Name+"-MiB")
			b.ReportMetric(f.Build.Seconds()*1e3, f.Name+"-build-ms")
			b.ReportMetric(rates[1][4], f.Name+"-ns")
			b.ReportMetric(rates[0][4], "engine-ns")
			b.ReportMetric(f.Engine, "engine-price")
			if f.Price > 0 {
				b.ReportMetric(f.Price, f.Name+"-price")
			}
			taken := 0.0
			if f.Name == chosen {
				taken = 1
			}
			b.ReportMetric(taken, f.Name+"-chosen")
		}
		for range b.N {
		}
	}
	small := func(b *testing.B, t *flow.Table, keys []flow.Key) {
		if t.Len() > 16<<10 {
			b.Skip("too many rules for an accelerator")
		}
		run(b, t, keys)
	}
	if os.Getenv("BLADEFLOW_CLASSBENCH") != "" {
		published(b, 64*batch, small)
	}
	benchmarkSets(b, []int{1000, 2000, 10_000}, small)
}

// nsOf returns the CPU time of a key in one pass.
func nsOf(keys []flow.Key, lookup func(keys []flow.Key, answers []int32)) float64 {
	var answers [batch]int32
	start := threadTime()
	for at := 0; at+batch <= len(keys); at += batch {
		lookup(keys[at:at+batch], answers[:])
	}
	return float64(threadTime()-start) / float64(len(keys)/batch*batch)
}
