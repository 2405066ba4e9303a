package flowcache

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
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
			got := toldOf(tab, 1000)
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
	if few := toldOf(tab, 2); len(few) > 2 {
		t.Errorf("%d flows, at most 2 were asked for", len(few))
	}
}

// toldOf is Busiest of a table without a lock.
func toldOf(t *table, n int) []Busy {
	b := busiest{most: n}
	for first := 0; t.tell(first, &b); first += pieceOfTelling {
		b.prune()
	}
	return b.sorted()
}

// TestBusiestOfMany compares the busiest of several pieces of a table with all of them sorted,
// whether they differ much, hardly or not at all; an epoch that begins between two pieces leaves
// nothing of the one before.
func TestBusiestOfMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 2))
	m := newMemory(2048, 64)
	tab := newTable(m)
	view := flow.Key{^uint64(0)}
	advance(tab, &view)
	tab.settled = tab.epoch()
	for i := range uint64(4 * 2048) {
		put1(tab, tab.epoch(), &flow.Key{i}, Verdict{}, flow.RuleID(7))
	}
	for _, differ := range []uint64{1, 3, 1 << 40} {
		for _, n := range []int{1, 100, 3000, 1 << 20} {
			var want []uint64
			for i := range m.Sets {
				for w := range ways {
					if e := &m.Sets[i].Way[w]; e.Stamp == tab.epoch() && rng.IntN(8) > 0 {
						more := 1 + rng.Uint64N(differ)
						e.Packets += more
						want = append(want, more)
					}
				}
			}
			slices.Sort(want)
			slices.Reverse(want)
			want = want[:min(n, len(want))]
			var got []uint64
			seen := map[flow.Key]bool{}
			for _, b := range toldOf(tab, n) {
				got = append(got, b.Packets)
				if seen[b.Key] || b.Rule != 7 {
					t.Fatalf("flow %x of rule %d, twice %v", b.Key, b.Rule, seen[b.Key])
				}
				seen[b.Key] = true
			}
			if !slices.Equal(got, want) {
				t.Fatalf("the %d busiest of a table whose flows have 1 to %d packets: %d, want %d", n, differ, len(got), len(want))
			}
		}
	}
	i := slices.IndexFunc(m.Sets[:pieceOfTelling/ways], func(s xdp.CacheSet) bool { return s.Way[0].Stamp == tab.epoch() })
	m.Sets[i].Way[0].Packets++
	b := busiest{most: 10}
	tab.tell(0, &b)
	had := len(b.all)
	advance(tab, &view)
	tab.tell(pieceOfTelling, &b)
	if left := b.sorted(); had != 1 || len(left) != 0 {
		t.Errorf("%d flows, and %d left in another epoch", had, len(left))
	}
}
