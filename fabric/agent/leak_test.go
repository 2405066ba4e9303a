package agent

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// TestLeaked lets packets pass a port while its counters are read one after another, each
// as late as it may be: a card that does what its entries say is never accused, and one that
// leaks is, by no more than it leaked, and by most of it.
func TestLeaked(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	const step, steps, port = 10 * time.Millisecond, 2000, flow.Port(3)
	for round := range flowtest.Count(t, "BLADEFLOW_LEAKS", 400) {
		lag, every, leaks := rng.IntN(2)*rng.IntN(100), 20+rng.IntN(100), round%2 == 1
		rates := [3]int{rng.IntN(200), rng.IntN(200), 0} // by entries, software, and nobody
		if leaks {
			rates[2] = 1 + rng.IntN(100)
		}
		var sums [3][steps + 10]uint64
		for i := 1; i < len(sums[0]); i++ {
			for what, r := range rates {
				sums[what][i] = sums[what][i-1]
				if r > 0 && (what != 2 || i > steps/2) {
					sums[what][i] += uint64(rng.IntN(r))
				}
			}
		}
		late := func() int { return rng.IntN(lag + 1) }
		var o outflow
		var left, said, then, worst uint64
		at := time.Unix(0, 0)
		for i := lag; i < steps; i += every {
			from := max(i-late(), 0)
			left = max(left, sums[0][from]+sums[1][from]+sums[2][from])
			o.now = reading{at: at.Add(time.Duration(i) * step), left: map[flow.Port]uint64{port: left}, software: map[flow.Port]uint64{port: sums[1][i+1+rng.IntN(4)]}}
			said = max(said, sums[0][max(i+1+rng.IntN(4)-late(), 0)])
			after := max(i+5+rng.IntN(4)-late(), 0)
			then = max(left, then, sums[0][after]+sums[1][after]+sums[2][after])
			o.now.then, left = map[flow.Port]uint64{port: then}, then
			p, n := o.look(map[flow.Port]uint64{port: said}, time.Duration(lag)*step)
			if p != 0 && (p != port || !leaks) {
				t.Fatalf("round %d: %d packets by port %d, lag %d, rates %v", round, n, p, lag, rates)
			}
			if worst = max(worst, n); n > sums[2][i] {
				t.Fatalf("round %d: %d packets were said to leak of %d", round, n, sums[2][i])
			}
		}
		// What passed in the time that a look leaves open hides as much, and the last look is
		// before the end.
		hidden := uint64((rates[0]+rates[1]+rates[2])*(3*lag+20) + rates[2]*every)
		if lag > 0 {
			hidden += uint64((rates[0] + rates[1] + rates[2]) * 2 * every)
		}
		seen := min(steps/2, (leakRecords-3)*every-2*lag) // before the end, by the oldest reading that is kept
		if all := sums[2][steps-1] - sums[2][steps-1-max(seen, 0)]; leaks && all > hidden+leakPackets && worst+hidden < all {
			t.Errorf("round %d: %d packets leaked, %d were found; lag %d, looks every %d, rates %v", round, all, worst, lag, every, rates)
		}
	}
}

// porter is a driver whose ports are counted.
type porter struct {
	offload.Driver
	counts []offload.PortCount
}

func (p *porter) Delivered(context.Context) ([]offload.PortCount, error) { return p.counts, nil }

// TestDistrust has a card by whose port packets leave that nothing explains: it loses its
// entries in the same round, also in the eyes of the next agent, and other firmware has
// another chance. Ports that others use are not looked at.
func TestDistrust(t *testing.T) {
	r := newRig(t, 64)
	p := &porter{Driver: r.nic, counts: []offload.PortCount{{Port: 1}, {Port: 2}, {Port: 3}}}
	c := r.config()
	c.State = filepath.Join(t.TempDir(), "state")
	c.Devices[0].Driver, c.Devices[0].Unwatched = p, []flow.Port{1}
	c.Devices[0].Card = device.Card{NIC: "card", Driver: "d", Firmware: "1"}
	r.agent = New(c)
	r.wanted.Want(web(t, 1))
	r.settle(5)
	look := func(leak flow.Port) *Status {
		t.Helper()
		for range 4 {
			p.counts[0].All += 1000
			p.counts[1].All += 50
			p.counts[1].Software += 50
			if leak != 0 {
				p.counts[leak-1].All += leakPackets
			}
			if err := r.reconcile(); err != nil {
				t.Fatal(err)
			}
		}
		return r.agent.Status()
	}
	if s := look(1); s.Devices[0].Entries == 0 || s.EventTotals[eventLies] != 0 {
		t.Fatalf("without a leak: %+v, %v", s.Devices, s.EventTotals)
	}
	s := look(3)
	if s.Devices[0].Entries != 0 || s.EventTotals[eventLies] != 1 || s.Rules[0].Code != "E_DEVICE_LIES" || len(r.installed()) != 0 {
		t.Fatalf("after a leak: %+v, %v, %+v", s.Devices, s.EventTotals, s.Rules[0])
	}
	r.proved()
	r.agent = New(c)
	if s := look(0); s.Devices[0].Entries != 0 {
		t.Errorf("the next agent trusts it: %+v", s.Devices)
	}
	c.Devices[0].Card.Firmware = "2"
	r.agent = New(c)
	if s := look(0); s.Devices[0].Entries == 0 {
		t.Errorf("with other firmware: %+v", s.Rules[0])
	}
}

// TestLeakSoon has ports by which packets begin to leave that nothing explains, a hundredth of
// those that entries and software explain, at the usual interval: they are found within 10 s of
// the agent's time, in two looks where counters are not late; and of ports where all is explained
// nothing is said.
func TestLeakSoon(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for round := range flowtest.Count(t, "BLADEFLOW_LEAKS", 20) {
		r := newRig(t, 64)
		p := &porter{Driver: r.nic, counts: []offload.PortCount{{Port: 1}, {Port: 2}, {Port: 3}}}
		c := r.config()
		c.Devices[0].Driver = p
		r.agent = New(c)
		r.wanted.Want(web(t, 1))
		r.settle(5)
		usual := 1 + rng.IntN(5000)
		leak := max(10, usual/100)
		if round%2 == 0 {
			leak = 0
		}
		looks := 0
		pass := func(leak int) {
			t.Helper()
			looks++
			pace := r.agent.pace(0)
			for i := range p.counts {
				n := uint64(float64(usual) * pace.Seconds())
				p.counts[i].All += n
				p.counts[i].Software += n
			}
			p.counts[2].All += uint64(float64(leak) * pace.Seconds())
			r.now = r.now.Add(pace)
			if err := r.agent.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 + rng.IntN(10) { // until what is hot is settled
			pass(0)
		}
		looks = 0
		from := r.now
		for r.now.Sub(from) < 30*time.Second && r.agent.Status().EventTotals[eventLies] == 0 {
			pass(leak)
		}
		found := r.agent.Status().EventTotals[eventLies] > 0
		if took := r.now.Sub(from); found != (leak > 0) || found && (took > 10*time.Second || looks > 2) {
			t.Errorf("round %d: %d packets a second, %d leak: found %t in %s, %d looks", round, usual, leak, found, took, looks)
		}
	}
}
