package peers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
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

const (
	batch  = 256
	rounds = 3
	passes = 51 // of some 0.1 ms each
	// warmUp is for the processor, which has waited for the other program; that one
	// has built its tables just before it is measured.
	warmUp = 50 * time.Millisecond
)

// algorithm returns the fastest way of rte_acl on this machine.
func algorithm() string {
	if matcher.Lanes()[0] == matcher.AVX512 {
		return "avx512x32"
	}
	return "avx2"
}

// BenchmarkPeers measures the fastest lane and rte_acl, in its fastest way, in turn, on generated sets and
// on those in the directory BLADEFLOW_CLASSBENCH, and prints the ratio of the medians.
// BLADEFLOW_RTEACL is the program of the folder rteacl.
func BenchmarkPeers(b *testing.B) {
	program := os.Getenv("BLADEFLOW_RTEACL")
	if program == "" {
		b.Skip("BLADEFLOW_RTEACL names no program: use make bench-peers")
	}
	for _, s := range sets(b) {
		for _, t := range []struct {
			name string
			flowtest.Traffic
		}{{"uniform", flowtest.Traffic{}}, {"zipf", flowtest.Traffic{Zipf: 1.05}}, {"mix", flowtest.Traffic{Mix: 0.3}}} {
			b.Run(s.name+"/"+t.name, func(b *testing.B) {
				t.Packets = 64 * batch
				compare(b, program, s.rules, t.Traffic)
			})
		}
	}
}

type set struct {
	name  string
	rules []flow.Rule
}

func sets(b *testing.B) (out []set) {
	for _, family := range flowtest.Families() {
		for _, n := range []int{1000, 10_000} {
			out = append(out, set{fmt.Sprintf("%s-%d", family, n), flowtest.Generate(family, n, 1)})
		}
	}
	files, _ := filepath.Glob(filepath.Join(os.Getenv("BLADEFLOW_CLASSBENCH"), "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.HasPrefix(data, []byte("@")) {
			continue
		}
		parsed, err := ruleset.Decode(ruleset.ClassBench, file, data, nil)
		if err != nil {
			b.Fatal(err)
		}
		tab, err := ruleset.Build(1, nil, nil, parsed...)
		if err != nil {
			b.Fatal(err)
		}
		s := set{name: filepath.Base(file)}
		for i := range tab.Len() {
			s.rules = append(s.rules, *tab.Rule(i))
		}
		out = append(out, s)
	}
	return out
}

func compare(b *testing.B, program string, rules []flow.Rule, traffic flowtest.Traffic) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var core unix.CPUSet
	core.Set(runtime.NumCPU() - 1) // the child inherits it
	if err := unix.SchedSetaffinity(0, &core); err != nil {
		b.Fatal(err)
	}
	tr := ruleset.Trace{Keys: flowtest.Trace(rules, traffic)}
	for i := range tr.Keys { // as a ClassBench trace has them
		tr.Keys[i].Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	}
	tab := flowtest.NewTable(rules, nil)
	start := threadTime()
	c := matcher.Compile(tab)
	build := threadTime() - start
	tr.Expected = make([]int32, len(tr.Keys))
	matcher.Compile(tab, matcher.WithLane(matcher.PureGo)).Lookup(&matcher.Batch{Keys: tr.Keys, Rules: tr.Expected})
	ruleFile, traceFile := filepath.Join(b.TempDir(), "rules"), filepath.Join(b.TempDir(), "trace")
	var text bytes.Buffer
	if err := tr.Write(&text); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(traceFile, text.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	text.Reset()
	rules = slices.Clone(rules)
	for i := range rules {
		rules[i].Name = fmt.Sprintf("r%d", i)
	}
	s, err := ruleset.New("peers", flow.TierTenant, nil, rules)
	if err == nil {
		err = ruleset.Encode(&text, ruleset.ClassBench, []*ruleset.Set{s}, nil)
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(ruleFile, text.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	var ours, theirs []float64
	var theirBuild float64
	for range rounds {
		ours = append(ours, perSecond(b, c, &tr))
		out, err := exec.Command(program, ruleFile, traceFile, algorithm(), fmt.Sprint(passes)).Output()
		if err != nil {
			b.Fatal(err)
		}
		var rate float64
		var wrong int
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n")) // DPDK talks before
		if _, err := fmt.Sscan(string(lines[len(lines)-1]), &rate, &theirBuild, &wrong); err != nil {
			b.Fatalf("rte_acl printed %q: %v", out, err)
		}
		if wrong > 0 {
			b.Errorf("rte_acl has %d other answers", wrong)
		}
		theirs = append(theirs, rate)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours[rounds/2], "bladeflow-M/s")
	b.ReportMetric(theirs[rounds/2], "rte_acl-M/s")
	b.ReportMetric(ours[rounds/2]/theirs[rounds/2], "ratio")
	b.ReportMetric(build.Seconds()*1e3, "build-ms")
	b.ReportMetric(theirBuild*1e3, "rte_acl-build-ms")
	for range b.N {
	}
}

// perSecond returns the median of millions of lookups in a second of CPU time.
func perSecond(b *testing.B, c *matcher.Classifier, tr *ruleset.Trace) float64 {
	bt := matcher.Batch{Rules: make([]int32, batch)}
	var times []time.Duration
	for begin := threadTime(); threadTime()-begin < warmUp; {
		for at := 0; at < len(tr.Keys); at += batch {
			bt.Keys = tr.Keys[at : at+batch]
			c.Lookup(&bt)
		}
	}
	for pass := -1; pass < passes; pass++ {
		start := threadTime()
		for at := 0; at < len(tr.Keys); at += batch {
			bt.Keys = tr.Keys[at : at+batch]
			c.Lookup(&bt)
			if pass < 0 && !slices.Equal(bt.Rules, tr.Expected[at:at+batch]) {
				b.Fatal("wrong answers")
			}
		}
		if pass >= 0 {
			times = append(times, threadTime()-start)
		}
	}
	slices.Sort(times)
	return float64(len(tr.Keys)) / times[passes/2].Seconds() * 1e-6
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}
