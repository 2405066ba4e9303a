package flowcache

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestBusiest counts packets of flows that come, are evicted, come again in places that
// others had, and go with their epoch. Each call tells of all packets since the one before,
// for the right flow and rule, the busiest first.
func TestBusiest(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	m := newMemory(64, 64)
	tab := newTable(m)
	view := flow.Key{^uint64(0)}
	rest := func() {
		clear(tab.resting)
		tab.settled = tab.epoch()
	}
	epoch := advance(tab, &view)
	rest()
	want, told, evicted := map[flow.Key]uint64{}, 0, false
	for range 20_000 {
		key := flow.Key{1 + rng.Uint64N(60)}
		switch n := rng.IntN(100); {
		case n < 60:
			if e := packet(m, &key); e != nil {
				if rng.IntN(2) == 0 {
					e.Packets++
				} else {
					e.MorePackets++
				}
				want[key]++
			}
		case n < 80:
			evicted = put1(tab, epoch, &key, Verdict{}, flow.RuleID(key[0]+100)) == evicting || evicted
		case n < 90:
			got := tab.busiest(1000)
			sum := map[flow.Key]uint64{}
			for i, b := range got {
				if b.Rule != flow.RuleID(b.Key[0]+100) {
					t.Fatalf("flow %x is told to be of rule %d", b.Key, b.Rule)
				}
				if i > 0 && b.Packets > got[i-1].Packets {
					t.Fatalf("flow %d has more packets than the one before", i)
				}
				sum[b.Key] += b.Packets
			}
			for k, n := range sum {
				if n > want[k] { // fewer if its entry was evicted with some untold
					t.Fatalf("flow %x: told of %d packets, there were %d", k, n, want[k])
				}
			}
			for k, n := range want {
				if !evicted && sum[k] != n {
					t.Fatalf("flow %x had %d packets, told of %d", k, n, sum[k])
				}
			}
			if !evicted {
				told += len(sum)
			}
			evicted = false
			clear(want)
		case n < 99:
			rest()
		default:
			epoch = advance(tab, &view)
			clear(want)
			rest()
		}
	}
	if told < 100 {
		t.Errorf("only %d flows were told of", told)
	}
	if few := tab.busiest(2); len(few) > 2 {
		t.Errorf("%d flows, at most 2 were asked for", len(few))
	}
}
