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

// sound fails if a frame of the test was lost inside the card or its taps.
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
	var missed uint64
	if err := c.taps.Missed.Get(&missed); err != nil || missed != 0 {
		t.Errorf("taps missed %d frames, %v", missed, err)
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

// TestChange changes the table while frames come in as fast as they can. One frame
// is answered by A (a tag and port 2), then by B (ports 3 and 1), then by neither; a
// neighbour above is taken out and put in as well, so that entries move. Every frame
// must leave wholly as one of these says, and every one must be accounted for.
func TestChange(t *testing.T) {
	c := newCables(t)
	n := c.plug(t, 64)
	frame := frameTo(t, 3)
	entry := func(id flow.EntryID, actions flow.Actions) flow.Entry {
		e := port80(id, 10, 3)
		e.Actions = actions
		return e
	}
	a := entry(1, flow.Actions{{Op: flow.VLANPush, Tag: 7, Proto: flow.EthVLAN}, {Op: flow.Output, Ports: []flow.Port{2}}})
	b := entry(2, flow.Actions{{Op: flow.Mirror, Ports: []flow.Port{3}}, {Op: flow.VLANPush, Tag: 9, Proto: flow.EthQinQ}, {Op: flow.Output, Ports: []flow.Port{1}}})
	var others []flow.Entry
	for i := range 20 {
		others = append(others, port80(flow.EntryID(100+i), 20, byte(50+i)))
	}
	mustApply(t, n, adds(others...)...)

	changes := make(chan error)
	stop := make(chan struct{})
	var counted [3]flow.Counter
	go func() {
		defer close(changes)
		var before []flow.Entry // of A and B, what is in
		for i := 0; ; i++ {
			now, last := [][]flow.Entry{{a}, {b}, nil}[i%3], false
			select {
			case <-stop:
				now, last = nil, true
			default:
			}
			other := others[i%len(others)]
			for j, o := range n.Apply(t.Context(), slices.Concat(removes(before...), removes(other), adds(other), adds(now...))) {
				if o.Status != offload.Done {
					changes <- fmt.Errorf("operation %d of change %d: %+v", j, i, o)
					return
				}
				if j < len(before) {
					counted[before[j].ID].Packets += o.Final.Packets
					counted[before[j].ID].Bytes += o.Final.Bytes
				}
			}
			for k := range 40 { // without a barrier, to be written to as often as can be
				moved := others[k%len(others)]
				if err := n.Evict(moved.ID); err != nil {
					changes <- err
					return
				}
				if o := n.Apply(t.Context(), adds(moved))[0]; o.Status != offload.Done {
					changes <- fmt.Errorf("put back: %+v", o)
					return
				}
			}
			if before = now; last {
				return
			}
		}
	}()
	const bursts, burst = 3000, 64
	legal := map[string]int{}
	for _, as := range [][]arrival{due(&a, frame, 2), due(&b, frame, 2), due(nil, frame, 2)} {
		for _, x := range as {
			legal[show([]arrival{x})] = 0
		}
	}
	for range bursts {
		if err := c.blast(end{2, false}, frame, burst); err != nil {
			t.Fatal(err)
		}
		for _, x := range c.rest(t) {
			if _, ok := legal[show([]arrival{x})]; !ok {
				t.Fatalf("wrong output: %s", show([]arrival{x}))
			}
			legal[show([]arrival{x})]++
		}
	}
	close(stop)
	if err := <-changes; err != nil {
		t.Fatal(err)
	}
	for _, x := range c.arrivals(t, 1<<20) {
		legal[show([]arrival{x})]++
	}
	sum := func(as []arrival) (n int) {
		for _, x := range as {
			if n != 0 && n != legal[show([]arrival{x})] {
				t.Errorf("an entry sent %d and %d copies", n, legal[show([]arrival{x})])
			}
			n = legal[show([]arrival{x})]
		}
		return n
	}
	byA, byB, up := sum(due(&a, frame, 2)), sum(due(&b, frame, 2)), sum(due(nil, frame, 2))
	if got := byA + byB + up; got != bursts*burst || len(legal) != 4 {
		t.Errorf("%d + %d + %d of %d frames seen at %d places", byA, byB, up, bursts*burst, len(legal))
	}
	size := uint64(len(frame))
	if want := [3]flow.Counter{{}, {Packets: uint64(byA), Bytes: uint64(byA) * size}, {Packets: uint64(byB), Bytes: uint64(byB) * size}}; counted != want {
		t.Errorf("counted %+v, seen %+v", counted, want)
	}
	stats, err := n.Stats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d by A, %d by B, %d to software, %d generations, %d conflicts", byA, byB, up, n.Generation(), stats[1].Conflicts)
	sound(t, n, c)
}
