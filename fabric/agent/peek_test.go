package agent

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// deaf is a card that takes every entry, lists it, and answers only by those that it hears.
type deaf struct {
	*offloadtest.NIC
	silicon *offloadtest.NIC
	hears   func(*flow.Entry) bool
}

func (d *deaf) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := d.NIC.Apply(ctx, ops)
	for i := range ops {
		if out[i].Status != offload.Done {
			continue
		}
		if op := &ops[i]; op.Kind == offload.Remove || d.hears(&op.Entry) {
			out[i].Final = d.silicon.Apply(ctx, ops[i:i+1])[0].Final
		}
	}
	return out
}

func (d *deaf) Counters(ctx context.Context) ([]offload.Count, error) {
	all, err := d.NIC.Counters(ctx)
	if err != nil {
		return nil, err
	}
	real, err := d.silicon.Counters(ctx)
	if err != nil {
		return nil, err
	}
	counted := map[flow.EntryID]flow.Counter{}
	for _, n := range real {
		counted[n.Entry] = n.Counter
	}
	for i := range all {
		all[i].Counter = counted[all[i].Entry]
	}
	return all, nil
}

func (d *deaf) Receive(k *flow.Key, bytes int) (flow.Entry, bool) { return d.silicon.Receive(k, bytes) }

// newDeaf gives a rig's agent such a card.
func newDeaf(r *rig, hears func(*flow.Entry) bool) (*deaf, *tapped) {
	m, _ := r.nic.Model(context.Background())
	d, tap := &deaf{r.nic, offloadtest.New(m), hears}, &tapped{software: r.software}
	c := r.config()
	c.Devices[0].Driver, c.Samples = d, tap
	r.agent = New(c)
	return d, tap
}

// looking are the parts of masks of which the cards of these tests are deaf to one.
var looking = map[string]func(m *flow.Match) bool{
	"ip_proto": func(m *flow.Match) bool { return m.Mask.Get(flow.Proto) != 0 },
	"dst_ip":   func(m *flow.Match) bool { return m.Mask.Get(flow.DstLo) != 0 },
	"dst_port": func(m *flow.Match) bool { return m.Mask.Get(flow.DstPort) != 0 || !m.DstPort.Any() },
	"guards":   nil, // no part: guards of two parts and more
}

