package matcher_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

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

// widen turns IPv4 rules into IPv6 ones that look at twelve fields in all.
func widen(rules []flow.Rule) []flow.Rule {
	out := slices.Clone(rules)
	for i := range out {
		m := &out[i].Match
		m.Pin(flow.EthType, flow.EthIPv6, 0xffff)
		for _, hi := range []int{3, 5} { // the IPv4 prefix moves to the bits behind 2001:db8::/32
			value, mask := m.Value[hi+1], m.Mask[hi+1]
			m.Value[hi+1], m.Mask[hi+1] = 0, 0
			if mask == 0 {
				continue
			}
			m.Value[hi], m.Mask[hi] = 0x20010db8<<32|value, 0xffffffff<<32|mask
			if mask == 0xffffffff {
				m.Value[hi+1], m.Mask[hi+1] = value*0x9e3779b97f4a7c15, ^uint64(0)
			}
		}
		for _, extra := range []struct {
			field flow.Field
			every int
		}{{flow.InPort, 4}, {flow.VLAN, 7}, {flow.SrcMAC, 11}, {flow.DstMAC, 10}, {flow.TOS, 9}, {flow.TCPFlags, 5}} {
			if i%extra.every == 1 && i < len(out)-1 {
				m.Pin(extra.field, uint64(i%60), extra.field.Max())
			}
		}
	}
	return out
}

// within returns keys that random rules match.
func within(rules []flow.Rule, n int) []flow.Key {
	rng := rand.New(rand.NewPCG(5, 6))
	keys := make([]flow.Key, n)
	for i := range keys {
		m := &rules[rng.IntN(len(rules))].Match
		for w := range keys[i] {
			keys[i][w] = m.Value[w] | rng.Uint64()&^m.Mask[w]
		}
		if r := m.SrcPort; !r.Any() {
			keys[i].Set(flow.SrcPort, uint64(r.Lo)+rng.Uint64N(uint64(r.Hi-r.Lo)+1))
		}
		if r := m.DstPort; !r.Any() {
			keys[i].Set(flow.DstPort, uint64(r.Lo)+rng.Uint64N(uint64(r.Hi-r.Lo)+1))
		}
	}
	return keys
}

// BenchmarkWide looks up IPv6 rules over twelve fields.
func BenchmarkWide(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rules := widen(flowtest.Generate(flowtest.ACL, n, 1))
			report(b, flowtest.NewTable(rules, nil), within(rules, 64*batch))
		})
	}
}

// BenchmarkMillion looks up a million rules between hosts.
func BenchmarkMillion(b *testing.B) {
	if testing.Short() {
		b.Skip("a million rules take seconds and a gigabyte")
	}
	rules := flowtest.Generate(flowtest.Segment, 1_000_000, 1)
	report(b, flowtest.NewTable(rules, nil), within(rules, 256*batch))
}

// report reports the rate of the fastest lane in CPU time.
func report(b *testing.B, tab *flow.Table, keys []flow.Key) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime()
	c := matcher.Compile(tab)
	build := threadTime() - start
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(perSecond(c, keys, batch, 5, 0)/1e6, "M/s")
	b.ReportMetric(float64(c.Bytes())/float64(tab.Len()), "B/rule")
	b.ReportMetric(build.Seconds()*1e3, "build-ms")
	for range b.N {
	}
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

// BenchmarkUpdate replaces rules one by one, in random order, while another goroutine
// looks keys up, and reports what an update takes: CPU time of the thread, and wall-clock
// time, which the scheduler adds to. It also reports what part of their speed lookups
// keep, in CPU time, while 100,000 updates a second are made.
func BenchmarkUpdate(b *testing.B) {
	for _, family := range flowtest.Families() {
		for _, n := range []int{1000, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", family, n), func(b *testing.B) {
				rules := flowtest.Generate(family, 2*n, 1)
				rand.New(rand.NewPCG(1, 2)).Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
				keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 64 * batch})
				c := matcher.Compile(flowtest.NewTable(rules[:n], nil), matcher.SaveMemory())
				bytes := c.Bytes()
				alone := perSecond(c, keys, batch, 5, 0)
				cpu, wall, _ := meanwhile(c, keys, func() ([]time.Duration, []time.Duration) { return replace(b, c, rules, 0, n, 30_000, 0) })
				_, _, during := meanwhile(c, keys, func() ([]time.Duration, []time.Duration) { return replace(b, c, rules, 15_000, n, 60_000, 100_000) })
				b.ReportMetric(0, "ns/op")
				for unit, times := range map[string][]time.Duration{"cpu": cpu, "wall": wall} {
					slices.Sort(times)
					var sum time.Duration
					for _, t := range times {
						sum += t
					}
					b.ReportMetric(float64(sum)/float64(len(times)), unit+"-mean-ns")
					b.ReportMetric(float64(times[len(times)/2]), unit+"-p50-ns")
					b.ReportMetric(float64(times[len(times)*99/100]), unit+"-p99-ns")
					b.ReportMetric(float64(times[len(times)-1]), unit+"-max-ns")
				}
				b.ReportMetric(alone/1e6, "alone-M/s")
				b.ReportMetric(during/alone, "during-100k/s")
				b.ReportMetric(float64(c.Bytes())/float64(bytes), "memory-ratio")
				for range b.N {
				}
			})
		}
	}
}

// meanwhile looks keys up until f returns, and returns what it returns and the median of
// the lookups in a second.
func meanwhile(c *matcher.Classifier, keys []flow.Key, f func() (cpu, wall []time.Duration)) (cpu, wall []time.Duration, median float64) {
	var stop atomic.Bool
	var rates []float64
	done := make(chan bool)
	go func() {
		defer close(done)
		for len(rates) == 0 || !stop.Load() {
			rates = append(rates, perSecond(c, keys, batch, 1, 0))
		}
	}()
	cpu, wall = f()
	stop.Store(true)
	<-done
	slices.Sort(rates)
	return cpu, wall, rates[len(rates)/2]
}

// replace makes updates in turn: a rule that is not among the n first comes, one that is
// there goes; first is how many came and went before. It returns how long each took, in CPU time and by the wall clock, without
// what asking the clocks takes. rate is how many are made a second; 0 is as many as
// possible.
func replace(b *testing.B, c *matcher.Classifier, rules []flow.Rule, first, n, updates int, rate float64) (cpu, wall []time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	timed := func(f func()) (cpu, wall time.Duration) {
		t, w := threadTime(), time.Now()
		f()
		wall = time.Since(w)
		return threadTime() - t, wall
	}
	var clockCPU, clockWall []time.Duration
	for range 1001 {
		t, w := timed(func() {})
		clockCPU, clockWall = append(clockCPU, t), append(clockWall, w)
	}
	slices.Sort(clockCPU)
	slices.Sort(clockWall)
	begin := time.Now()
	for i := range updates {
		for rate > 0 && time.Since(begin).Seconds() < float64(i)/rate {
		}
		r := rules[(n+first+i/2)%len(rules)] // the caller has just made it
		err := r.Valid()
		t, w := timed(func() {
			if i%2 == 0 {
				err = c.Insert(r)
			} else {
				err = c.Delete(rules[(first+i/2)%len(rules)].ID)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		cpu, wall = append(cpu, max(0, t-clockCPU[500])), append(wall, max(0, w-clockWall[500]))
	}
	return cpu, wall
}
