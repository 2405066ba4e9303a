package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

func benchCommand() *cobra.Command {
	return group("bench", "measure on this machine", "  bladeflow bench matcher --rules acl.rules --from classbench --trace acl.trace", benchMatcher(), benchDatapath())
}

func benchMatcher() *cobra.Command {
	var in rulesInput
	var trace string
	var core int
	cmd := &cobra.Command{
		Use:   "matcher --rules F --trace F",
		Short: "measure how fast each lane looks up the packets of a trace",
		Long: `Measure how many packets of a trace each lane of the matcher looks up a second.

Times are CPU time of one thread, the median of 7 passes through the trace, so that
other work on the machine disturbs little. Answers are compared with what the trace
expects, or, where it does not say, with the definition on a sample of packets.
Traffic is, beside the trace, the trace while every batch also touches 256 KiB of other
memory, as a datapath would; and packets that only the last rule answers, or none, made of
the sources, destinations and ports of the trace.
Building is measured for the lane, in CPU time; memory is that beside the rules.
Updates take single rules out of the fastest lane, without an accelerator, and put them in
again, while another goroutine looks the trace up: as fast as they go, which gives their
times, then 100,000 a second, which gives the share of their speed that lookups keep.`,
		Example: `  bladeflow bench matcher --rules acl.rules --from classbench --trace acl.trace --cpu 1 -o json`,
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&trace, "trace", "", "file of packets, - for standard input")
	cmd.Flags().IntVar(&core, "cpu", -1, "processor to stay on")
	output := outputFlag(cmd, "table", "json")
	_ = cmd.MarkFlagRequired("trace")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		p, err := readPackets(cmd, trace, ports)
		if err != nil {
			return err
		}
		if len(p.keys) == 0 {
			return usage(trace, "it has no packets", "give a trace with at least one")
		}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if core >= 0 {
			var set unix.CPUSet
			set.Set(core)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return usage(fmt.Sprintf("--cpu %d", core), err.Error(), "use a processor of this machine")
			}
		}
		r, err := measure(cmd, t, p)
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return printMatcher(cmd.OutOrStdout(), r)
	}
	return cmd
}

func printMatcher(w io.Writer, r matcherFigures) error {
	rows := [][]string{{"LANE", "BATCH", "TRAFFIC", "LOOKUPS/S", "WRONG"}}
	for _, some := range []struct {
		traffic string
		lanes   []laneFigures
	}{{"trace", r.Lanes}, {"trace, 256 KiB touched", r.Touched}, {"last rule", r.Last}} {
		for _, l := range some.lanes {
			rows = append(rows, []string{l.Lane, fmt.Sprint(l.Batch), some.traffic, fmt.Sprintf("%.0f", l.PerSecond), fmt.Sprint(l.Wrong)})
		}
	}
	if err := printTable(w, rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "%s, built in %.4f s, %.1f bytes a rule\n", count(r.Rules, "rule"), r.BuildSeconds, r.BytesPerRule); err != nil {
		return err
	}
	u := r.Update
	if u == nil {
		return nil
	}
	return printTable(w, [][]string{{"UPDATES/S", "MEAN NS", "MEDIAN NS", "99 % NS", "LONGEST NS", "LOOKUPS KEEP"},
		{fmt.Sprintf("%.0f", u.PerSecond), fmt.Sprintf("%.0f", u.Mean), fmt.Sprintf("%.0f", u.P50), fmt.Sprintf("%.0f", u.P99), fmt.Sprintf("%.0f", u.Max),
			fmt.Sprintf("%.2f", u.LookupsKeep)}})
}

// matcherFigures is what `bench matcher` prints.
type matcherFigures struct {
	Rules        int           `json:"rules"`
	BuildSeconds float64       `json:"build_seconds"`
	BytesPerRule float64       `json:"bytes_per_rule"`
	Lanes        []laneFigures `json:"lanes"`
	// Touched is of the trace while each batch touches touchedBytes of other memory.
	Touched []laneFigures `json:"touched"`
	// Last is of packets that only the last rule answers, or none; empty if none were found.
	Last []laneFigures `json:"last"`

	Update *updateFigures `json:"update"` // null without rules
}

type laneFigures struct {
	Lane      string  `json:"lane"`
	Batch     int     `json:"batch"`
	PerSecond float64 `json:"lookups_per_second"`
	Wrong     int     `json:"wrong"`
}

