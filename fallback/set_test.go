package fallback

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// tape is a link and a kernel that keeps what is sent.
type tape struct {
	sink
	port flow.Port
	all  *[]flow.Emission
}

func (l tape) Send(frame []byte) error {
	*l.all = append(*l.all, flow.Emission{Port: l.port, Bytes: bytes.Clone(frame)})
	return nil
}

func (l tape) Deliver(in flow.Port, frame []byte) error {
	*l.all = append(*l.all, flow.Emission{Port: in, Kernel: true, Bytes: bytes.Clone(frame)})
	return nil
}

// taped returns a datapath on ports 1, 2 and 3 whose workers are run by hand, a clock
// that is set by hand, and what it sends.
func taped(tb testing.TB) (d *Datapath, now *time.Duration, sent *[]flow.Emission) {
	tb.Helper()
	sent, now = new([]flow.Emission), new(time.Duration)
	c := Config{Links: map[flow.Port]Link{}, Kernel: tape{all: sent}}
	for p := flow.Port(1); p <= 3; p++ {
		c.Links[p] = tape{port: p, all: sent}
	}
	d, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	d.clock = func() time.Duration { return *now }
	return d, now, sent
}

// swapTo makes a table current that does the same to all packets.
func swapTo(tb testing.TB, d *Datapath, list flow.Actions) *flow.Table {
	tb.Helper()
	var l4 flow.Match // what the port settings below ask for is put beside what they must do without
	l4.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	bare := make(flow.Actions, 0, len(list))
	for _, a := range list {
		if a.Op == flow.Set {
			var kept []flow.Setting
			for _, s := range a.Settings {
				if !s.SetsPort() {
					kept = append(kept, s)
				}
			}
			if a.Settings = kept; len(kept) == 0 {
				continue
			}
		}
		bare = append(bare, a)
	}
	tab := flowtest.NewTable([]flow.Rule{{ID: 7, Name: "ports", Match: l4, Actions: list}}, bare)
	if err := d.Swap(tab); err != nil {
		tb.Fatal(err)
	}
	return tab
}

// checkJudge judges one frame and compares with the definition.
func checkJudge(tb testing.TB, d *Datapath, sent *[]flow.Emission, tab *flow.Table, frame []byte) {
	tb.Helper()
	*sent = (*sent)[:0]
	before := bytes.Clone(frame)
	d.workers[0].judge([][]byte{frame})
	if !bytes.Equal(frame, before) {
		tb.Fatalf("%x was changed to %x", before, frame)
	}
	if want := flow.Judge(tab, frame, 1); !flow.SameEmissions(*sent, want) {
		tb.Fatalf("%x under %s:\n got %+v\nwant %+v", frame, flow.FormatActions(tab.Rule(0).Actions, nil), *sent, want)
	}
}

// TestSetLists tries all lists of up to two set actions out of many, with changes of tags
// and copies around them, on frames of every kind, against the definition.
func TestSetLists(t *testing.T) {
	steps := []string{
		"set(ip_ttl=1)", "set(ip_ttl=64)", "set(ip_tos=0xb8/0xfc)", "set(src_mac=02:00:00:00:00:02,dst_mac=02:00:00:00:00:03)",
		"set(src_ip=10.0.0.1)", "set(dst_ip=10.0.1.2,ip_tos=0)", "set(dst_ip=2001:db8::1)", "set(src_ip=2001:db8:0:1::3,ip_ttl=7)",
		"set(src_port=1024)", "set(dst_port=80,src_ip=192.0.2.1)", "vlan_push:5", "vlan_pop", "mirror:#3",
	}
	d, _, sent := taped(t)
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 51))
	var frames [][]byte
	for kind := range flowtest.NumFrameKinds {
		for range 12 {
			frames = append(frames, flowtest.FrameOf(rng, kind))
		}
	}
	n := 0
	for _, a := range steps {
		for _, b := range steps {
			for _, end := range []string{"normal", "output:#2"} {
				list, err := flow.ParseActions(a+","+b+","+end, nil)
				if err != nil {
					t.Fatal(err)
				}
				tab := swapTo(t, d, list)
				for _, f := range frames {
					checkJudge(t, d, sent, tab, f)
					n++
				}
			}
		}
	}
	t.Logf("%d frames", n)
}

