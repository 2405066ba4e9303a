package softnic

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
)

// due is what the definition says must arrive where when frame comes in by port in:
// flow.Act of the entry that answers, or the frame itself at the representor.
func due(e *flow.Entry, frame []byte, in flow.Port) []arrival {
	if e == nil || e.Punt() {
		return []arrival{{end{in, true}, frame}}
	}
	var out []arrival
	for _, m := range flow.Act(e.Actions, nil, e.Rule, frame, in) {
		out = append(out, arrival{end{m.Port, false}, m.Bytes})
	}
	return out
}

func same(a, b []arrival) bool {
	order := func(x, y arrival) int {
		return cmp.Or(strings.Compare(x.at.String(), y.at.String()), bytes.Compare(x.bytes, y.bytes))
	}
	slices.SortFunc(a, order)
	slices.SortFunc(b, order)
	return slices.EqualFunc(a, b, func(x, y arrival) bool { return order(x, y) == 0 })
}

func show(as []arrival) string {
	var s []string
	for _, a := range as {
		s = append(s, fmt.Sprintf("%s %x", a.at, a.bytes))
	}
	return strings.Join(s, "\n")
}

// numbered returns frame with n behind it, so that no two frames of a test are equal.
func numbered(frame []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(slices.Clone(frame), n)
}

// TestPackets sends frames of every kind through a card with random entries and
// compares what arrives at all six ends with the definition, byte for byte. Every
// other frame is sent by a socket, every other as an XDP frame.
func TestPackets(t *testing.T) {
	c := newCables(t)
	n := c.plug(t, 8)
	m := model(t, n)
	rng := rand.New(rand.NewPCG(7, 8))
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	var number uint64
	did := map[string]int{}
	for range rounds {
		es := packetEntries(rng)
		mustApply(t, n, adds(es...)...)
		for range 10 {
			frame, from := numbered(flowtest.Frame(rng), number), flow.Port(1+rng.IntN(3))
			if len(frame) > 1500 {
				frame = frame[:1500]
			}
			number++
			k, err := flow.Parse(frame, from)
			if err != nil {
				continue
			}
			e := answer(m, es, k)
			want := due(e, frame, from)
			if number%2 == 0 {
				err = c.transmit(end{from, false}, frame)
			} else {
				err = c.blast(end{from, false}, frame, 1)
			}
			if err != nil {
				t.Fatalf("send %x: %v", frame, err)
			}
			got := append(c.arrivals(t, len(want)), c.rest(t)...)
			if !same(got, want) {
				t.Fatalf("frame %x from port %d, entry %+v:\ngot\n%s\nwant\n%s", frame, from, e, show(got), show(want))
			}
			did[what(e)]++
		}
		mustApply(t, n, removes(es...)...)
	}
	t.Logf("frames by what happened: %v", did)
	for _, w := range []string{"to software", "drop", "output", "mirror", "vlan_push", "vlan_pop", "vlan_set"} {
		if !testing.Short() && did[w] < 20 {
			t.Errorf("only %d frames met %s", did[w], w)
		}
	}
	sound(t, n, c)
}

// sound fails if a frame of the test was lost inside the card or its taps, or left it
// with metadata.
func sound(t *testing.T, n *NIC, c *cables) {
	t.Helper()
	stats, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		if s.Lost != 0 {
			t.Errorf("port %d lost %d frames", s.Port, s.Lost)
		}
	}
	var missed, marked uint64
	if err := c.taps.Missed.Get(&missed); err != nil || missed != 0 {
		t.Errorf("taps missed %d frames, %v", missed, err)
	}
	if err := c.taps.Marked.Get(&marked); err != nil || marked != 0 {
		t.Errorf("%d frames left the card with metadata, %v", marked, err)
	}
}

func what(e *flow.Entry) string {
	if e == nil || e.Punt() {
		return "to software"
	}
	return e.Actions[0].Op.String()
}

