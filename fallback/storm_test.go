package fallback_test

import (
	"os"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// The ports of TestStorm: what comes in by each goes out by the next one.
const (
	stormPort  = flow.Port(1) // every frame is of a new flow, and as many as it can
	steadyPort = flow.Port(3) // 64 flows that the cache knows
	freshPort  = flow.Port(5) // new flows, too, but not many
)

// everyFlow makes each frame of a generator one of a flow of its own.
const everyFlow = 1 << 30

// stormTable forwards each port's frames by the next one, and looks at addresses.
func stormTable() *flow.Table {
	var rules []flow.Rule
	for port, name := range map[flow.Port]string{stormPort: "storm", steadyPort: "steady", freshPort: "fresh"} {
		r := flow.Rule{ID: flow.NewRuleID("storm", name), Name: "storm/" + name, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{port + 1}}}}
		r.Match.Pin(flow.InPort, uint64(port), 0xffff)
		rules = append(rules, r)
	}
	address := flow.Rule{ID: flow.NewRuleID("storm", "address"), Name: "storm/address", Priority: 1, Actions: flow.Actions{{Op: flow.Drop}}}
	address.Match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	address.Match.Pin(flow.SrcLo, 1, 0xffffffff)
	return flowtest.NewTable(append(rules, address), flow.Actions{{Op: flow.Drop}})
}

// TestStorm floods one port with frames of new flows while another has known flows and a
// third some new ones: both keep 90 % of their deliveries, and the known flows of their
// answers from the cache. Of the storm no more goes up than its port may send.
//
// BLADEFLOW_STORM is how many frames the storm has; a run of that kind writes
// docs/results/storm.json.
func TestStorm(t *testing.T) {
	began := time.Now()
	inNamespace(t)
	storm, steady, fresh := newTraffic(t, everyFlow, 0x20000000), newTraffic(t, burst, 0x0a000001), newTraffic(t, everyFlow, 0x70000000)
	cables, limits := map[flow.Port]*cable{}, map[flow.Port]flowcache.PortConfig{}
	const rate, depth = 20_000, 1024
	for port, x := range map[flow.Port]*traffic{stormPort: storm, steadyPort: steady, freshPort: fresh} {
		for _, p := range []flow.Port{port, port + 1} {
			cables[p] = layCable(t, string(rune('a'+p-1)), x.sink)
			limits[p] = flowcache.PortConfig{Upcalls: rate, Burst: depth}
		}
		x.sinkAt(t, cables[port+1], 0)
	}
	b := newBlade(t, cables, flowcache.Config{}, limits)
	swap(t, b.Datapath, stormTable())
	frames := uint64(flowtest.Count(t, "BLADEFLOW_STORM", 300_000))
	known := flow.NewRuleID("storm", "steady")
	hits := func() uint64 { return b.Cached()[known].Packets }

	stopSteady := steady.start(t, cables[steadyPort].far, every(burst*time.Second/20_000))
	waitFor(t, "known flows", func() bool { return hits() > 10*burst })
	made, came, hit := steady.made(), steady.out(), hits()
	stopFresh := fresh.start(t, cables[freshPort].far, every(burst*time.Second/2000))
	waitFor(t, "new flows", func() bool { return fresh.made() > 0 })
	stormed := time.Now()
	stopStorm := storm.start(t, cables[stormPort].far, func() bool { return storm.made() < frames })
	for part := range uint64(100) {
		waitFor(t, "a hundredth of the storm", func() bool { return storm.made() >= frames*(part+1)/100 })
	}
	stopStorm()
	up := b.Stats().Cache.Ports[stormPort]
	lasted := time.Since(stormed)
	stopFresh()
	stopSteady()
	var figures struct {
		Frames, Up, Limited                uint64
		Seconds                            float64
		Steady, SteadyCame, SteadyHit      uint64
		Fresh, FreshCame, Flows, Evictions uint64
	}
	f := &figures
	f.Frames, f.Up, f.Limited, f.Seconds = storm.made(), up.Upcalls, up.Limited, lasted.Seconds()
	settled := func() bool { // those that are not lost
		was := steady.out() + fresh.out() + hits()
		time.Sleep(100 * time.Millisecond)
		f.Steady, f.SteadyCame, f.SteadyHit = steady.made()-made, steady.out()-came, hits()-hit
		f.Fresh, f.FreshCame = fresh.made(), fresh.out()
		return was == steady.out()+fresh.out()+hits()
	}
	waitFor(t, "the last frames", settled)
	stats := b.Stats().Cache
	f.Flows, f.Evictions = uint64(stats.Flows), stats.Evicted
	t.Logf("%+v", *f)
	if f.Steady == 0 || f.Fresh == 0 || f.Limited == 0 || f.Up+f.Limited > f.Frames {
		t.Fatalf("there was no storm: %+v", *f)
	}
	if most := uint64(depth + rate*lasted.Seconds() + 1); f.Up > most {
		t.Errorf("%d frames of the storm went up in %v, and %d may", f.Up, lasted, most)
	}
	for what, share := range map[string]float64{"delivery of known flows": float64(f.SteadyCame) / float64(f.Steady),
		"hits of known flows": float64(f.SteadyHit) / float64(f.Steady), "delivery of new flows": float64(f.FreshCame) / float64(f.Fresh)} {
		if share < 0.9 {
			t.Errorf("%s: %.1f %% in the storm", what, 100*share)
		}
	}
	if os.Getenv("BLADEFLOW_STORM") != "" {
		flowtest.Record(t, "storm", 0, began, figures)
	}
}
