package fallback

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// sink is a link that receives nothing and throws away what it sends, and a kernel
// of that kind: what is left is the Go part of the path.
type sink struct{}

func (sink) Recv([][]byte) (int, error)      { return 0, nil }
func (sink) Wake()                           {}
func (sink) Send([]byte) error               { return nil }
func (sink) Flush() error                    { return nil }
func (sink) Stats() (_, _, _ uint64)         { return 0, 0, 0 }
func (sink) Deliver(flow.Port, []byte) error { return nil }

// alone returns a worker of a datapath over sinks that has tab, and a batch of
// frames that match its rules.
func alone(tb testing.TB, tab *flow.Table) (*worker, [][]byte) {
	tb.Helper()
	d, err := New(Config{Links: map[flow.Port]Link{1: sink{}, 2: sink{}, 3: sink{}}, Kernel: sink{}})
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.Swap(tab); err != nil {
		tb.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var frames [][]byte
	for len(frames) < batchSize {
		if tab.Len() == 0 {
			frames = append(frames, flowtest.FrameOf(rng, flowtest.IPv4))
			continue
		}
		if k, ok := flow.Shared(&tab.Rule(rng.IntN(tab.Len())).Match); ok {
			f, err := flow.Frame(k, make([]byte, 18))
			if err != nil {
				tb.Fatal(err)
			}
			frames = append(frames, f)
		}
	}
	return d.workers[0], frames
}

// tables are what the Go part is measured with: what a list of actions costs, and
// what a number of rules.
func tables() map[string]*flow.Table {
	out := flow.Action{Op: flow.Output, Ports: []flow.Port{2}}
	t := map[string]*flow.Table{
		"drop":   flowtest.NewTable(nil, nil),
		"output": flowtest.NewTable(nil, flow.Actions{out}),
		"normal": flowtest.NewTable(nil, flow.Actions{{Op: flow.Normal}}),
		"pass":   flowtest.NewTable(nil, flow.Actions{{Op: flow.Pass}}),
		"retag": flowtest.NewTable(nil, flow.Actions{{Op: flow.VLANPop}, {Op: flow.VLANPush, Tag: 7, Proto: flow.EthVLAN},
			{Op: flow.Mirror, Ports: []flow.Port{3}}, out}),
	}
	for name, list := range map[string]string{"set-mac": "set(dst_mac=02:00:00:00:00:07)", "set-ttl": "set(ip_ttl=9)", "set-nat": "set(src_ip=192.0.2.1,dst_ip=192.0.2.2)",
		"police": "police(rate=1000T,burst=2G)", "police-drop": "police(rate=1,burst=1)"} {
		a, err := flow.ParseActions(list+",output:#2", nil)
		if err != nil {
			panic(err)
		}
		t[name] = flowtest.NewTable(nil, a)
	}
	for _, n := range []int{100, 1000, 10000} {
		t[fmt.Sprintf("acl-%d", n)] = flowtest.NewTable(flowtest.Generate(flowtest.ACL, n, 1), flow.Actions{out})
	}
	return t
}

// TestNoAllocations pins that judging a batch allocates nothing.
func TestNoAllocations(t *testing.T) {
	for name, tab := range tables() {
		w, frames := alone(t, tab)
		if n := testing.AllocsPerRun(100, func() { w.judge(frames) }); n != 0 {
			t.Errorf("%s: %v allocations per batch", name, n)
		}
	}
}

// TestSampleAllocations pins the same where somebody looks on, with places and without.
func TestSampleAllocations(t *testing.T) {
	w, frames := alone(t, flowtest.NewTable(nil, nil))
	full, read := w.d.Sample(Want{}), w.d.Sample(Want{})
	var got Sample
	for range 2 * samplePlaces / batchSize {
		w.judge(frames)
		for read.oldest(&got) {
		}
	}
	n := testing.AllocsPerRun(100, func() {
		w.judge(frames)
		for read.oldest(&got) {
		}
	})
	if n != 0 || full.Skipped() == 0 {
		t.Errorf("%v allocations per batch, %d skipped", n, full.Skipped())
	}
}

// TestSampleTables: the places of a reader who has read all keep no table alive.
func TestSampleTables(t *testing.T) {
	w, frames := alone(t, flowtest.NewTable(nil, nil))
	s := w.d.Sample(Want{})
	var got Sample
	for range 3 {
		w.judge(frames)
		read := 0
		for s.oldest(&got) {
			if read++; got.Table == nil || len(got.Frame) == 0 {
				t.Fatalf("sample %d: %+v", read, got)
			}
		}
		if read != len(frames) {
			t.Errorf("%d of %d frames", read, len(frames))
		}
	}
	for i := range s.places {
		if s.places[i].Table != nil {
			t.Fatalf("place %d of %d has a table", i, len(s.places))
		}
	}
}

// BenchmarkSample is what it costs, per frame, that somebody looks on.
func BenchmarkSample(b *testing.B) {
	for name, look := range map[string]func(*Datapath) *Samples{
		"nobody":   func(*Datapath) *Samples { return nil },
		"unwanted": func(d *Datapath) *Samples { return d.Sample(Want{Verdicts: []flow.Op{flow.Normal}}) },
		"full":     func(d *Datapath) *Samples { return d.Sample(Want{}) },
		"read":     func(d *Datapath) *Samples { return d.Sample(Want{}) },
	} {
		b.Run(name, func(b *testing.B) {
			w, frames := alone(b, flowtest.NewTable(nil, nil))
			s := look(w.d)
			var got Sample
			b.ReportAllocs()
			for n := 0; n < b.N; n += batchSize {
				w.judge(frames)
				for name == "read" && s.oldest(&got) {
				}
			}
		})
	}
}

// BenchmarkJudge is the Go part per frame: parse, match, act, count.
func BenchmarkJudge(b *testing.B) {
	for name, tab := range tables() {
		b.Run(name, func(b *testing.B) {
			w, frames := alone(b, tab)
			b.ReportAllocs()
			for n := 0; n < b.N; n += batchSize {
				w.judge(frames)
			}
		})
	}
}

// TestTally moves counts through tables in which rules come, move and go.
func TestTally(t *testing.T) {
	rules := make([]flow.Rule, 3*pageRules)
	for i := range rules {
		rules[i] = flow.Rule{ID: flow.RuleID(i + 1), Name: fmt.Sprint(i), Priority: int32(i), Actions: flow.Actions{{Op: flow.Drop}}}
	}
	rng := rand.New(rand.NewPCG(3, 3))
	var c tally
	want := map[flow.RuleID]flow.Counter{}
	for range 30 {
		tab := flowtest.NewTable(rules[rng.IntN(400):][:rng.IntN(300)], nil)
		c.adopt(tab)
		c.adopt(tab)
		for range rng.IntN(50) {
			i, length := rng.IntN(tab.Len()+1), rng.IntN(1500)
			c.count(int32(i), length)
			id := tab.Rule(i).ID
			want[id] = flow.Counter{Packets: want[id].Packets + 1, Bytes: want[id].Bytes + uint64(length)}
		}
		got := map[flow.RuleID]flow.Counter{}
		c.addTo(got, true)
		if len(got) != len(want) {
			t.Fatalf("%d rules counted, want %d", len(got), len(want))
		}
		for id, n := range want {
			if got[id] != n {
				t.Fatalf("rule %d: %+v, want %+v", id, got[id], n)
			}
		}
	}
}
