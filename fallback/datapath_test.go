package fallback_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// start runs a datapath over w until the test ends.
func start(t testing.TB, w *wire) *fallback.Datapath {
	t.Helper()
	return run(t, w.config())
}

func run(t testing.TB, c fallback.Config) *fallback.Datapath {
	t.Helper()
	d, err := fallback.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error("Run:", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return d
}

func swap(t testing.TB, d *fallback.Datapath, tab *flow.Table) {
	t.Helper()
	if err := d.Swap(tab); err != nil {
		t.Fatal(err)
	}
}

// reachable is what Judge says, without copies for ports that have no link.
func reachable(w *wire, tab *flow.Table, frame []byte, in flow.Port) []flow.Emission {
	var out []flow.Emission
	for _, e := range flow.Judge(tab, frame, in) {
		if e.Kernel || w.links[e.Port] != nil {
			out = append(out, e)
		}
	}
	return out
}

// show lists emissions for people, one a line.
func show(all []flow.Emission) string {
	var b strings.Builder
	for _, e := range all {
		to := "port"
		if e.Kernel {
			to = "kernel by port"
		}
		fmt.Fprintf(&b, "\n\t%s %d: %x", to, e.Port, e.Bytes)
	}
	return b.String()
}

// TestJudge is the differential: random tables on random frames of every kind, each
// frame alone, against flow.Judge; and counters and totals against what was sent.
func TestJudge(t *testing.T) {
	ports := []flow.Port{1, 2, 3}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWire(ports...)
		d := start(t, w)
		want := map[flow.RuleID]flow.Counter{}
		for range 5 {
			tab := randomTable(rng, append(ports, 9)) // 9 has no link
			swap(t, d, tab)
			for range 100 {
				frame, in := randomFrame(rng, tab), ports[rng.IntN(len(ports))]
				w.put(in, frame)
				w.settle()
				if got, want := w.emissions(), reachable(w, tab, frame, in); !flow.SameEmissions(got, want) {
					t.Fatalf("seed %d: frame %x from %d: got%s\nwant%s", seed, frame, in, show(got), show(want))
				}
				if k, err := flow.Parse(frame, in); err == nil {
					id := tab.Rule(tab.Lookup(&k)).ID
					want[id] = flow.Counter{Packets: want[id].Packets + 1, Bytes: want[id].Bytes + uint64(len(frame))}
				}
			}
			if diff := cmp.Diff(want, d.Counters()); diff != "" {
				t.Fatalf("seed %d: counters (-want +got):\n%s", seed, diff)
			}
		}
		checkTotals(t, d, 500)
	}
}

var universes = flowtest.Universes()

// randomTable is a table of flowtest's smallest universes, whose ports carry on
// from 1, with some rules that look at nothing but tags.
func randomTable(rng *rand.Rand, ports []flow.Port) *flow.Table {
	u := universes[rng.IntN(len(universes))]
	rules := u.Rules(rng, 1+rng.IntN(300), ports)
	for i := range rng.IntN(4) {
		r := flow.Rule{ID: flow.NewRuleID("tags", fmt.Sprint(i)), Name: fmt.Sprint("tags/", i), Tier: flow.TierSystem,
			Priority: int32(i), Actions: flowtest.Actions(rng, ports)}
		r.Match.Pin(flow.VLAN, uint64(rng.IntN(2))*flow.TagPresent, flow.TagPresent)
		r.Match.Pin(flow.EthType, []uint64{flow.EthIPv4, flow.EthIPv6, flow.EthARP, flow.EthVLAN}[rng.IntN(4)], 0xffff)
		rules = append(rules, r)
	}
	return flowtest.NewTable(rules, flowtest.Actions(rng, ports))
}

// randomFrame is a frame of any kind, or one that some rule of tab matches.
func randomFrame(rng *rand.Rand, tab *flow.Table) []byte {
	if tab.Len() > 0 && rng.IntN(2) == 0 {
		if k, ok := flow.Shared(&tab.Rule(rng.IntN(tab.Len())).Match); ok {
			if f, err := flow.Frame(k, make([]byte, rng.IntN(60))); err == nil {
				return f
			}
		}
	}
	return flowtest.Frame(rng)
}

// checkTotals checks that every frame is in one verdict and that rules and verdicts agree.
func checkTotals(t *testing.T, d *fallback.Datapath, frames uint64) {
	t.Helper()
	s := d.Stats()
	judged := s.Dropped + s.Normal + s.Passed + s.Output
	if s.Frames != frames || s.Early+s.Short+judged != frames {
		t.Errorf("%d frames were sent; totals say %+v", frames, s)
	}
	var counted uint64
	for _, n := range d.Counters() {
		counted += n.Packets
	}
	if counted != judged {
		t.Errorf("rules count %d frames, verdicts %d", counted, judged)
	}
}

