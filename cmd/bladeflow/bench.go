package main

import (
	"fmt"
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
Building is measured for the lane, in CPU time; memory is that beside the rules.
Updates take single rules out of the fastest lane and put them in again, while another
goroutine looks the trace up.`,
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
		rows := [][]string{{"LANE", "BATCH", "LOOKUPS/S", "WRONG"}}
		for _, l := range r.Lanes {
			rows = append(rows, []string{l.Lane, fmt.Sprint(l.Batch), fmt.Sprintf("%.0f", l.PerSecond), fmt.Sprint(l.Wrong)})
		}
		if err := printTable(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, built in %.4f s, %.1f bytes a rule\n", count(r.Rules, "rule"), r.BuildSeconds, r.BytesPerRule)
		return err
	}
	return cmd
}

// matcherFigures is what `bench matcher` prints.
type matcherFigures struct {
	Rules        int           `json:"rules"`
	BuildSeconds float64       `json:"build_seconds"`
	BytesPerRule float64       `json:"bytes_per_rule"`
	Lanes        []laneFigures `json:"lanes"`

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
	r := matcherFigures{Rules: t.Len()}
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
			perSecond, err := rate(c, some.keys, batch)
			if err != nil {
				return r, err
			}
			r.Lanes = append(r.Lanes, laneFigures{lane.String(), batch, perSecond, wrong})
		}
	}
	doing(cmd, "measuring updates")
	var err error
	r.Update, err = measureUpdates(t, p)
	return r, err
}

// rate returns the median number of lookups in a second of CPU time.
func rate(c *matcher.Classifier, keys []flow.Key, batch int) (float64, error) {
	const passes = 7
	b := matcher.Batch{Rules: make([]int32, batch)}
	var times []time.Duration
	for len(times) < passes+1 { // the first one warms up
		start, err := threadTime()
		if err != nil {
			return 0, err
		}
		for chunk := range slices.Chunk(keys, batch) {
			b.Keys = chunk
			c.Lookup(&b)
		}
		end, err := threadTime()
		if err != nil {
			return 0, err
		}
		times = append(times, max(1, end-start))
	}
	times = times[1:]
	slices.Sort(times)
	return float64(len(keys)) / times[passes/2].Seconds(), nil
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
