package hwtests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// That nothing waits for a frame behind it: not in software, and what does in a veth's ring is
// Linux's.

// TestNothingSleeps sends bursts to software with nothing behind them. Each is judged to
// its last frame, and every copy leaves, without another frame that would wake anybody.
func TestNothingSleeps(t *testing.T) {
	needs(t, "afxdp")
	const most = 96 // a veth's ring holds 256
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	seed := flowtest.Seed(t)
	var judged atomic.Int64
	ch, err := Start(t.Context(), Config{Interval: time.Minute, Tap: func(flow.Port, []byte) { judged.Add(1) },
		Config: lab.Config{Blades: 1, VFs: 4}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ch.Stop(); err != nil {
			t.Error(err)
		}
	}()
	b := ch.Blades[0]
	d, err := newDice(seed, b.Blade)
	if err != nil {
		t.Fatal(err)
	}
	loads := burstsOf(d)
	for half, actions := range []flow.Actions{{{Op: flow.Drop}}, {{Op: flow.Output, Ports: []flow.Port{lab.Uplink}}}} {
		var all flow.Match
		table, err := d.table(flow.Generation(1+half), []flow.Rule{{ID: flow.NewRuleID("random", "all"), Name: "random/all", Tier: flow.TierTenant, Match: all, Actions: actions}})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Want(t.Context(), table); err != nil {
			t.Fatal(err)
		}
		for round := range rounds / 2 {
			before, left := judged.Load(), leavings(b)
			sent := burst(t, b, loads, rand.New(rand.NewPCG(seed, uint64(round))), most/(1+2*half))
			for since := time.Now(); judged.Load()-before < sent || leavings(b)-left < sent*int64(half); time.Sleep(100 * time.Microsecond) {
				if time.Since(since) > asleep {
					lost, err := ch.losses()
					t.Fatalf("%v, round %d: of %d frames %d were judged, and %d copies left: lost %v, %v", actions, round, sent, judged.Load()-before, leavings(b)-left, lost, err)
				}
			}
		}
	}
}

// TestRouse has a card send 16 frames to one port and, in the same batch, copies that are
// for others: Linux leaves the 16 in the ring, and they have to be roused.
func TestRouse(t *testing.T) {
	needs(t, "afxdp")
	ch, err := Start(t.Context(), Config{Interval: time.Minute, Config: lab.Config{Blades: 1, VFs: 4}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ch.Stop(); err != nil {
			t.Error(err)
		}
	}()
	b := ch.Blades[0]
	d, err := newDice(flowtest.Seed(t), b.Blade)
	if err != nil {
		t.Fatal(err)
	}
	const from, one, some = 2, 16, 48
	var rules []flow.Rule
	var frames [][]byte
	for i, to := range [][]flow.Port{{5}, {3, 4}} {
		var m flow.Match
		m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		m.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
		m.Pin(flow.Proto, flow.ProtoUDP, 0xff)
		m.SetPorts(flow.DstPort, uint16(i), uint16(i))
		name := fmt.Sprintf("random/%d", i)
		rules = append(rules, flow.Rule{ID: flow.NewRuleID("random", name), Name: name, Tier: flow.TierTenant, Priority: int32(i), Match: m, Actions: flow.Actions{{Op: flow.Output, Ports: to}}})
		k := d.key(from)
		into(d, &k, &m)
		for range []int{one, some}[i] {
			frames = append(frames, stampable(k))
		}
	}
	table, err := d.table(1, rules)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Want(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	at := b.At(from)
	m, err := traffic.OpenMaker(at.Outside.NS, at.Outside.Name, frames, 0, len(frames))
	must.Have(t, "xdp", err)
	defer m.Close()
	if _, err := m.Send(t.Context(), 1, func(sent int) bool { return sent == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := ch.Settle(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	before := b.At(5).Leaves.Totals().Recorded
	if err := errors.Join(ch.rouse(t.Context()), ch.Settle(t.Context(), 100*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d had come before", before, one)
	for port, want := range map[flow.Port]uint64{3: some, 4: some, 5: one} {
		if got := b.At(port).Leaves.Totals().Recorded; got != want {
			t.Errorf("%d frames left by port %d, want %d", got, port, want)
		}
	}
}

// burstsOf returns for every port a frame that a card leaves to software.
func burstsOf(d *dice) (frames [][]byte) {
	for _, at := range d.blade.Attached {
		for {
			k := d.key(at.Port)
			k.Set(flow.Flags, k.Get(flow.Flags)|flow.FlagOdd)
			if f := stampable(k); f != nil {
				frames = append(frames, f)
				break
			}
		}
	}
	return frames
}

// burst sends less than most frames by every port, all ports at once, and returns how many
// that were.
func burst(t *testing.T, b *Blade, frames [][]byte, dice *rand.Rand, most int) (sent int64) {
	var done sync.WaitGroup
	defer done.Wait()
	for i, at := range b.Attached {
		n := dice.IntN(most)
		sent += int64(n)
		done.Go(func() {
			s, err := at.Sender()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := s.Send(t.Context(), traffic.Load{Frames: traffic.Cycle(frames[i]), Count: n}); err != nil {
				t.Error(err)
			}
		})
	}
	return sent
}

// leavings counts the frames that left the blade by any port.
func leavings(b *Blade) (n int64) {
	for _, at := range b.Attached {
		n += int64(at.Leaves.Totals().Recorded)
	}
	return n
}