// TestSetRandom is the same with random rules and settings, and frames with sums of all
// sorts.
func TestSetRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 52))
	d, _, sent := taped(t)
	for range 60 {
		tab := flowtest.NewTable(flowtest.WithSets(rng, flowtest.Universes()[rng.IntN(6)].Rules(rng, 30, []flow.Port{1, 2, 3})), flow.Actions{{Op: flow.Normal}})
		if err := d.Swap(tab); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			frame := flowtest.Frame(rng)
			if k, ok := flow.Shared(&tab.Rule(rng.IntN(tab.Len())).Match); ok && rng.IntN(2) == 0 {
				frame, _ = flow.Frame(k, make([]byte, rng.IntN(40)))
			}
			if k, err := flow.Parse(frame, 1); err == nil && rng.IntN(2) == 0 {
				for h, at := flow.Locate(&k, frame), 0; at < 2; at++ {
					sum := []int{h.Sum, h.IP + 10}[at]
					if sum > 10 && sum+1 < len(frame) {
						copy(frame[sum:], [][]byte{{0, 0}, {0xff, 0xff}, {0, 1}, {byte(rng.Uint32()), byte(rng.Uint32())}}[rng.IntN(4)])
					}
				}
			}
			checkJudge(t, d, sent, tab, frame)
		}
	}
}

// FuzzSet: the Go path does to any frame what the definition says.
func FuzzSet(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 53))
	for kind := range flowtest.NumFrameKinds {
		f.Add(flowtest.FrameOf(rng, kind), uint64(kind))
	}
	d, _, sent := taped(f)
	var l4 flow.Match
	l4.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	f.Fuzz(func(t *testing.T, frame []byte, choice uint64) {
		rng := rand.New(rand.NewPCG(choice, 54))
		list := flowtest.Actions(rng, []flow.Port{1, 2, 3})
		for range 1 + rng.IntN(2) {
			list = append(flow.Actions{flowtest.Set(rng, &l4)}, list...)
		}
		checkJudge(t, d, sent, swapTo(t, d, list), frame)
	})
}

// TestPoliceExact judges random frames at random times by random tables with meters, which
// change under way, and compares each with the definition.
func TestPoliceExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 55))
	d, now, sent := taped(t)
	defined := flow.Meters{}
	dropped := map[flow.RuleID]uint64{}
	police := func() flow.Action {
		return flow.Action{Op: flow.Police, Rate: 1 + rng.Uint64N(1_000_000), Burst: 1 + uint32(rng.IntN(2000))}
	}
	for range 150 {
		var rules []flow.Rule
		for i := range 4 {
			list := flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}}
			for range 1 + rng.IntN(3) {
				list = append(flow.Actions{[]flow.Action{police(), police(), {Op: flow.Mirror, Ports: []flow.Port{3}}, {Op: flow.VLANPop}}[rng.IntN(4)]}, list...)
			}
			r := flow.Rule{ID: flow.RuleID(i + 1), Name: fmt.Sprint(i), Priority: int32(i), Actions: list}
			r.Match.Pin(flow.DstMAC, uint64(i), 3)
			if rng.IntN(5) > 0 {
				rules = append(rules, r)
			}
		}
		tab := flowtest.NewTable(rules, flow.Actions{police(), {Op: flow.Normal}})
		if err := d.Swap(tab); err != nil {
			t.Fatal(err)
		}
		defined.Forget(tab, *now)
		for range 20 {
			*now += time.Duration(rng.Int64N(int64(5 * time.Millisecond)))
			at := *now
			if rng.IntN(5) == 0 {
				at -= time.Duration(rng.Int64N(int64(time.Millisecond))) // a worker whose batch began earlier
			}
			var frames [][]byte
			for range 1 + rng.IntN(batchSize) {
				frames = append(frames, flowtest.Frame(rng))
			}
			in := flow.Port(1 + rng.IntN(3))
			var want []flow.Emission
			for _, f := range frames {
				want = append(want, defined.Judge(tab, f, in, at)...)
			}
			*sent = (*sent)[:0]
			late := *now
			*now = at
			d.workers[in-1].judge(frames)
			*now = late
			if !flow.SameEmissions(*sent, want) {
				t.Fatalf("at %v: %d emissions, want %d", at, len(*sent), len(want))
			}
		}
	}
	for id, n := range d.Policed() {
		dropped[id] += n.Packets
	}
	var sum uint64
	for _, n := range dropped {
		sum += n
	}
	if s := d.Stats(); sum == 0 || s.Policed != sum || s.Dropped < sum || len(dropped) < 4 {
		t.Errorf("%d dropped by rules %v, totals %+v", sum, dropped, s)
	}
}

