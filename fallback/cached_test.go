package fallback_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afpacket"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// The tests of this file have the kernel as their oracle: run them with -count=1.

// blade is a datapath with a flow cache on cables of its own.
type blade struct {
	*fallback.Datapath
	cache  *flowcache.Cache
	cables map[flow.Port]*cable
	queues map[flow.Port][]fallback.Link
}

// newBlade runs a datapath with a cache between cables.
func newBlade(t testing.TB, cables map[flow.Port]*cable, c flowcache.Config, p map[flow.Port]flowcache.PortConfig) *blade {
	t.Helper()
	b := &blade{cables: cables}
	var err error
	b.cache, err = flowcache.Open(c)
	must.Have(t, "xdp", err)
	t.Cleanup(func() {
		if err := b.cache.Close(); err != nil {
			t.Error("close the cache:", err)
		}
	})
	config := fallback.Config{Queues: map[flow.Port][]fallback.Link{}, Cache: b.cache}
	reps := map[flow.Port]int{}
	for port, c := range b.cables {
		must.Have(t, "xdp", b.cache.Attach(port, c.rep, p[port]))
		queues, err := afxdp.OpenIn(c.rep, b.cache.Sockets(), func(queue int) uint32 { return flowcache.Place(port, queue) })
		must.Have(t, "afxdp", err)
		for _, l := range queues {
			t.Cleanup(func() { l.Close() })
			if len(queues) == 1 {
				must.Have(t, "afxdp", l.Redirect(func() int { return b.cache.Takes(port) }))
			}
			config.Queues[port] = append(config.Queues[port], l)
		}
		reps[port] = c.rep
	}
	kernel, err := afpacket.OpenKernel(reps)
	must.Have(t, "veth", err)
	t.Cleanup(func() { kernel.Close() })
	config.Kernel = kernel
	b.queues = config.Queues
	b.Datapath = run(t, config)
	return b
}

// answered is how many frames were judged, here or in the cache.
func (b *blade) answered() (inGo, inCache uint64) {
	for _, n := range b.Cached() {
		inCache += n.Packets
	}
	return b.Stats().Frames, inCache
}

// waitFor polls until done, for as long as a loaded machine may take.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}

// TestCachedJudge is the differential: random tables and frames, each frame three times,
// the later ones through the cache, against flow.Judge byte for byte; and counters of
// both tiers together against what was sent.
func TestCachedJudge(t *testing.T) {
	inNamespace(t)
	b := newBlade(t, map[flow.Port]*cable{1: newCable(t, "a"), 2: newCable(t, "b")}, flowcache.Config{}, nil)
	for _, c := range b.cables {
		c.watchKernel(t)
	}
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	want := map[flow.RuleID]flow.Counter{}
	sent, again := uint64(0), uint64(0) // again: of flows that the cache must know by then
	for round := range 40 {
		tab := randomTable(rng, []flow.Port{1, 2})
		swap(t, b.Datapath, tab)
		in := flow.Port(1 + round%2)
		var emissions []flow.Emission
		var frames [][]byte
		for n := range 10 {
			f := testFrame(64+rng.IntN(500), rng.IntN(4), 10*round+n)
			if known := randomFrame(rng, tab); rng.IntN(2) == 0 && len(known) >= 60 && len(known) < 1500 {
				f = known
				copy(f[6:], ourSource)
			}
			frames = append(frames, f)
		}
		for times := range 3 {
			for _, f := range frames {
				for _, e := range flow.Judge(tab, f, in) {
					if e.Kernel || b.cables[e.Port] != nil {
						emissions = append(emissions, e)
					}
				}
				k, _ := flow.Parse(f, in)
				rule := tab.Rule(tab.Lookup(&k))
				id := rule.ID
				if a := rule.Actions[0]; times > 0 && k.Get(flow.Flags)&flow.FlagOdd == 0 &&
					(a.Op == flow.Drop || a.Op == flow.Pass || a.Op == flow.Output && len(a.Ports) == 1 && b.cables[a.Ports[0]] != nil) {
					again++
				}
				want[id] = flow.Counter{Packets: want[id].Packets + 1, Bytes: want[id].Bytes + uint64(len(f))}
			}
			b.cables[in].send(t, frames...)
			sent += uint64(len(frames))
			waitFor(t, "answers", func() bool { g, c := b.answered(); return g+c == sent })
		}
		var got []flow.Emission
		for port, c := range b.cables {
			add := func(r *recorder, kernel bool) {
				n := 0
				for _, e := range emissions {
					if e.Port == port && e.Kernel == kernel {
						n++
					}
				}
				for _, f := range r.frames(t, n) {
					got = append(got, flow.Emission{Port: port, Kernel: kernel, Bytes: f})
				}
			}
			add(c.wire, false)
			add(c.kernel, true)
		}
		if !flow.SameEmissions(got, emissions) {
			t.Fatalf("table %d: got%s\nwant%s", round, show(got), show(emissions))
		}
	}
	if s := b.Stats(); s.Failed != 0 {
		t.Errorf("failures: %+v", s)
	}
	got := b.Counters()
	for id, n := range want {
		if got[id] != n {
			t.Errorf("rule %x: counted %+v, want %+v", id, got[id], n)
		}
	}
	inGo, inCache := b.answered()
	if inCache < again {
		t.Errorf("the cache answered %d frames, of %d that it must know", inCache, again)
	}
	t.Logf("%d frames in Go, %d in the cache", inGo, inCache)
}

// TestCachedFlow pins the tiers of one flow: the first frame goes up, the others do not,
// and a new table takes it back.
func TestCachedFlow(t *testing.T) {
	inNamespace(t)
	b := newBlade(t, map[flow.Port]*cable{1: newCable(t, "a"), 2: newCable(t, "b")}, flowcache.Config{}, nil)
	to := func(port flow.Port) *flow.Table {
		return flowtest.NewTable(nil, flow.Actions{{Op: flow.Output, Ports: []flow.Port{port}}})
	}
	swap(t, b.Datapath, to(2))
	check := func(inGo, inCache uint64) {
		t.Helper()
		waitFor(t, "answers", func() bool { g, c := b.answered(); return g+c >= inGo+inCache })
		if g, c := b.answered(); g != inGo || c != inCache {
			t.Fatalf("%d frames in Go and %d in the cache, want %d and %d", g, c, inGo, inCache)
		}
	}
	frame := testFrame(64, 0, 1)
	b.cables[1].send(t, frame)
	check(1, 0)
	waitFor(t, "install", func() bool { return b.Stats().Cache.Flows == 1 })
	for range 100 {
		b.cables[1].send(t, frame)
	}
	check(1, 100)
	checkFrames(t, "port 2", b.cables[2].wire.frames(t, 101)[:1], [][]byte{frame})
	swap(t, b.Datapath, to(1))
	if n := b.Stats().Cache.Flows; n != 0 {
		t.Errorf("%d flows after a swap", n)
	}
	b.cables[1].send(t, frame)
	check(2, 100)
	checkFrames(t, "port 1", b.cables[1].wire.frames(t, 1), [][]byte{frame})
}
