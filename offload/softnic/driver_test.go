package softnic

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// wantInstalled fails unless the card's dump is exactly the entries given, in order.
func wantInstalled(tb testing.TB, n *NIC, entries ...flow.Entry) {
	tb.Helper()
	got, err := n.Installed(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if !slices.EqualFunc(got, entries, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		tb.Fatalf("installed (- want, + got):\n%s", gocmp.Diff(entries, got))
	}
}

// port80 returns an entry that answers TCP packets to port 80 of host dst.
func port80(id flow.EntryID, priority uint64, dst byte) flow.Entry {
	e := flow.Entry{ID: id, Rule: flow.RuleID(100 + id), Priority: priority, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{1}}}}
	e.Match.Pin(flow.DstLo, 10<<24|uint64(dst), 0xffffffff)
	e.Match.SetPorts(flow.DstPort, 80, 80)
	return e
}

func frameTo(tb testing.TB, dst byte) []byte {
	tb.Helper()
	k := flowtest.TCP()
	k.Set(flow.DstLo, 10<<24|uint64(dst))
	frame, err := flow.Frame(k, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return frame
}

// TestInstalled runs random adds and removes of entries of every shape beside a list
// in Go memory, and compares dump, order, refusals and counters after each.
func TestInstalled(t *testing.T) {
	b := newBench(t, 8, 1, 2, 3)
	universes := flowtest.Universes()
	rapid.Check(t, func(t *rapid.T) {
		if err := b.Reset(); err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var want []flow.Entry
		for range 4 {
			var ops []offload.Op
			var codes []string
			for range 6 {
				op, code := offload.Op{Kind: offload.OpKind(rng.IntN(2)), Entry: anyEntry(rng, universes)}, ""
				at := slices.IndexFunc(want, func(w flow.Entry) bool { return w.ID == op.Entry.ID })
				switch {
				case op.Kind == offload.Remove && at < 0:
					code = offload.CodeMissing
				case op.Kind == offload.Remove:
					want = slices.Delete(want, at, at+1)
				case at >= 0:
					code = offload.CodeExists
				case len(want) == 8:
					code = offload.CodeFull
				default:
					want = append(want, op.Entry)
					slices.SortStableFunc(want, func(a, b flow.Entry) int { return cmp.Compare(b.Priority, a.Priority) })
				}
				ops, codes = append(ops, op), append(codes, code)
			}
			for i, o := range b.Apply(context.Background(), ops) {
				if o.Code != codes[i] {
					t.Fatalf("%s %+v: got %+v, want code %q", ops[i].Kind, ops[i].Entry, o, codes[i])
				}
			}
			got, err := b.Installed(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, want, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
				t.Fatalf("installed (- want, + got):\n%s", gocmp.Diff(want, got))
			}
		}
	})
}

// anyEntry returns a random entry on ports 1, 2 and 3 with one of 12 IDs.
func anyEntry(rng *rand.Rand, universes []*flowtest.Universe) flow.Entry {
	e := entries(rng, universes[rng.IntN(len(universes))].Rules(rng, 1, []flow.Port{1, 2, 3}))[0]
	e.ID, e.Priority = flow.EntryID(rng.Uint64N(12)), rng.Uint64()>>rng.IntN(64)
	return e
}

// TestCounters sends frames to entries and expects them counted, at the entry that
// answered, with their length; the final counter of a removed entry included.
func TestCounters(t *testing.T) {
	b := newBench(t, 4, 1, 2)
	e1, e2 := port80(1, 5, 3), port80(2, 5, 4)
	e2.Kind, e2.Actions = flow.GuardEntry, nil
	mustApply(t, b.NIC, adds(e1, e2)...)
	var size [5]uint64
	for dst, times := range map[byte]int{3: 3, 4: 2, 5: 1} {
		frame := frameTo(t, dst)
		if dst < 5 {
			size[dst] = uint64(len(frame) * times)
		}
		for range times {
			b.put(t, frame, 2)
		}
	}
	one, two := flow.Counter{Packets: 3, Bytes: size[3]}, flow.Counter{Packets: 2, Bytes: size[4]}
	got, err := b.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff([]offload.Count{{Entry: 1, Counter: one}, {Entry: 2, Counter: two}}, got); d != "" {
		t.Errorf("counters (- want, + got):\n%s", d)
	}
	out := mustApply(t, b.NIC, removes(e2, e1)...)
	if out[0].Final != two || out[1].Final != one {
		t.Errorf("final counters %+v and %+v, want %+v and %+v", out[0].Final, out[1].Final, two, one)
	}
	mustApply(t, b.NIC, adds(e1)...)
	if got, _ := b.Counters(t.Context()); len(got) != 1 || got[0].Counter != (flow.Counter{}) {
		t.Errorf("an entry put in again begins with %+v", got)
	}
}

// TestSlotsRest fills and empties the table in one Apply more often than there are
// slots, which makes the driver wait for grace periods in between.
func TestSlotsRest(t *testing.T) {
	b := newBench(t, MaxEntries, 1, 2)
	var all []flow.Entry
	for i := range MaxEntries {
		all = append(all, port80(flow.EntryID(i+1), uint64(i), byte(i)))
	}
	ops := slices.Concat(adds(all...), removes(all...), adds(all...), removes(all...), adds(all...))
	mustApply(t, b.NIC, ops...)
	slices.Reverse(all)
	wantInstalled(t, b.NIC, all...)
	if o := b.Apply(t.Context(), adds(port80(9999, 1, 1)))[0]; o.Status != offload.Refused || o.Code != offload.CodeFull {
		t.Errorf("one entry too many: %+v", o)
	}
}

// TestRefusals gives the card what it cannot hold.
func TestRefusals(t *testing.T) {
	b := newBench(t, 4, 1, 2)
	out := func(ports ...flow.Port) flow.Action { return flow.Action{Op: flow.Output, Ports: ports} }
	pops := slices.Repeat(flow.Actions{{Op: flow.VLANPop}}, 3)
	for _, c := range []struct {
		name, code string
		change     func(e *flow.Entry)
	}{
		{"normal", "E_ACTION_UNSUPPORTED", func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Normal}} }},
		{"set", "E_ACTION_UNSUPPORTED", func(e *flow.Entry) {
			e.Actions = flow.Actions{{Op: flow.Set, Settings: []flow.Setting{{Field: flow.SrcMAC, Mask: flow.SrcMAC.Max()}}}, {Op: flow.Drop}}
		}},
		{"police", "E_ACTION_UNSUPPORTED", func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Police, Rate: 1, Burst: 1}, {Op: flow.Drop}} }},
		{"pass", "E_ACTION_UNSUPPORTED", func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Pass}} }},
		{"no actions", "E_ACTION", func(e *flow.Entry) { e.Actions = nil }},
		{"guard with actions", "E_ACTION", func(e *flow.Entry) { e.Kind = flow.GuardEntry }},
		{"unknown kind", "E_ENTRY_KIND", func(e *flow.Entry) { e.Kind = 7 }},
		{"port of another card", "E_PORT_ELSEWHERE", func(e *flow.Entry) { e.Actions = flow.Actions{out(3)} }},
		{"two copies to a port", "E_COPIES", func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Mirror, Ports: []flow.Port{1}}, out(2, 1)} }},
		{"three VLAN actions", "E_VLAN_OPS", func(e *flow.Entry) { e.Actions = append(pops, out(1)) }},
		{"connection state", "E_FIELD_UNSUPPORTED", func(e *flow.Entry) { e.Match.Pin(flow.CTState, 1, 1) }},
		{"value outside the mask", "E_MATCH", func(e *flow.Entry) { e.Match.Value[0] = 1 }},
	} {
		e := port80(1, 1, 1)
		c.change(&e)
		if o := b.Apply(t.Context(), adds(e))[0]; o.Status != offload.Refused || o.Code != c.code || o.Text == "" {
			t.Errorf("%s: %+v, want %s", c.name, o, c.code)
		}
	}
	if o := b.Apply(t.Context(), []offload.Op{{Kind: 9}})[0]; o.Status != offload.Refused {
		t.Errorf("unknown operation: %+v", o)
	}
	wantInstalled(t, b.NIC)
}