// TestDeafCard has cards that list entries which they never answer by, while packets come that
// these should answer or punt: within 10 s at the usual interval the card has lost its entries,
// all packets are judged rightly from then on, and no packet was ever judged wrongly by what
// was done to find it out. The time is the agent's.
func TestDeafCard(t *testing.T) {
	start := flowtest.Seed(t)
	for part, looks := range looking {
		t.Run(part, func(t *testing.T) {
			for round := range flowtest.Count(t, "BLADEFLOW_PEEKS", 3) {
				rng := rand.New(rand.NewPCG(start, uint64(round)))
				r := newRig(t, 64)
				d, tap := newDeaf(r, func(e *flow.Entry) bool {
					if looks == nil {
						return !e.Punt() || e.Match.Mask.Get(flow.Proto) == 0
					}
					return !looks(&e.Match)
				})
				r.wanted.Want(web(t, 1))
				r.settle(2)
				wrong, since := 0, r.now
				var first time.Time
				burst := func(n int, pace time.Duration) (wrong int) {
					tab := r.software.current()
					for i := range n {
						k := packet(rng)
						e, hit := d.Receive(&k, 64)
						if !hit || e.Punt() {
							tap.judge(t, &k, r.now.Add(pace*time.Duration(i)/time.Duration(n)))
						} else if at := tab.Lookup(&k); tab.Rule(at).ID != e.Rule && !tab.Rule(at).Actions.Equal(tab.Rule(mustIndex(tab, e.Rule)).Actions) {
							wrong++
						}
					}
					return wrong
				}
				rate := 300 + rng.IntN(2000) // packets a second: of fewer it takes longer
				for r.now.Sub(since) < time.Minute && r.agent.Status().EventTotals[eventLies] == 0 {
					pace := r.agent.pace(0)
					if n := burst(int(float64(rate)*pace.Seconds()), pace); n > 0 {
						wrong += n
						if first.IsZero() {
							first = r.now
						}
					}
					r.now = r.now.Add(pace)
					if err := r.agent.Reconcile(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				s := r.agent.Status()
				if first.IsZero() {
					t.Fatalf("round %d: no packet was judged wrongly", round)
				}
				if took := r.now.Sub(first); s.EventTotals[eventLies] != 1 || took > 10*time.Second {
					t.Fatalf("round %d: %d packets a second, %d wrong, in %s: %+v, %v, %v", round, rate, wrong, took, s.Peeks, s.EventTotals, s.Devices[0].Unmet)
				}
				if s.Devices[0].Entries != 0 || !s.Devices[0].Distrusted || s.Rules[0].Code != "E_DEVICE_LIES" {
					t.Fatalf("round %d: %+v", round, s.Devices[0])
				}
				if n := burst(1000, time.Second); n > 0 {
					t.Fatalf("round %d: %d packets are judged wrongly by a card without entries", round, n)
				}
			}
		})
	}
}

func mustIndex(t *flow.Table, id flow.RuleID) int {
	i, _ := t.Index(id)
	return i
}

// TestPeekHonest has honest cards, traffic that begins and ends at any time and of which some
// is lost on the way to software: whatever comes, no card is accused, all packets are judged
// rightly, and what a peek puts in goes again.
func TestPeekHonest(t *testing.T) {
	start := flowtest.Seed(t)
	peeks := PeekStatus{}
	for round := range flowtest.Count(t, "BLADEFLOW_PEEKS", 15) {
		rng := rand.New(rand.NewPCG(start, uint64(round)))
		r := newRig(t, 64)
		tap := tapping(r)
		r.wanted.Want(web(t, 1))
		r.settle(2)
		kinds := make([]flow.Key, 12)
		for i := range kinds {
			kinds[i] = packet(rng)
		}
		rates := make([]int, len(kinds)) // packets a second of each
		lossy := rng.IntN(3) == 0
		most := 0
		for range 120 {
			for i := range rates {
				if rng.IntN(10) == 0 {
					rates[i] = rng.IntN(2) * rng.IntN(400)
				}
			}
			pace := r.agent.pace(0)
			for i, k := range kinds {
				n := int(float64(rates[i]) * pace.Seconds())
				for j := range n {
					e, hit := r.nic.Receive(&k, 64)
					switch want := r.software.current(); {
					case !hit || e.Punt():
						if !lossy || rng.IntN(4) > 0 {
							tap.judge(t, &k, r.now.Add(pace*time.Duration(j)/time.Duration(n)))
						}
					case want.Rule(want.Lookup(&k)).ID != e.Rule:
						t.Fatalf("round %d: %s was answered by entry %x", round, flow.FormatKey(k, testPorts), e.ID)
					}
				}
			}
			r.now = r.now.Add(pace)
			if err := r.agent.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			most = max(most, len(r.installed()))
		}
		s := r.agent.Status()
		if s.EventTotals[eventLies] != 0 || s.Drift != (DriftStatus{}) {
			t.Fatalf("round %d: %+v, %+v, %v", round, s.Peeks, s.Drift, s.Events)
		}
		peeks = PeekStatus{peeks.Right + s.Peeks.Right, peeks.Wrong + s.Peeks.Wrong, peeks.Open + s.Peeks.Open}
		r.wanted.Want(table(t, 2, nil, "name=b,priority=1,in_port=vf1 actions=drop"))
		r.settle(3)
		r.proved()
	}
	if t.Logf("%+v", peeks); peeks.Right == 0 {
		t.Error("nothing was looked under")
	}
}

// TestPeekShare has an entry with more traffic than software is to get: it is looked under in
// part, and the guard for that is never wider than the entry.
func TestPeekShare(t *testing.T) {
	r := newRig(t, 64)
	m, _ := r.nic.Model(t.Context())
	r.wanted.Want(web(t, 1))
	r.settle(2)
	for _, e := range r.installed() {
		if e.Punt() {
			continue
		}
		for _, excess := range []float64{0.5, 1.5, 100, 1e6} {
			g, ok := shield(&m, &e, excess)
			if !ok || !e.Match.Covers(&g.Match) || g.Priority <= e.Priority || excess < 1 && g.Match != e.Match || excess > 1 && g.Match == e.Match {
				t.Errorf("%+v, %v: %+v %v", e, excess, g, ok)
			}
		}
	}
}