// TestActionLists tries every list of up to four changes before an end on frames
// with no to three tags, whole and cut short, against flow.Act.
func TestActionLists(t *testing.T) {
	steps := []flow.Action{
		{Op: flow.VLANPush, Tag: 5<<13 | 7, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Tag: 9, Proto: flow.EthQinQ},
		{Op: flow.VLANPop}, {Op: flow.VLANSet, Tag: 4095}, {Op: flow.Mirror, Ports: []flow.Port{2, 1}},
	}
	ends := []flow.Action{{Op: flow.Drop}, {Op: flow.Pass}, {Op: flow.Normal}, {Op: flow.Output, Ports: []flow.Port{3, 1}}}
	var lists []flow.Actions
	var grow func(head flow.Actions, more int)
	grow = func(head flow.Actions, more int) {
		for _, end := range ends {
			lists = append(lists, append(head[:len(head):len(head)], end))
		}
		for _, s := range steps {
			if more > 0 {
				grow(append(head[:len(head):len(head)], s), more-1)
			}
		}
	}
	grow(nil, 3)
	grow(flow.Actions{{Op: flow.VLANPop}, {Op: flow.VLANPush, Tag: 1, Proto: flow.EthVLAN}, {Op: flow.VLANPop}}, 1)

	w := newWire(1, 2, 3)
	d := start(t, w)
	frames := taggedFrames()
	for _, list := range lists {
		tab := flowtest.NewTable(nil, list)
		swap(t, d, tab)
		w.put(1, frames...)
		w.settle()
		var want []flow.Emission
		for _, f := range frames {
			want = append(want, flow.Judge(tab, f, 1)...)
		}
		if got := w.emissions(); !flow.SameEmissions(got, want) {
			t.Fatalf("actions %v: got%s\nwant%s", list, show(got), show(want))
		}
	}
	t.Logf("%d lists on %d frames", len(lists), len(frames))
}

// taggedFrames returns frames with no to three tags to known and group MACs, each
// whole and cut at every length near its tags.
func taggedFrames() [][]byte {
	var frames [][]byte
	for tags := range 4 {
		f := []byte{2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 9}
		if tags == 1 {
			f[0] = 1 // a group address
		}
		for i := range tags {
			f = binary.BigEndian.AppendUint16(f, flow.EthVLAN)
			f = binary.BigEndian.AppendUint16(f, uint16(i%2+1))
		}
		f = append(f, 0x12, 0x34, 1, 2, 3, 4)
		for n := 12; n <= len(f); n++ {
			frames = append(frames, f[:n])
		}
	}
	return frames
}