// packetEntries returns entries that match often: on little, by every kind of tag,
// with long lists of actions.
func packetEntries(rng *rand.Rand) []flow.Entry {
	var out []flow.Entry
	for i := range 1 + rng.IntN(6) {
		e := flow.Entry{ID: flow.EntryID(i + 1), Rule: flow.RuleID(i + 1), Priority: uint64(rng.IntN(1000))<<8 | uint64(i), Kind: flow.PieceEntry}
		if rng.IntN(2) == 0 {
			e.Match.Pin(flow.InPort, uint64(1+rng.IntN(3)), 0xffff)
		}
		if rng.IntN(2) == 0 {
			tag := []flow.Field{flow.VLAN, flow.CVLAN}[rng.IntN(2)]
			e.Match.Pin(tag, rng.Uint64()&flow.TagPresent, flow.TagPresent)
		}
		if rng.IntN(3) == 0 {
			e.Match.Pin(flow.SrcMAC, rng.Uint64()&1, 1)
		}
		if rng.IntN(6) == 0 {
			e.Kind = flow.GuardEntry
		} else {
			var a flow.Actions
			for range 1 + rng.IntN(3) {
				more := flowtest.Actions(rng, []flow.Port{1, 2, 3})
				a = append(a, more[:len(more)-1]...)
			}
			for tags, i := 0, 0; i < len(a); i++ { // the card takes two VLAN actions
				if tags += min(len(a[i].Ports), 1) ^ 1; tags > maxVLANOps {
					a = a[:i]
				}
			}
			e.Actions = hardware(append(a, flow.Action{Op: flow.Output, Ports: []flow.Port{flow.Port(1 + rng.IntN(3))}}))
			if rng.IntN(8) == 0 {
				e.Actions = flow.Actions{{Op: flow.Drop}}
			}
		}
		out = append(out, e)
	}
	return out
}

// TestFromHost sends on representors: the frame leaves by the port, whatever the
// table says, and is counted apart.
func TestFromHost(t *testing.T) {
	c := newCables(t)
	n := c.plug(t, 4)
	all := flow.Entry{ID: 1, Priority: 1, Actions: flow.Actions{{Op: flow.Drop}}}
	mustApply(t, n, adds(all)...)
	rng := rand.New(rand.NewPCG(9, 10))
	for i := range 60 {
		frame, port := numbered(flowtest.FrameOf(rng, flowtest.FrameKind(i)%flowtest.NumFrameKinds), uint64(i)), flow.Port(1+i%3)
		if len(frame) < 14 || len(frame) > 1500 {
			continue
		}
		if err := c.transmit(end{port, true}, frame); err != nil {
			t.Fatal(err)
		}
		want := []arrival{{end{port, false}, frame}}
		if got := append(c.arrivals(t, 1), c.rest(t)...); !same(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", show(got), show(want))
		}
	}
	stats, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stats {
		if s.FromHost == 0 || s.Hits+s.Misses+s.Odd+s.Guarded+s.Out != 0 {
			t.Errorf("port %d: %+v", s.Port, s)
		}
	}
	sound(t, n, c)
}