// TestPoliceForgets: a rule that is gone leaves its meter behind until that is full, and
// its count for ever.
func TestPoliceForgets(t *testing.T) {
	d, now, _ := taped(t)
	frame := make([]byte, 100)
	list := flow.Actions{{Op: flow.Police, Rate: 800, Burst: 100}, {Op: flow.Drop}} // full again in a second
	for round := range 50 {
		tab := flowtest.NewTable([]flow.Rule{{ID: flow.RuleID(round + 1), Name: "r", Actions: list}}, nil)
		if err := d.Swap(tab); err != nil {
			t.Fatal(err)
		}
		d.workers[0].judge([][]byte{frame, frame, frame})
		*now += 300 * time.Millisecond
	}
	if n := len(d.meters.all); n != 4 { // of the last second
		t.Errorf("%d meters, of 50 rules that have come and gone", n)
	}
	dropped := d.Policed()
	for round := range 50 {
		if n := dropped[flow.RuleID(round+1)]; n != (flow.Counter{Packets: 2, Bytes: 200}) {
			t.Errorf("rule %d: dropped %+v", round+1, n)
		}
	}
	*now += time.Second
	if err := d.Swap(flowtest.NewTable(nil, nil)); err != nil {
		t.Fatal(err)
	}
	if len(d.meters.all) != 0 || len(d.Policed()) != 50 {
		t.Errorf("%d meters are left, and %d counts", len(d.meters.all), len(d.Policed()))
	}
}

// TestPoliceShared lets many workers go to one bucket at the same time at one instant:
// together they pass exactly what it holds.
func TestPoliceShared(t *testing.T) {
	const length, room = 100, 1000
	d, _, _ := taped(t)
	for _, w := range d.workers {
		w.d = d
		d.links[w.port] = []Link{sink{}}
	}
	d.kernel = sink{}
	if err := d.Swap(flowtest.NewTable(nil, flow.Actions{{Op: flow.Police, Rate: 1, Burst: room*length + length/2}, {Op: flow.Output, Ports: []flow.Port{2}}})); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	for _, w := range d.workers {
		go func() {
			frames := make([][]byte, batchSize)
			for i := range frames {
				frames[i] = make([]byte, length)
			}
			for range 20 {
				w.judge(frames)
			}
			done <- true
		}()
	}
	for range d.workers {
		<-done
	}
	frames := uint64(len(d.workers) * 20 * batchSize)
	if s, by := d.Stats(), d.Policed()[flow.DefaultRule]; s.Output != room || s.Policed != frames-room || by.Packets != s.Policed || by.Bytes != by.Packets*length {
		t.Errorf("%d of %d passed, want %d: %+v %+v", s.Output, frames, room, s, by)
	}
}

// TestPoliceRate offers one to three times the rate for a while: what passes is what the
// rate allows, within 1 %.
func TestPoliceRate(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 56))
	for _, rate := range []uint64{1e6, 100e6, 10e9} {
		d, now, sent := taped(t)
		const burst = 20_000
		if err := d.Swap(flowtest.NewTable(nil, flow.Actions{{Op: flow.Police, Rate: rate, Burst: burst}, {Op: flow.Output, Ports: []flow.Port{2}}})); err != nil {
			t.Fatal(err)
		}
		var passed float64
		for offered := 0; offered < 30_000_000; {
			f := make([]byte, 60+rng.IntN(1400))
			offered += len(f)
			*now += time.Duration(float64(len(f)*8) / float64(rate) * 1e9 / (1 + 2*rng.Float64()))
			*sent = (*sent)[:0]
			d.workers[0].judge([][]byte{f})
			for _, e := range *sent {
				passed += float64(8 * len(e.Bytes))
			}
		}
		allowed := now.Seconds()*float64(rate) + 8*burst
		if passed > allowed || passed < 0.99*allowed {
			t.Errorf("rate %d: %.0f bits passed in %v, allowed %.0f", rate, passed, *now, allowed)
		}
	}
}

// TestSetIsNotCached: the flow cache can neither set nor police, so no worker may have it
// answer for such a rule.
func TestSetIsNotCached(t *testing.T) {
	d, _, _ := taped(t)
	k := flowtest.TCP()
	for _, list := range []string{"set(ip_ttl=1),output:#2", "set(dst_mac=02:00:00:00:00:03),normal", "set(ip_ttl=1),pass", "set(src_port=1),drop", "vlan_push:5,set(ip_ttl=1),output:#2",
		"police(rate=1,burst=1),output:#2", "police(rate=1,burst=1),drop", "output:#2"} {
		a, err := flow.ParseActions(list, nil)
		if err != nil {
			t.Fatal(err)
		}
		tab := swapTo(t, d, a)
		if v, ok := d.workers[0].verdict(d.program.Load().program, int32(tab.Lookup(&k)), &k); ok != (list == "output:#2") {
			t.Errorf("%s: cached %v as %+v", list, ok, v)
		}
	}
}