// TestManyPorts holds a card to its limits of copies and steps.
func TestManyPorts(t *testing.T) {
	var ports []flow.Port
	for p := range flow.Port(20) {
		ports = append(ports, p+1)
	}
	b := newBench(t, 4, ports...)
	e := port80(1, 1, 3)
	e.Actions = flow.Actions{{Op: flow.VLANPush, Proto: flow.EthVLAN}, {Op: flow.Mirror, Ports: ports[:9]}, {Op: flow.VLANPop}, {Op: flow.Mirror, Ports: ports[9:16]}, {Op: flow.Drop}}
	mustApply(t, b.NIC, adds(e)...)
	wantInstalled(t, b.NIC, e)
	if got := b.put(t, frameTo(t, 3), 20); got.entry != e.ID || got.ret != xdpRedirect {
		t.Errorf("got %+v", got)
	}
	e.ID, e.Actions = 2, flow.Actions{{Op: flow.Output, Ports: ports[:17]}}
	if o := b.Apply(t.Context(), adds(e))[0]; o.Status != offload.Refused || o.Code != "E_OUTPUTS" {
		t.Errorf("17 copies: %+v", o)
	}
}

// TestModel holds the model against what the card really takes.
func TestModel(t *testing.T) {
	b := newBench(t, 3, 1, 2, 3)
	m := model(t, b.NIC)
	if m.Entries != 3 || !slices.Equal(m.Ports, []flow.Port{1, 2, 3}) {
		t.Errorf("the model says %d entries and ports %v", m.Entries, m.Ports)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	universes := flowtest.Universes()
	agreed := map[bool]int{}
	for range 2000 {
		u := universes[rng.IntN(len(universes))]
		e := entries(rng, u.Rules(rng, 1, []flow.Port{1, 2, 3, 4}))[0]
		if e.Kind != flow.GuardEntry { // by chance too many VLAN actions, or too many copies to a port
			e.Actions = slices.Concat(flowtest.Actions(rng, m.Ports)[1:], e.Actions)
			e.Actions = slices.DeleteFunc(e.Actions[:len(e.Actions)-1], func(a flow.Action) bool { return a.Op.Terminal() })
			e.Actions = append(e.Actions, flowtest.Actions(rng, m.Ports)...)
		}
		// The card may take matches that the model, for the planner's sake, does not.
		refused, anywhere := m.Admit(&e.Match, e.Actions, e.Kind), m.Admit(&flow.Match{}, e.Actions, e.Kind)
		o := b.Apply(t.Context(), adds(e))[0]
		if done := o.Status == offload.Done; refused == nil && !done || anywhere != nil && done {
			t.Fatalf("for %+v the model says %v, the card %+v", e, refused, o)
		}
		agreed[refused == nil]++
		if o.Status == offload.Done {
			if err := b.Evict(e.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("taken and refused: %v", agreed)
}

// TestContext expects that nothing is tried after the context has ended.
func TestContext(t *testing.T) {
	b := newBench(t, 4, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o := b.Apply(ctx, adds(port80(1, 1, 1)))[0]; o.Status != offload.Unknown || o.Code != offload.CodeTimeout {
		t.Errorf("got %+v", o)
	}
	wantInstalled(t, b.NIC)
}

// TestFaults makes each fault happen once and expects an honest card afterwards.
func TestFaults(t *testing.T) {
	b := newBench(t, 4, 1, 2)
	e1, e2, e3 := port80(1, 3, 1), port80(2, 2, 2), port80(3, 1, 3)
	set := func(f Faults) {
		t.Helper()
		if err := b.SetFaults(f); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(want string, ops ...offload.Op) []offload.Outcome {
		t.Helper()
		out := b.Apply(t.Context(), ops)
		var got string
		for _, o := range out {
			got += o.Status.String()[:1]
			if (o.Status == offload.Done) != (o.Code == "" && o.Text == "") {
				t.Errorf("outcome %+v", o)
			}
		}
		if got != want {
			t.Errorf("outcomes %s, want %s", got, want)
		}
		return out
	}

	set(Faults{RefuseAdd: 2})
	apply("drd", adds(e1, e2, e3)...)
	wantInstalled(t, b.NIC, e1, e3)

	set(Faults{Unknown: 1})
	apply("u", adds(e2)...)
	wantInstalled(t, b.NIC, e1, e3)
	set(Faults{Unknown: 2, UnknownDone: true})
	apply("du", removes(e1, e3)...)
	wantInstalled(t, b.NIC)

	apply("ddd", adds(e1, e2, e3)...)
	set(Faults{LoseRemove: 1})
	apply("dd", removes(e1, e2)...)
	wantInstalled(t, b.NIC, e1, e3)
	b.put(t, frameTo(t, 1), 2)

	set(Faults{Stale: true})
	b.put(t, frameTo(t, 1), 2)
	if got, err := b.Counters(t.Context()); err != nil || got[0].Packets != 0 {
		t.Errorf("stale counters say %+v, %v", got, err)
	}
	set(Faults{})
	if got, err := b.Counters(t.Context()); err != nil || got[0].Packets != 2 {
		t.Errorf("counters say %+v, %v, want 2 packets", got, err)
	}

	if err := b.Evict(e3.ID); err != nil {
		t.Error(err)
	}
	wantInstalled(t, b.NIC, e1)
	if err := b.Evict(e3.ID); err == nil {
		t.Error("an entry was evicted twice")
	}
	before := b.Generation()
	if err := b.Reset(); err != nil {
		t.Error(err)
	}
	wantInstalled(t, b.NIC)
	if got := b.Generation(); got != before+1 {
		t.Errorf("generation %d after %d and a reset", got, before)
	}
	if err := b.SetFaults(Faults{Unknown: -1}); err == nil {
		t.Error("a negative fault was taken")
	}
	mustApply(t, b.NIC, adds(e1, e2, e3)...)
	wantInstalled(t, b.NIC, e1, e2, e3)
}

// TestConflict puts frames in while the table is being written and expects software
// to get them, uncounted.
func TestConflict(t *testing.T) {
	b := newBench(t, 4, 1, 2)
	e := port80(1, 1, 1)
	mustApply(t, b.NIC, adds(e)...)
	b.write(func() {
		got := b.put(t, frameTo(t, 1), 2)
		if want := (fate{ret: xdpRedirect, stats: Stats{Port: 2, Conflicts: 1}}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	if got := b.put(t, frameTo(t, 1), 2); got.entry != e.ID {
		t.Errorf("after the write: %+v", got)
	}
}

// TestDecode gives the decoder what no driver writes: it must say so, not guess, and
// let it be removed, or the card would answer by it for ever.
func TestDecode(t *testing.T) {
	b := newBench(t, 4, 1, 2)
	mustApply(t, b.NIC, adds(port80(1, 1, 1))...)
	line := &b.mem.Table.Entry[0]
	slot := &b.mem.Slots[line.Slot]
	goodSlot := *slot
	for i, spoil := range []func(){
		func() { line.Kind = 3 },
		func() { line.Slot = 5000 },
		func() { line.Value[0] = 1 },
		func() { line.SrcLo = 7; line.SrcHi = 7 },
		func() { slot.Steps = 99 },
		func() { slot.Steps = 0 },
		func() { slot.Step[0].First = 0 },
		func() { slot.Step[0].Op = 77 },
	} {
		spoil()
		got, err := b.Installed(t.Context())
		if err != nil || len(got) != 1 || got[0].ID != 1 || got[0].Match != (flow.Match{}) || got[0].Punt() || got[0].Actions.Valid() == nil {
			t.Fatalf("spoiled in way %d, the dump is %+v, %v", i, got, err)
		}
		if _, err := b.Counters(t.Context()); err != nil {
			t.Error(err)
		}
		mustApply(t, b.NIC, removes(got...)...)
		wantInstalled(t, b.NIC)
		*slot = goodSlot
		mustApply(t, b.NIC, adds(port80(1, 1, 1))...)
		wantInstalled(t, b.NIC, port80(1, 1, 1))
		slot = &b.mem.Slots[line.Slot]
		goodSlot = *slot
	}
	b.mem.Table.N = 1000
	if got, err := b.Installed(t.Context()); err == nil {
		t.Errorf("with 1000 entries, the dump is %+v", got)
	}
	b.mem.Table.N = 1
	wantInstalled(t, b.NIC, port80(1, 1, 1))
}

// TestConfig makes cards that cannot be.
func TestConfig(t *testing.T) {
	b := newBench(t, 4, 1)
	port := []Port{{1, "lo", "xcardnone"}}
	for name, c := range map[string]Config{
		"no bpffs":       {Ports: port, PinDir: t.TempDir() + "/card"},
		"no ports":       {PinDir: b.dir + "2"},
		"port 0":         {Ports: []Port{{0, "a", "b"}}, PinDir: b.dir + "2"},
		"port twice":     {Ports: []Port{{1, "a", "b"}, {1, "c", "d"}}, PinDir: b.dir + "2"},
		"netdev twice":   {Ports: []Port{{1, "a", "b"}, {2, "c", "a"}}, PinDir: b.dir + "2"},
		"many entries":   {Ports: port, Entries: MaxEntries + 1, PinDir: b.dir + "2"},
		"missing netdev": {Ports: port, PinDir: b.dir + "2"},
		"a card there":   {Ports: port, PinDir: b.dir},
	} {
		n, err := Create(c)
		if err == nil {
			t.Errorf("%s: created %v", name, n)
		}
	}
	if _, err := Open(b.dir + "2"); err == nil {
		t.Error("a card that failed to be made can be opened")
	}
	wantInstalled(t, b.NIC)
}

// BenchmarkApply measures one add and one remove at the top of a table of n entries.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{0, 500} {
		b.Run(fmt.Sprintf("add/entries=%d", n), func(b *testing.B) {
			card := newBench(b, MaxEntries, 1, 2)
			for i := range n {
				mustApply(b, card.NIC, adds(port80(flow.EntryID(i+10), 1, byte(i)))...)
			}
			op := adds(port80(1, 2, 1))
			for b.Loop() {
				mustApply(b, card.NIC, op...)
				b.StopTimer()
				if err := card.Evict(1); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	b.Run("barrier", func(b *testing.B) {
		card := newBench(b, 4, 1)
		for b.Loop() {
			if err := card.Barrier(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestConformance runs the suite that every driver must pass.
func TestConformance(t *testing.T) {
	newDriver := func(t *testing.T) offload.Driver { return newBench(t, 64, 1, 2, 3) }
	send := func(t *testing.T, d offload.Driver, frame []byte, in flow.Port) { d.(onBench).put(t, frame, in) }
	offloadtest.Run(t, newDriver, offloadtest.Options{Ports: []flow.Port{1, 2, 3}, Send: send})
}