// measure looks p up in every lane, in batches of 256 and of 32.
func measure(cmd *cobra.Command, t rules, p packets) (matcherFigures, error) {
	r := matcherFigures{Rules: t.Len(), Last: []laneFigures{}}
	last := lastTraffic(t, p)
	for i, lane := range matcher.Lanes() {
		doing(cmd, "measuring lane %s", lane)
		start, err := threadTime()
		if err != nil {
			return r, err
		}
		c := matcher.Compile(t.Table, matcher.WithLane(lane))
		end, err := threadTime()
		if err != nil {
			return r, err
		}
		if i == 0 {
			r.BuildSeconds = (end - start).Seconds()
			r.BytesPerRule = float64(c.Bytes()) / float64(max(1, t.Len()))
		}
		some := p
		if lane == matcher.Definition {
			// It takes up to a nanosecond for each rule and packet.
			some.keys = p.keys[:min(len(p.keys), 256+100_000_000/(t.Len()+1))]
		}
		wrong := wrongAnswers(t, c, some)
		for _, batch := range []int{256, 32} {
			perSecond, err := rate(c, some.keys, batch, 0)
			if err != nil {
				return r, err
			}
			r.Lanes = append(r.Lanes, laneFigures{lane.String(), batch, perSecond, wrong})
		}
		if lane == matcher.Definition {
			continue
		}
		perSecond, err := rate(c, p.keys, 256, touchedBytes)
		if err != nil {
			return r, err
		}
		r.Touched = append(r.Touched, laneFigures{lane.String(), 256, perSecond, wrong})
		if len(last.keys) > 0 {
			if perSecond, err = rate(c, last.keys, 256, 0); err != nil {
				return r, err
			}
			r.Last = append(r.Last, laneFigures{lane.String(), 256, perSecond, wrongAnswers(t, c, last)})
		}
	}
	doing(cmd, "measuring updates")
	var err error
	r.Update, err = measureUpdates(t, p)
	return r, err
}

// touchedBytes is the other memory that a batch touches, as the frames, descriptors and
// counters of a datapath would.
const touchedBytes = 256 << 10

// rate returns the median number of lookups in a second of CPU time, while each batch
// touches that many bytes of other memory; the time of that alone does not count.
func rate(c *matcher.Classifier, keys []flow.Key, batch, touched int) (float64, error) {
	const passes = 7
	var times []time.Duration
	for len(times) < passes+1 { // the first one warms up
		spent, err := passTime(c, keys, batch, touched)
		if err != nil {
			return 0, err
		}
		if touched > 0 {
			touching, err := passTime(nil, keys, batch, touched)
			if err != nil {
				return 0, err
			}
			spent -= touching
		}
		times = append(times, max(1, spent))
	}
	times = times[1:]
	slices.Sort(times)
	return float64(len(keys)) / times[passes/2].Seconds(), nil
}

// passTime returns the CPU time of one pass through keys; with a nil c nothing is looked up.
func passTime(c *matcher.Classifier, keys []flow.Key, batch, touched int) (time.Duration, error) {
	b := matcher.Batch{Rules: make([]int32, batch)}
	other := make([]byte, touched)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	for chunk := range slices.Chunk(keys, batch) {
		if c != nil {
			b.Keys = chunk
			c.Lookup(&b)
		}
		for i := 0; i < len(other); i += 64 {
			other[i]++
		}
	}
	end, err := threadTime()
	return end - start, err
}

// lastTraffic returns as many packets as p has, 16,384 at most, that only the last rule
// answers, or none: the sources, destinations and ports of p, dealt anew or random. There are
// fewer where hardly any are found, and none where that is not a batch.
func lastTraffic(t rules, p packets) packets {
	const most, tries = 16 << 10, 512
	rng := rand.New(rand.NewPCG(3, 4))
	c := matcher.Compile(t.Table, matcher.SaveMemory())
	b := matcher.Batch{Keys: make([]flow.Key, 256), Rules: make([]int32, 256)}
	var out packets
	for range tries {
		for i := range b.Keys {
			k := p.keys[rng.IntN(len(p.keys))]
			for _, fields := range [][]flow.Field{{flow.SrcHi, flow.SrcLo}, {flow.DstHi, flow.DstLo}, {flow.SrcPort}, {flow.DstPort}} {
				other := &p.keys[rng.IntN(len(p.keys))]
				for _, f := range fields {
					k.Set(f, other.Get(f))
				}
				if f := fields[len(fields)-1]; rng.IntN(2) == 0 && (f == flow.SrcLo || f == flow.DstLo || k.Get(flow.Flags)&flow.FlagL4 != 0) {
					k.Set(f, k.Get(f)^rng.Uint64N(1+min(f.Max(), math.MaxUint32)))
				}
			}
			b.Keys[i] = k
		}
		c.Lookup(&b)
		for i, rule := range b.Rules {
			if int(rule) >= t.Len()-1 {
				out.keys = append(out.keys, b.Keys[i])
			}
		}
		if len(out.keys) >= min(most, len(p.keys)) {
			return out
		}
	}
	if len(out.keys) < len(b.Keys) {
		return packets{}
	}
	return out
}

// wrongAnswers counts the packets that get another rule than the trace expects, or
// than the definition says if the trace does not.
func wrongAnswers(t rules, c *matcher.Classifier, p packets) int {
	answers := make([]int32, len(p.keys))
	c.Lookup(&matcher.Batch{Keys: p.keys, Rules: answers})
	step := 1
	if p.expected == nil {
		step = 1 + len(p.keys)*(t.Len()+1)/1_000_000_000
	}
	wrong := 0
	for i := 0; i < len(answers); i += step {
		right := p.expected == nil && int(answers[i]) == t.Lookup(&p.keys[i]) ||
			p.expected != nil && t.expects(p.expected[i], int(answers[i]))
		if !right {
			wrong++
		}
	}
	return wrong
}

// threadTime returns the CPU time that this thread has used.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of the thread: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
