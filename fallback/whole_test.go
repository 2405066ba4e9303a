package fallback

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// whole is the whole path of one port, without netdevs that carry anything: the cache's
// program is run on one frame at a time, and what it gives to Go is judged by a worker
// that is called by hand, which makes the flow known. What comes out is compared with the
// definition, and so are counters.
type whole struct {
	*Datapath
	sent    *[]flow.Emission
	program *ebpf.Program
	rng     *rand.Rand
	table   *flow.Table
	out     []byte
	judged  int                          // under the table
	counted map[flow.RuleID]flow.Counter // as the definition counts
	known   int                          // frames that the cache has answered
	onward  int                          // … by sending them on
}

// lo is the number of the loopback device, in every namespace: by it come the frames of a
// test run.
const lo = 1

// newWhole makes a path, whose tables are those of a random sequence.
func newWhole(t testing.TB, rng *rand.Rand) *whole {
	t.Helper()
	p := &whole{rng: rng, out: make([]byte, 4096), counted: map[flow.RuleID]flow.Counter{}}
	cache, err := flowcache.Open(flowcache.Config{})
	must.Have(t, "xdp", err)
	t.Cleanup(func() {
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
	})
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		failed <- func() error {
			own, err := netns.New()
			if err != nil {
				return err
			}
			t.Cleanup(func() { own.Close() }) // its devices are the cache's ways out
			if err := cache.Attach(1, lo, flowcache.PortConfig{}); err != nil {
				return err
			}
			for port := flow.Port(2); port <= 3; port++ {
				if err := wayOut(t, cache, port); err != nil {
					return err
				}
			}
			dev, err := netlink.LinkByIndex(lo)
			if err != nil {
				return err
			}
			p.program, err = ebpf.NewProgramFromID(ebpf.ProgramID(dev.Attrs().Xdp.ProgId))
			return err
		}()
	}()
	must.Have(t, "xdp", <-failed)
	t.Cleanup(func() { p.program.Close() })
	p.Datapath, _, p.sent = taped(t)
	p.Datapath.cache = cache
	p.change(t)
	return p
}

// wayOut lays a cable for a port that frames leave by. With a program at its far end it
// takes XDP frames.
func wayOut(t testing.TB, cache *flowcache.Cache, port flow.Port) error {
	far := fmt.Sprint("far", port)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("rep", port)}, PeerName: far}); err != nil {
		return err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		return err
	}
	t.Cleanup(func() { program.Close() })
	index := map[string]int{}
	for _, name := range []string{fmt.Sprint("rep", port), far} {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return err
		}
		index[name] = dev.Attrs().Index
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: index[far], Flags: link.XDPDriverMode})
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	return cache.Output(port, index[fmt.Sprint("rep", port)])
}

// change makes another table current, after what was counted has been compared.
func (p *whole) change(t testing.TB) {
	t.Helper()
	if got := p.Counters(); !maps.Equal(got, p.counted) {
		t.Fatalf("counted\n%v, want\n%v", got, p.counted)
	}
	ports := []flow.Port{1, 2, 3, 9} // 9 has no link
	all := flowtest.Universes()
	rules := flowtest.WithSets(p.rng, all[p.rng.IntN(len(all))].Rules(p.rng, 1+p.rng.IntN(60), ports))
	for i := range p.rng.IntN(4) {
		r := flow.Rule{ID: flow.NewRuleID("tags", fmt.Sprint(i)), Name: fmt.Sprint("tags/", i), Tier: flow.TierSystem, Priority: int32(i), Actions: flowtest.Actions(p.rng, ports)}
		r.Match.Pin(flow.VLAN, uint64(p.rng.IntN(2))*flow.TagPresent, flow.TagPresent)
		r.Match.Pin(flow.EthType, []uint64{flow.EthIPv4, flow.EthIPv6, flow.EthARP, flow.EthVLAN}[p.rng.IntN(4)], 0xffff)
		rules = append(rules, r)
	}
	p.table, p.judged = flowtest.NewTable(rules, flowtest.Actions(p.rng, ports)), 0
	if err := p.Swap(p.table); err != nil {
		t.Fatal(err)
	}
}

// perTable is how many frames are judged by one table: the cache has places for more
// flows than that.
const perTable = 4000

