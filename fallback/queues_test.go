package fallback_test

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestQueues has frames come in by four queues of a port, of flows of their own and of one
// that all queues have. Each worker sends by the queue of its number, nothing is lost, and
// counters are exact, also where an entry of the cache counts for several queues at once.
func TestQueues(t *testing.T) {
	inNamespace(t)
	const queues = 4
	cables := map[flow.Port]*cable{}
	for port, name := range map[flow.Port]string{1: "a", 2: "b"} {
		wire := newRecorder(t, ebpf.XDP)
		cables[port] = layWide(t, name, wire.program, queues)
		cables[port].wire = wire
	}
	b := newBlade(t, cables, flowcache.Config{}, nil)
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: queues})
	must.Have(t, "afxdp", err)
	t.Cleanup(func() { sockets.Close() })
	far, err := afxdp.OpenIn(cables[1].far, sockets, func(queue int) uint32 { return uint32(queue) })
	must.Have(t, "afxdp", err)
	for _, l := range far {
		t.Cleanup(func() { l.Close() })
	}
	if len(far) != queues || len(b.queues[1]) != queues {
		t.Fatalf("%d links at the far end and %d at ours, want %d", len(far), len(b.queues[1]), queues)
	}
	r := flow.Rule{ID: 7, Priority: 1, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}}}
	r.Match.Pin(flow.SrcMAC, 0, 0) // all frames
	other := flow.Rule{ID: 8, Priority: 2, Actions: flow.Actions{{Op: flow.Drop}}}
	other.Match.Pin(flow.DstMAC, 0xffffffffffff, flow.DstMAC.Max())
	other.Match.Pin(flow.EthType, 0xffff, flow.EthType.Max())
	swap(t, b.Datapath, flowtest.NewTable([]flow.Rule{r, other}, nil))
	frame := func(flow byte) []byte {
		f := testFrame(64, 0, 1)
		f[5] = flow // of the destination's MAC, which the table looks at
		return f
	}
	sent := uint64(0)
	send := func(times int, flow func(queue int) byte) {
		t.Helper()
		for range times {
			for q, l := range far {
				if err := l.Send(frame(flow(q))); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			for _, l := range far {
				if err := l.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			waitFor(t, "answers", func() bool { g, c := b.answered(); return g+c >= sent })
		}
	}
	send(1, func(q int) byte { return 10 + byte(q) })
	for q, l := range b.queues[1] {
		if received, _, _ := l.Stats(); received != 1 {
			t.Errorf("%d frames came by queue %d, want 1", received, q)
		}
	}
	for q, l := range b.queues[2] {
		if _, left, _ := l.Stats(); left != 1 {
			t.Errorf("%d frames left by queue %d, want 1", left, q)
		}
	}
	waitFor(t, "installs", func() bool { return b.Stats().Cache.Flows == queues })
	send(50, func(q int) byte { return 10 + byte(q) })
	send(1, func(int) byte { return 99 })
	waitFor(t, "the last install", func() bool { return b.Stats().Cache.Flows == queues+1 })
	up, _ := b.answered()
	send(50, func(int) byte { return 99 })
	g, c := b.answered()
	if g != up || g+c != sent || b.Counters()[7] != (flow.Counter{Packets: sent, Bytes: 64 * sent}) {
		t.Errorf("of %d frames %d went up, %d of them where all was known; %d were answered by the cache, and the rule counts %+v", sent, g, g-up, c, b.Counters()[7])
	}
	b.cables[2].wire.frames(t, int(sent))
	if s := b.Stats(); s.Failed != 0 || s.Links[1] != (fallback.LinkStats{Received: g}) {
		t.Errorf("stats: %+v", s)
	}
}
