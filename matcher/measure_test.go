package matcher_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/matcher"
)

// threadTime returns the CPU time of the calling thread. On a machine that does
// other things too it is the only clock that repeats.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// perSecond returns the median rate of c over reps passes through keys. Every batch
// also touches that many bytes of other memory, as a datapath would; the time of the
// touching alone is taken off.
func perSecond(c *matcher.Classifier, keys []flow.Key, batch, reps, touch int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	other := make([]byte, touch+1)
	pass := func(lookup bool) time.Duration {
		b := matcher.Batch{Rules: make([]int32, batch)}
		start := threadTime()
		for at := 0; at+batch <= len(keys); at += batch {
			b.Keys = keys[at : at+batch]
			if lookup {
				c.Lookup(&b)
			}
			for i := 0; i < touch; i += 64 {
				other[i]++
			}
		}
		return threadTime() - start
	}
	pass(true)
	var times []time.Duration
	for range reps {
		t := pass(true)
		if touch > 0 {
			t -= pass(false)
		}
		times = append(times, t)
	}
	slices.Sort(times)
	return float64(len(keys)/batch*batch) / times[reps/2].Seconds()
}

// traffics are the traces that are measured.
var traffics = []struct {
	name string
	flowtest.Traffic
}{
	{"uniform", flowtest.Traffic{}},
	{"zipf", flowtest.Traffic{Zipf: 1.05}},
	{"mix", flowtest.Traffic{Mix: 0.3}},
}

// published calls f with every rule set in the directory BLADEFLOW_CLASSBENCH, files
// in the ClassBench format, and with a trace of each kind.
func published(b *testing.B, packets int, f func(b *testing.B, t *flow.Table, keys []flow.Key)) {
	files, _ := filepath.Glob(filepath.Join(os.Getenv("BLADEFLOW_CLASSBENCH"), "*"))
	if os.Getenv("BLADEFLOW_CLASSBENCH") == "" || len(files) == 0 {
		b.Skip("BLADEFLOW_CLASSBENCH names no directory with rule sets")
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		if !bytes.HasPrefix(data, []byte("@")) {
			continue
		}
		sets, err := ruleset.Decode(ruleset.ClassBench, file, data, nil)
		if err != nil {
			b.Fatal(err)
		}
		tab, err := ruleset.Build(1, nil, nil, sets...)
		if err != nil {
			b.Fatal(err)
		}
		rules := make([]flow.Rule, tab.Len())
		for i := range rules {
			rules[i] = *tab.Rule(i)
		}
		for _, traffic := range traffics {
			b.Run(fmt.Sprintf("%s/%s", filepath.Base(file), traffic.name), func(b *testing.B) {
				traffic.Packets = packets
				keys := flowtest.Trace(rules, traffic.Traffic)
				for i := range keys { // as a ClassBench trace has them
					keys[i].Set(flow.Flags, flow.FlagIP|flow.FlagL4)
				}
				f(b, tab, keys)
			})
		}
	}
}

// BenchmarkPublished measures every lane on published sets, and checks every answer
// against the others.
func BenchmarkPublished(b *testing.B) {
	published(b, 1<<16, func(b *testing.B, t *flow.Table, keys []flow.Key) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var first []int32
		for _, lane := range matcher.Lanes() {
			if lane == matcher.Definition {
				continue
			}
			start := threadTime()
			c := matcher.Compile(t, matcher.WithLane(lane))
			build := threadTime() - start
			answers := make([]int32, len(keys))
			c.Lookup(&matcher.Batch{Keys: keys, Rules: answers})
			if first == nil {
				first = answers
				b.ReportMetric(build.Seconds()*1e3, "build-ms")
				b.ReportMetric(float64(c.Bytes())/float64(t.Len()), "B/rule")
				b.ReportMetric(0, "ns/op")
			}
			if !slices.Equal(first, answers) {
				b.Errorf("lane %s answers differently", lane)
			}
			b.ReportMetric(perSecond(c, keys, 256, 5, 0)/1e6, lane.String()+"-M/s")
			if lane != matcher.PureGo {
				b.ReportMetric(perSecond(c, keys, 256, 5, 256<<10)/1e6, lane.String()+"-256K-M/s")
			}
		}
		for range b.N {
		}
	})
}