// check judges a frame twice, the second time as one of a known flow.
func (p *whole) check(t testing.TB, frame []byte) {
	t.Helper()
	if p.judged++; p.judged > perTable {
		p.change(t)
	}
	want := slices.DeleteFunc(flow.Judge(p.table, frame, 1), func(e flow.Emission) bool { return !e.Kernel && !p.has(e.Port) })
	k, err := flow.Parse(frame, 1)
	for range 2 {
		if p.answered(t, frame, want) {
			p.known++
		} else {
			*p.sent = (*p.sent)[:0]
			p.workers[0].judge([][]byte{frame})
			if !flow.SameEmissions(*p.sent, want) {
				t.Fatalf("%x in Go, rule %s:\n got %+v\nwant %+v", frame, p.rule(frame), *p.sent, want)
			}
		}
		if err == nil {
			id := p.table.Rule(p.table.Lookup(&k)).ID
			p.counted[id] = flow.Counter{Packets: p.counted[id].Packets + 1, Bytes: p.counted[id].Bytes + uint64(len(frame))}
		}
	}
}

// rule is what the rule that a frame meets says, for people.
func (p *whole) rule(frame []byte) string {
	k, err := flow.Parse(frame, 1)
	if err != nil {
		return err.Error()
	}
	r := p.table.Rule(p.table.Lookup(&k))
	return flow.FormatMatch(&r.Match, nil) + " actions=" + flow.FormatActions(r.Actions, nil)
}

// answered runs the program on a frame and reports whether that has answered it, rather
// than given it to Go. A test run does not say which port a frame leaves by: TestCachedJudge
// sees that.
func (p *whole) answered(t testing.TB, frame []byte, want []flow.Emission) bool {
	t.Helper()
	if len(frame) < 14 || len(frame) > 3000 {
		return false // a test run takes no such frame
	}
	_, before, _ := p.cache.Port(1)
	run := &ebpf.RunOptions{Data: frame, DataOut: p.out[:cap(p.out)]}
	action, err := p.program.Run(run)
	if err != nil {
		t.Fatalf("%x: %v", frame, err)
	}
	_, after, _ := p.cache.Port(1)
	if after.Unheard > before.Unheard { // nobody listens to the socket: it would have gone there
		if !bytes.Equal(run.DataOut, frame) {
			t.Fatalf("%x goes up as %x", frame, run.DataOut)
		}
		return false
	}
	const xdpDrop, xdpPass, xdpRedirect = 1, 2, 4 // enum xdp_action
	right := false
	switch action {
	case xdpDrop:
		right = len(want) == 0
	case xdpPass, xdpRedirect:
		right = len(want) == 1 && want[0].Kernel == (action == xdpPass) && bytes.Equal(want[0].Bytes, run.DataOut)
	}
	if !right {
		t.Fatalf("%x in the cache, rule %s: action %d, %x\nwant %+v", frame, p.rule(frame), action, run.DataOut, want)
	}
	if action == xdpRedirect {
		p.onward++
	}
	return true
}

// TestWhole judges random frames of every kind, and near misses of them, by random tables.
func TestWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 61))
	p := newWhole(t, rng)
	all := flowtest.Count(t, "BLADEFLOW_FRAMES", 40_000)
	for i := range all {
		frame := flowtest.Frame(rng)
		if k, ok := flow.Shared(&p.table.Rule(rng.IntN(p.table.Len() + 1)).Match); ok && rng.IntN(2) == 0 {
			frame, _ = flow.Frame(k, make([]byte, rng.IntN(40)))
		}
		for range rng.IntN(3) {
			if len(frame) > 0 {
				frame[rng.IntN(min(len(frame), 60))] = byte(rng.Uint32())
			}
		}
		p.check(t, frame)
		if i%1000 == 0 {
			p.change(t)
		}
	}
	p.change(t)
	if p.known < all/20 || p.onward < all/200 {
		t.Errorf("the cache has answered %d frames of %d, and sent %d on", p.known, 2*all, p.onward)
	}
	t.Logf("%d frames, %d answered by the cache, which has sent %d on", 2*all, p.known, p.onward)
}

// FuzzWhole is TestWhole on what the fuzzer finds.
func FuzzWhole(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 62))
	for kind := range flowtest.NumFrameKinds {
		for range 8 {
			f.Add(flowtest.FrameOf(rng, kind))
		}
	}
	p := newWhole(f, rand.New(rand.NewPCG(flowtest.Seed(f), 63)))
	f.Fuzz(func(t *testing.T, frame []byte) { p.check(t, frame) })
}