// TestChange changes the table while frames come in as fast as they can. The first
// frame is answered by A (a tag and port 2), then by B (ports 3 and 1), then by
// neither and so by Q at the bottom; the second always by P. Entries above all of them
// are taken out and put in, so that everything moves. Every frame must leave wholly as
// one of these says, or go to software because it met a writer, and all must add up.
func TestChange(t *testing.T) {
	c := newCables(t)
	n := c.plug(t, 64)
	entry := func(id flow.EntryID, priority uint64, dst byte, actions ...flow.Action) flow.Entry {
		e := port80(id, priority, dst)
		e.Actions = actions
		return e
	}
	push := func(id uint16) flow.Action { return flow.Action{Op: flow.VLANPush, Tag: id, Proto: flow.EthQinQ} }
	to := func(op flow.Op, p flow.Port) flow.Action { return flow.Action{Op: op, Ports: []flow.Port{p}} }
	a := entry(1, 10, 3, push(7), to(flow.Output, 2))
	b := entry(2, 10, 3, to(flow.Mirror, 3), push(9), to(flow.Output, 1))
	p := entry(3, 10, 4, push(11), to(flow.Output, 3))
	q := flow.Entry{ID: 4, Rule: 104, Priority: 1, Actions: flow.Actions{push(13), to(flow.Output, 3)}}
	var others []flow.Entry
	for i := range 20 {
		others = append(others, port80(flow.EntryID(100+i), 20, byte(50+i)))
	}
	mustApply(t, n, adds(append(others, p, q)...)...)

	stop := make(chan struct{})
	changer := &changer{n: n, others: others, turns: [][]flow.Entry{{a}, {b}, nil}, counted: map[flow.EntryID]flow.Counter{}}
	done := make(chan error)
	go func() { done <- changer.run(t, stop) }()

	const bursts, burst = 3000, 64
	frames := [][]byte{frameTo(t, 3), frameTo(t, 4)}
	seen := map[string]int{}
	note := func(as []arrival) {
		for _, x := range as {
			seen[show([]arrival{x})]++
		}
	}
	for i := range bursts {
		if err := c.blast(end{2, false}, frames[i%2], burst); err != nil {
			t.Fatal(err)
		}
		note(c.rest(t))
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	note(c.arrivals(t, 1<<20))
	for i, o := range mustApply(t, n, removes(p, q)...) {
		changer.counted[[]flow.EntryID{p.ID, q.ID}[i]] = o.Final
	}

	// take returns how many frames left as e says, and forgets their arrivals.
	take := func(e *flow.Entry, frame []byte) (n int) {
		for _, x := range due(e, frame, 2) {
			s := show([]arrival{x})
			if n > 0 && n != seen[s] {
				t.Errorf("entry %d sent %d and %d copies", e.ID, n, seen[s])
			}
			n = seen[s]
			delete(seen, s)
		}
		if e == nil {
			return n
		}
		if got, want := changer.counted[e.ID], (flow.Counter{Packets: uint64(n), Bytes: uint64(n * len(frame))}); got != want {
			t.Errorf("entry %d counted %+v, seen are %+v", e.ID, got, want)
		}
		return n
	}
	byA, byB, byQ, up1 := take(&a, frames[0]), take(&b, frames[0]), take(&q, frames[0]), take(nil, frames[0])
	byP, up2 := take(&p, frames[1]), take(nil, frames[1])
	for s, n := range seen {
		t.Errorf("%d times the wrong output %s", n, s)
	}
	stats, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if got := [2]int{byA + byB + byQ + up1, byP + up2}; got != [2]int{bursts / 2 * burst, bursts / 2 * burst} || uint64(up1+up2) != stats[1].Conflicts {
		t.Errorf("of 2 x %d frames, %v are accounted for, %d to software in %d conflicts", bursts/2*burst, got, up1+up2, stats[1].Conflicts)
	}
	t.Logf("A %d, B %d, Q %d, P %d, to software %d, %d generations", byA, byB, byQ, byP, up1+up2, n.Generation())
	sound(t, n, c)
}

// changer changes a table as fast as it can.
type changer struct {
	n       *NIC
	others  []flow.Entry   // to be taken out and put back, without a barrier
	turns   [][]flow.Entry // to be put in by turns, with one
	counted map[flow.EntryID]flow.Counter
}

// run changes the table until stop is closed, and then takes out the last turn.
func (c *changer) run(t *testing.T, stop <-chan struct{}) error {
	var before []flow.Entry
	for i := 0; ; i++ {
		now, last := c.turns[i%len(c.turns)], false
		select {
		case <-stop:
			now, last = nil, true
		default:
		}
		for j, o := range c.n.Apply(t.Context(), slices.Concat(removes(before...), adds(now...))) {
			if o.Status != offload.Done {
				return fmt.Errorf("operation %d of turn %d: %+v", j, i, o)
			}
			if j < len(before) {
				f := c.counted[before[j].ID]
				c.counted[before[j].ID] = flow.Counter{Packets: f.Packets + o.Final.Packets, Bytes: f.Bytes + o.Final.Bytes}
			}
		}
		if before = now; last {
			return nil
		}
		if err := c.n.Barrier(t.Context()); err != nil { // the turn lasts a while
			return err
		}
		for k := range 40 {
			moved := c.others[k%len(c.others)]
			if err := c.n.Evict(moved.ID); err != nil {
				return err
			}
			if o := c.n.Apply(t.Context(), adds(moved))[0]; o.Status != offload.Done {
				return fmt.Errorf("put back: %+v", o)
			}
		}
	}
}
