package fallback_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// sampleTable is a table whose rules do everything that a verdict can be, with one of
// their lists of actions each, in turn.
func sampleTable(rng *rand.Rand, rules int) *flow.Table {
	push := flow.Action{Op: flow.VLANPush, Tag: 7, Proto: flow.EthVLAN}
	lists := []flow.Actions{{{Op: flow.Drop}}, {{Op: flow.Normal}}, {{Op: flow.Pass}}, {{Op: flow.Output, Ports: []flow.Port{2}}},
		{push, push, {Op: flow.Output, Ports: []flow.Port{3}}}, {{Op: flow.Mirror, Ports: []flow.Port{3}}, {Op: flow.Drop}}}
	all := flowtest.Generate(flowtest.Segment, rules, rng.Uint64())
	for i := range all {
		all[i].Actions = lists[i%len(lists)]
	}
	return flowtest.NewTable(all, lists[rng.IntN(len(lists))])
}

// verdictOf is what the definition makes of a frame: its rule's terminal action, or drop
// if the frame does not get that far.
func verdictOf(tab *flow.Table, frame []byte, in flow.Port) (rule int, verdict flow.Op, ok bool) {
	k, err := flow.Parse(frame, in)
	if err != nil {
		return 0, 0, false
	}
	rule = tab.Lookup(&k)
	actions := tab.Rule(rule).Actions
	verdict = actions.Terminal().Op
	arrives := append(slices.Clone(actions[:max(0, len(actions)-1)]), flow.Action{Op: flow.Pass})
	if !slices.ContainsFunc(flow.Act(arrives, tab.Switch(), 0, frame, in), func(e flow.Emission) bool { return e.Kernel }) {
		verdict = flow.Drop
	}
	return rule, verdict, true
}

func keyOf(frame string, in flow.Port) flow.Key {
	k, _ := flow.Parse([]byte(frame), in)
	return k
}

// TestSample compares what readers see with what the definition says of the frames that
// were put in: all that each wants, in order, and nothing else.
func TestSample(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	w := newWire(1, 2, 3)
	d := start(t, w)
	tab := sampleTable(rng, 60)
	swap(t, d, tab)
	some := func() flow.RuleID { return tab.Rule(rng.IntN(tab.Len() + 1)).ID }
	wants := []fallback.Want{{}, {Ports: []flow.Port{2}}, {Verdicts: []flow.Op{flow.Drop}}, {Verdicts: []flow.Op{flow.Normal, flow.Output}, Ports: []flow.Port{1, 3}},
		{Rules: []flow.RuleID{flow.DefaultRule, some(), some()}}, {Rules: []flow.RuleID{some()}, Verdicts: []flow.Op{flow.Pass}}}
	readers := make([]*fallback.Samples, len(wants))
	for i, want := range wants {
		readers[i] = d.Sample(want)
	}
	type seen struct {
		port    flow.Port
		rule    int
		verdict flow.Op
		frame   string
	}
	met := map[flow.Op]int{}
	for range 20 {
		expected := make([][]seen, len(wants))
		for range 60 {
			frame, in := randomFrame(rng, tab), flow.Port(1+rng.IntN(3))
			w.put(in, frame)
			w.settle()
			rule, verdict, ok := verdictOf(tab, frame, in)
			if !ok {
				continue
			}
			met[verdict]++
			for i, want := range wants {
				if (len(want.Ports) == 0 || slices.Contains(want.Ports, in)) && (len(want.Rules) == 0 || slices.Contains(want.Rules, tab.Rule(rule).ID)) &&
					(len(want.Verdicts) == 0 || slices.Contains(want.Verdicts, verdict)) {
					expected[i] = append(expected[i], seen{in, rule, verdict, string(frame)})
				}
			}
		}
		for i, s := range readers {
			var got fallback.Sample
			for _, e := range expected[i] {
				if err := s.Next(t.Context(), &got); err != nil {
					t.Fatal(err)
				}
				if is := (seen{flow.Port(got.Key.Get(flow.InPort)), got.Rule, got.Verdict, string(got.Frame)}); is != e || got.Key != keyOf(e.frame, e.port) || got.Table != tab || got.Length != len(e.frame) || got.Skipped != 0 || got.Time.IsZero() {
					t.Fatalf("reader %+v sees %+v, want %+v", wants[i], got, e)
				}
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Next(ended, &got); !errors.Is(err, context.Canceled) {
				t.Fatalf("reader %+v sees one more: %+v, %v", wants[i], got, err)
			}
		}
	}
	for _, v := range []flow.Op{flow.Drop, flow.Normal, flow.Pass, flow.Output} {
		if met[v] == 0 {
			t.Errorf("no frame got the verdict %v", v)
		}
	}
	readers[0].Close()
	w.put(1, randomFrame(rng, tab))
	w.settle()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := readers[0].Next(ended, new(fallback.Sample)); !errors.Is(err, context.Canceled) {
		t.Error("a closed reader sees more")
	}
}

// TestSampleSkips checks that who reads slowly is told how much it has missed, and that
// long frames are cut.
func TestSampleSkips(t *testing.T) {
	w := newWire(1)
	d := start(t, w)
	swap(t, d, flowtest.NewTable(nil, nil))
	s := d.Sample(fallback.Want{})
	long := bytes.Repeat(testFrame(100, 0, 1), 30)
	const frames = 1000
	for range frames {
		w.put(1, long)
	}
	w.settle()
	var got fallback.Sample
	var seen, skipped uint64
	next := func() {
		if err := s.Next(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		seen++
		skipped += got.Skipped
		if got.Length != len(long) || !bytes.Equal(got.Frame, long[:fallback.SampleBytes]) {
			t.Fatalf("%d bytes of %d", len(got.Frame), got.Length)
		}
	}
	for s.Skipped() > 0 || seen == 0 {
		next() // makes room for one
		if seen == 1 {
			w.put(1, long)
			w.settle()
		}
	}
	for seen+skipped < frames+1 {
		next()
	}
	if seen+skipped != frames+1 || skipped == 0 {
		t.Errorf("saw %d and skipped %d of %d", seen, skipped, frames+1)
	}
}

// TestSampleWhileJudging has readers come, read and go while frames are judged by tables
// that change.
func TestSampleWhileJudging(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 2))
	w := newWire(1, 2)
	d := start(t, w)
	tables := []*flow.Table{sampleTable(rng, 20), sampleTable(rng, 20)}
	swap(t, d, tables[0])
	frames := make([][]byte, 64)
	for i := range frames {
		frames[i] = randomFrame(rng, tables[i%2])
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				s := d.Sample(fallback.Want{Verdicts: []flow.Op{flow.Drop, flow.Output}})
				var got fallback.Sample
				for range 50 {
					if s.Next(ctx, &got) != nil {
						break
					}
					rule, verdict, _ := verdictOf(got.Table, got.Frame, flow.Port(got.Key.Get(flow.InPort)))
					if rule != got.Rule || verdict != got.Verdict {
						t.Errorf("%x: rule %d, verdict %v, want %d, %v", got.Frame, got.Rule, got.Verdict, rule, verdict)
					}
				}
				s.Close()
			}
		})
	}
	for i := range 50 {
		w.put(flow.Port(1+i%2), frames...)
		swap(t, d, tables[i%2])
	}
	w.settle()
	cancel()
	readers.Wait()
}
