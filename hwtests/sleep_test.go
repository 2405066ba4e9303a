package hwtests

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

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