// TestSwapUnderTraffic changes the table while all links are busy. Every frame is
// judged by one table, each link sees the tables in order, and a frame that arrives
// after Swap has returned is never judged by an older one.
func TestSwapUnderTraffic(t *testing.T) {
	const swaps = 300
	w := newWire(1, 2, 3, 4)
	d := start(t, w)
	// Table g mirrors with tag g and outputs with tag g+1, so that half a verdict shows.
	table := func(g int) *flow.Table {
		return flowtest.NewTable(nil, flow.Actions{{Op: flow.VLANPush, Tag: uint16(g), Proto: flow.EthVLAN},
			{Op: flow.Mirror, Ports: []flow.Port{4}}, {Op: flow.VLANSet, Tag: uint16(g + 1)}, {Op: flow.Output, Ports: []flow.Port{4}}})
	}
	swap(t, d, table(0))
	var current atomic.Int64 // the newest table whose Swap has returned
	var sent [4]int
	floor := [4][]int{} // by in port and sequence: the oldest table that may judge it
	done := make(chan struct{})
	go func() {
		defer close(done)
		for g := 1; g <= swaps; g++ {
			if err := d.Swap(table(g)); err != nil {
				t.Error(err)
			}
			current.Store(int64(g))
			time.Sleep(50 * time.Microsecond)
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for in := 1; in <= 3; in++ {
			for range 5 {
				f := make([]byte, 30)
				f[14] = byte(in)
				binary.BigEndian.PutUint32(f[16:], uint32(sent[in]))
				floor[in] = append(floor[in], int(current.Load()))
				sent[in]++
				w.put(flow.Port(in), f)
			}
		}
		time.Sleep(10 * time.Microsecond)
	}
	w.settle()

	got := w.emissions()
	if want := 2 * (sent[1] + sent[2] + sent[3]); len(got) != want {
		t.Fatalf("%d copies, want %d", len(got), want)
	}
	type frameID struct{ in, seq int }
	seen := map[frameID][]int{}
	newest := [4]int{}
	for _, e := range got { // in the order they left
		id := frameID{int(e.Bytes[18]), int(binary.BigEndian.Uint32(e.Bytes[20:]))}
		tag := int(binary.BigEndian.Uint16(e.Bytes[14:]) & flow.TagID)
		seen[id] = append(seen[id], tag)
		if len(seen[id]) == 1 {
			if tag < newest[id.in] {
				t.Fatalf("frame %v was judged by table %d after one by table %d", id, tag, newest[id.in])
			}
			newest[id.in] = tag
		}
	}
	for id, tags := range seen {
		if len(tags) != 2 || tags[1] != tags[0]+1 {
			t.Fatalf("frame %v left with tags %v, which no table says", id, tags)
		}
		if tags[0] < floor[id.in][id.seq] {
			t.Fatalf("frame %v came after the swap to table %d and was judged by %d", id, floor[id.in][id.seq], tags[0])
		}
	}
	checkTotals(t, d, uint64(len(seen)))
	t.Logf("%d frames, %d swaps", len(seen), swaps)
}

// TestCountersConsistent reads counters while frames flow and tables change: no
// count ever falls, bytes stay a multiple of the one length, and a rule that matches
// nothing counts nothing although its place in the table is hit under other tables.
func TestCountersConsistent(t *testing.T) {
	const length, total, links = 100, 50000, 32 // many links, so that a swap takes a while
	var ports []flow.Port
	for p := range flow.Port(links) {
		ports = append(ports, p+1)
	}
	w := newWire(ports...)
	d := start(t, w)
	rule := func(n string, vlan uint64) flow.Rule {
		r := flow.Rule{ID: flow.NewRuleID("c", n), Name: n, Priority: int32(vlan), Actions: flow.Actions{{Op: flow.Drop}}}
		r.Match.Pin(flow.VLAN, vlan, flow.TagPresent)
		return r
	}
	a, b := rule("a", 0), rule("b", flow.TagPresent)
	tables := []*flow.Table{
		flowtest.NewTable([]flow.Rule{a}, nil), flowtest.NewTable([]flow.Rule{b, a}, nil), flowtest.NewTable(nil, nil),
	}
	swap(t, d, tables[0])
	go func() {
		for i := range total {
			w.put(ports[i%links], make([]byte, length))
		}
	}()
	last := map[flow.RuleID]flow.Counter{}
	for i := 1; ; i++ {
		now := d.Counters()
		var sum uint64
		for id, n := range now {
			if n.Packets < last[id].Packets || n.Bytes != n.Packets*length {
				t.Fatalf("rule %d: %+v after %+v", id, n, last[id])
			}
			sum += n.Packets
		}
		if n := now[b.ID].Packets; n > 0 {
			t.Fatalf("%d frames without a tag counted by a rule for tags", n)
		}
		for id := range last {
			if _, ok := now[id]; !ok {
				t.Fatalf("rule %d: its count is gone", id)
			}
		}
		last = maps.Clone(now)
		if sum == total {
			break
		}
		swap(t, d, tables[i%3])
	}
	checkTotals(t, d, total)
}

func TestBeforeTheFirstTable(t *testing.T) {
	w := newWire(1)
	d := start(t, w)
	w.put(1, make([]byte, 60), make([]byte, 60))
	w.settle()
	if s := d.Stats(); s.Early != 2 || len(w.emissions()) != 0 || d.Table() != nil {
		t.Errorf("without a table: %+v", s)
	}
	if err := d.Swap(nil); err == nil {
		t.Error("swapped to no table")
	}
}

// TestRefusals counts what cannot be delivered, and goes on.
func TestRefusals(t *testing.T) {
	w := newWire(1, 2)
	d := start(t, w)
	swap(t, d, flowtest.NewTable(nil, flow.Actions{{Op: flow.Output, Ports: []flow.Port{2, 3, 999, 1}}}))
	w.mu.Lock()
	w.links[2].refuse = errors.New("down")
	w.mu.Unlock()
	w.put(1, make([]byte, 60), make([]byte, 13))
	w.settle()
	got := d.Stats()
	if got.NoPort != 2 || got.Failed != 1 || got.Trouble == nil || got.Sent != 1 || got.Short != 1 || got.Output != 1 {
		t.Errorf("stats %+v", got)
	}
	if got.Links[1].Received != 2 {
		t.Errorf("links %+v", got.Links)
	}
}

func TestDeadLinkEndsRun(t *testing.T) {
	w := newWire(1, 2)
	d, err := fallback.New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	w.links[2].dead = errors.New("unplugged")
	if err := d.Run(t.Context()); !errors.Is(err, w.links[2].dead) {
		t.Errorf("Run ended with %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, links := range []map[flow.Port]fallback.Link{{0: newWire(1).links[1]}, {4: nil}} {
		if _, err := fallback.New(fallback.Config{Links: links}); err == nil {
			t.Errorf("New accepts %v", links)
		}
	}
}
