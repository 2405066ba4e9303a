package flowtest_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// classBench is what Measure says of published filter sets of the ClassBench type,
// with the actions of seed 1. The sets may be used to measure, not to copy, so
// only these figures are here; TestClassBench measures the sets again where they
// are. Their SHA-256 begin with d046d23e, d89c4655 (acl1), c5e12a29, eb59c48a (fw1),
// 8f6512d0, 50ff126e (ipc1).
var classBench = []struct {
	set    string
	family flowtest.Family
	stats  flowtest.Stats
}{
	{"acl1_1k", flowtest.ACL, flowtest.Stats{Rules: 920, Overlaps: 3.4315, ConflictsP99: 9.4375, Masks: 139, Ranges: 0.11630, Expansion: 1.3935}},
	{"acl1_10k", flowtest.ACL, flowtest.Stats{Rules: 9698, Overlaps: 4.4584, ConflictsP99: 5.0625, Masks: 296, Ranges: 0.11611, Expansion: 1.3630}},
	{"fw1_1k", flowtest.FW, flowtest.Stats{Rules: 848, Overlaps: 30.462, ConflictsP99: 178.06, Masks: 165, Ranges: 0.095519, Expansion: 3.1757}},
	{"fw1_10k", flowtest.FW, flowtest.Stats{Rules: 9357, Overlaps: 290.25, ConflictsP50: 1, ConflictsP99: 1678.5, Masks: 281, Ranges: 0.10292, Expansion: 3.3806}},
	{"ipc1_1k", flowtest.IPC, flowtest.Stats{Rules: 974, Overlaps: 6.1396, ConflictsP99: 49.0625, Masks: 323, Ranges: 0.10575, Expansion: 1.3234}},
	{"ipc1_10k", flowtest.IPC, flowtest.Stats{Rules: 9505, Overlaps: 55.156, ConflictsP99: 466.25, Masks: 708, Ranges: 0.10605, Expansion: 1.3388}},
}

// tolerance is how far a figure may be from the measured one.
const tolerance = 0.20

// figure is one of the numbers that have to agree.
type figure struct {
	name string
	of   func(*flowtest.Stats) float64
}

var figures = []figure{
	{"overlaps/rule", func(s *flowtest.Stats) float64 { return s.Overlaps }},
	{"conflicts p50", func(s *flowtest.Stats) float64 { return s.ConflictsP50 }},
	{"conflicts p99", func(s *flowtest.Stats) float64 { return s.ConflictsP99 }},
	{"masks", func(s *flowtest.Stats) float64 { return float64(s.Masks) }},
	{"range rules", func(s *flowtest.Stats) float64 { return s.Ranges }},
	{"expansion", func(s *flowtest.Stats) float64 { return s.Expansion }},
}

// TestFidelity compares generated sets of several seeds with the measured ones of
// the same number of rules, and prints the table.
func TestFidelity(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5}
	if testing.Short() {
		seeds = seeds[:2]
	}
	t.Logf("%-9s %6s  %-14s %10s %10s %10s  %s", "set", "rules", "figure", "measured", "ours from", "to", "worst")
	for _, c := range classBench {
		var ours []flowtest.Stats
		for _, seed := range seeds {
			ours = append(ours, flowtest.Measure(flowtest.Generate(c.family, c.stats.Rules, seed), seed))
		}
		for _, f := range figures {
			want := f.of(&c.stats)
			low, high, worst := math.Inf(1), math.Inf(-1), 0.0
			for i := range ours {
				got := f.of(&ours[i])
				low, high = min(low, got), max(high, got)
				worst = max(worst, distance(got, want))
			}
			t.Logf("%-9s %6d  %-14s %10.4g %10.4g %10.4g  %3.0f%%", c.set, c.stats.Rules, f.name, want, low, high, 100*worst)
			if worst > tolerance {
				t.Errorf("%s: %s is %.4g … %.4g, measured %.4g", c.set, f.name, low, high, want)
			}
		}
	}
	for _, n := range []int{1000, 10_000} {
		s := flowtest.Measure(flowtest.Generate(flowtest.Segment, n, 1), 1)
		for _, f := range figures {
			t.Logf("%-9s %6d  %-14s %10s %10.4g", "segment", n, f.name, "-", f.of(&s))
		}
	}
}

// distance is the relative difference of got from want; where want is zero, any
// difference is infinitely large.
func distance(got, want float64) float64 {
	if got == want {
		return 0
	}
	return math.Abs(got-want) / want
}

// TestRoundSizes checks that sets of 1,000 and 10,000 rules, as people ask for, are
// as close to the measured sets, which have a few rules less.
func TestRoundSizes(t *testing.T) {
	for i, c := range classBench {
		s := flowtest.Measure(flowtest.Generate(c.family, []int{1000, 10_000}[i%2], 7), 7)
		for _, f := range figures {
			if got, want := f.of(&s), f.of(&c.stats); distance(got, want) > tolerance {
				t.Errorf("%s with %d rules: %s is %.4g, measured %.4g", c.family, s.Rules, f.name, got, want)
			}
		}
	}
}

// TestClassBench measures the published sets again, from the unpacked files in the
// folder BLADEFLOW_CLASSBENCH.
func TestClassBench(t *testing.T) {
	dir := os.Getenv("BLADEFLOW_CLASSBENCH")
	if dir == "" {
		t.Skip("BLADEFLOW_CLASSBENCH names no folder with the published sets")
	}
	for _, c := range classBench {
		got := flowtest.Measure(readClassBench(t, filepath.Join(dir, c.set)), 1)
		if got.Rules != c.stats.Rules {
			t.Errorf("%s: %d rules, recorded %d", c.set, got.Rules, c.stats.Rules)
		}
		for _, f := range figures {
			if now, then := f.of(&got), f.of(&c.stats); distance(now, then) > 0.001 { // the record is rounded
				t.Errorf("%s: %s is %v, recorded %v", c.set, f.name, now, then)
			}
		}
	}
}

func readClassBench(t *testing.T, path string) []flow.Rule {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := ruleset.Decode(ruleset.ClassBench, path, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sets[0].Rules
}
