package fallback_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// spread is how many ports the tables of TestGenerations send to, in turns.
const spread = 3

// firstSource is the address of the first flow, which every table drops.
const firstSource = 0x0a000001

// firstDropped is the rule that does it.
var firstDropped = flow.NewRuleID("generation", "drop")

// generation is table g: a rule of its own that sends what comes in by port 1 to one port.
func generation(g uint64) *flow.Table {
	r := flow.Rule{ID: flow.NewRuleID("generation", fmt.Sprint(g)), Name: fmt.Sprint("generation/", g),
		Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{flow.Port(2 + g%spread)}}}}
	r.Match.Pin(flow.InPort, 1, 0xffff)
	d := flow.Rule{ID: firstDropped, Name: "generation/drop", Priority: 1, Actions: flow.Actions{{Op: flow.Drop}}}
	d.Match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	d.Match.Pin(flow.SrcLo, firstSource, 0xffffffff)
	return flowtest.NewTable([]flow.Rule{r, d}, flow.Actions{{Op: flow.Drop}})
}

// TestGenerations swaps tables under traffic that the cache answers. Every frame carries
// the time it was made at; where it comes out, it is compared with all tables that were
// current from then on. What goes in comes out, or is of the one flow that every table
// drops, and is counted for one rule.
//
// BLADEFLOW_GENERATIONS is how many tables, with 10,000 frames each; a run of that kind
// writes docs/results/generations.json.
func TestGenerations(t *testing.T) {
	generations := uint64(flowtest.Count(t, "BLADEFLOW_GENERATIONS", 120))
	if testing.Short() {
		generations = 10
	}
	began := time.Now()
	seen := throughGenerations(t, generations, 1)
	if os.Getenv("BLADEFLOW_GENERATIONS") != "" {
		flowtest.Record(t, "generations", 0, began, seen)
	}
}

// TestGenerationsQueues is the same with a port of two receive queues, each filled by a CPU
// of its own, if there are so many.
func TestGenerationsQueues(t *testing.T) {
	generations := uint64(40)
	if testing.Short() {
		generations = 10
	}
	throughGenerations(t, generations, 2)
}

// throughGenerations returns what it has seen.
func throughGenerations(t *testing.T, generations uint64, queues int) map[string]uint64 {
	began := time.Now()
	inNamespace(t)
	x := newTraffic(t, burst, firstSource)
	x.dropped = 1
	cables := layTraffic(t, 1+spread, x, queues)
	for port := flow.Port(2); port <= 1+spread; port++ {
		x.sinkAt(t, cables[port], uint32(port-2))
	}
	b := newBlade(t, cables, flowcache.Config{}, nil)
	const frames = 10_000
	swap(t, b.Datapath, generation(0))
	cpus := usableCPUs(t)
	var stops []func()
	for queue := range queues { // a veth holds 256 frames; and gives those that a CPU sends to the queue of its number
		stops = append(stops, x.startOn(t, cables[1].far, cpus[queue%len(cpus)], x.window(192)))
	}
	for g := range generations {
		waitFor(t, "frames", func() bool { return x.made() > g*frames })
		atomic.StoreUint64(&x.score.Clock, 2*g+1)
		swap(t, b.Datapath, generation(g+1))
		atomic.StoreUint64(&x.score.Clock, 2*g+2)
	}
	waitFor(t, "frames", func() bool { return x.made() >= generations*frames })
	for _, stop := range stops {
		stop()
	}
	made := x.made()
	waitFor(t, "the last frames", func() bool { return x.out() == x.due() })
	counted, rules := uint64(0), b.Counters()
	waitFor(t, "the last count", func() bool { // what was dropped came out nowhere
		counted, rules = 0, b.Counters()
		for _, n := range rules {
			counted += n.Packets
		}
		return counted >= made
	})
	dropped := rules[firstDropped].Packets
	inGo, inCache := b.answered()
	if x.score.Wrong != 0 || x.out()+dropped != made || counted != made || inGo+inCache != made {
		t.Errorf("of %d frames %d came out and %d were dropped, %d came out by no table, %d were counted for a rule, %d judged in Go and %d in the cache",
			made, x.out(), dropped, x.score.Wrong, counted, inGo, inCache)
	}
	if inCache < made/10 { // as a rule all but 1 in 80; on a machine that holds up a swap in its midst, fewer
		t.Errorf("the cache answered %d of %d frames", inCache, made)
	}
	if s := b.Stats(); s.Failed != 0 {
		t.Errorf("stats: %+v", s)
	}
	for queue, l := range b.queues[1] {
		if received, _, _ := l.Stats(); received == 0 && queue < len(cpus) {
			t.Errorf("nothing went up by queue %d of %d", queue, queues)
		}
	}
	t.Logf("%d frames over %d tables in %v: %d in Go, %d in the cache, %d on their way for more than one change",
		made, generations+1, time.Since(began), inGo, inCache, x.score.Late)
	return map[string]uint64{"frames": made, "generations": generations,
		"verdicts_of_neither_generation": x.score.Wrong, "judged_in_go": inGo, "judged_in_the_cache": inCache,
		"counted_for_rules": counted, "came_out": x.out(), "dropped": dropped, "over_more_than_one_change": x.score.Late}
}
