package flowcache

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// newMemory is memory for so many sets that no kernel sees.
func newMemory(sets, lines int) *xdp.Memory {
	m := &xdp.Memory{State: &xdp.CacheState{}, Sets: make([]xdp.CacheSet, sets), Book: make([]xdp.CacheLine, lines),
		Ports: make([]xdp.CachePort, MaxPort+1), Devices: make([]uint64, 16)}
	format(m, sets)
	return m
}

// advance begins an epoch that is of no table.
func advance(t *table, view *flow.Key) uint64 {
	epoch := t.prepare(view, Digest{})
	t.begin(epoch)
	return epoch
}

// put1 installs one flow.
func put1(t *table, epoch uint64, key *flow.Key, v Verdict, rule flow.RuleID) (became outcome) {
	t.install(epoch, []Flow{{key, v, rule}}, func(o outcome) { became = o })
	return became
}

// packet does what the program does with a packet: it finds the entry that answers it.
func packet(m *xdp.Memory, key *flow.Key) *xdp.CacheEntry {
	k := *key
	for i := range k {
		k[i] &= m.State.View[m.State.Epoch&1].Mask[i]
	}
	t := table{mem: m}
	set, first := t.place(&k)
	for i := range uint32(ways) {
		if e := &m.Sets[set].Way[(first+i)%uint32(ways)]; e.Stamp == m.State.Epoch && e.Key == k {
			return e
		}
	}
	return nil
}

// TestTable drives a small table with random packets, installs, epochs, grace periods and
// owners that die, beside a plain map. A packet is answered by what was installed for its
// key in this epoch or not at all; and each is counted once, for the right rule, even if
// it is counted late: after its entry was taken out, but before the grace period ended.
func TestTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	m := newMemory(4, 64)
	tab := newTable(m)
	type fact struct {
		verdict Verdict
		rule    flow.RuleID
	}
	facts := map[flow.Key]fact{} // of this epoch, by masked key
	want := map[flow.RuleID]flow.Counter{}
	type sight struct { // an entry a packet has found and not counted in yet
		entry *xdp.CacheEntry
		rule  flow.RuleID
	}
	var sights []sight
	count := func(s sight) {
		if rng.IntN(2) == 0 { // by the first queue
			s.entry.Packets++
			s.entry.Bytes += 60
		} else {
			s.entry.MorePackets++
			s.entry.MoreBytes += 60
		}
		n := want[s.rule]
		want[s.rule] = flow.Counter{Packets: n.Packets + 1, Bytes: n.Bytes + 60}
	}
	view := flow.Key{0xff}
	masked := func(k flow.Key) flow.Key {
		for i := range k {
			k[i] &= view[i]
		}
		return k
	}
	hits := 0
	grace := func() {
		for _, s := range sights {
			count(s)
		}
		sights = nil
		var resting []uint32
		for i := range tab.resting {
			resting = append(resting, i)
		}
		tab.rested(resting)
		tab.settled = tab.epoch()
	}
	epoch := advance(tab, &view)
	grace()
	for range 200_000 {
		key := flow.Key{rng.Uint64N(40), rng.Uint64N(2)}
		switch n := rng.IntN(1000); {
		case n < 600:
			e := packet(m, &key)
			if e == nil {
				break
			}
			hits++
			f, ok := facts[masked(key)]
			if !ok || e.Verdict != f.verdict.encode() {
				t.Fatalf("key %x: answered %+v, want %+v, %v", key, e.Verdict, f.verdict, ok)
			}
			if sights = append(sights, sight{e, f.rule}); len(sights) > 5 {
				count(sights[0])
				sights = sights[1:]
			}
		case n < 990:
			var flows []Flow
			for range 1 + rng.IntN(6) { // with the same flow twice now and then
				k := flow.Key{rng.Uint64N(40), rng.Uint64N(2)}
				f, ok := facts[masked(k)]
				for _, o := range flows {
					if masked(*o.Key) == masked(k) {
						f, ok = fact{o.Verdict, o.Rule}, true
					}
				}
				if !ok {
					f = fact{Verdict{Op: Forward, Port: flow.Port(rng.IntN(100))}, flow.RuleID(rng.IntN(20))}
				}
				flows = append(flows, Flow{&k, f.verdict, f.rule})
			}
			n := 0
			tab.install(epoch, flows, func(o outcome) {
				if o == installed {
					facts[masked(*flows[n].Key)] = fact{flows[n].Verdict, flows[n].Rule}
				}
				n++
			})
			if n != len(flows) {
				t.Fatalf("%d of %d flows were told of", n, len(flows))
			}
			if o := put1(tab, epoch-1, &key, Verdict{Port: 999}, 999); o != late {
				t.Fatalf("an install of the epoch before is %v", o)
			}
		case n < 994:
			view = flow.Key{0xff, rng.Uint64N(2)}
			clear(facts)
			epoch = advance(tab, &view)
			for range 10 { // installs before the grace period ends
				k := flow.Key{rng.Uint64N(40)}
				if put1(tab, epoch, &k, Verdict{}, 5) == installed {
					facts[masked(k)] = fact{Verdict{}, 5}
				}
			}
			grace()
		case n < 998:
			grace()
		default: // the owner dies; the next one waits for a grace period
			for _, s := range sights {
				count(s)
			}
			sights = nil
			tab = newTable(m)
		}
		if rng.IntN(1000) == 0 {
			for _, s := range sights {
				count(s)
			}
			sights = nil
			if diff := cmp.Diff(want, tab.counters()); diff != "" {
				t.Fatalf("counters (-want +got):\n%s", diff)
			}
		}
	}
	if hits < 1000 { // 24,000 as a rule; fewer where the hash puts nearly all of these few keys into one set
		t.Errorf("%d packets were answered", hits)
	}
}

// TestHalfCarried kills an owner between any two stores of a transfer.
func TestHalfCarried(t *testing.T) {
	for done := range 7 {
		m := newMemory(1, 4)
		tab := newTable(m)
		line, _ := tab.line(7)
		e := tab.entry(2)
		e.Line, e.Packets, e.Bytes, e.MorePackets, e.MoreBytes = line, 8, 480, 2, 120
		l, x := &m.Book[line], &m.State.Transfer
		l.Packets, l.Bytes = 5, 300
		*x = xdp.CacheTransfer{Entry: 3, Line: uint64(line), Packets: 15, Bytes: 900}
		for i, store := range []func(){func() { l.Packets = 15 }, func() { l.Bytes = 900 }, func() { e.Packets = 0 }, func() { e.Bytes = 0 },
			func() { e.MorePackets = 0 }, func() { e.MoreBytes = 0 }} {
			if i < done {
				store()
			}
		}
		want := map[flow.RuleID]flow.Counter{7: {Packets: 15, Bytes: 900}}
		if diff := cmp.Diff(want, newTable(m).counters()); diff != "" {
			t.Errorf("after %d stores (-want +got):\n%s", done, diff)
		}
		if x.Entry != 0 {
			t.Errorf("after %d stores the transfer is not over", done)
		}
	}
}

// TestFlood fills a set with flows that have traffic: no flood of others takes their
// places; and one that falls silent loses its.
func TestFlood(t *testing.T) {
	m := newMemory(1, 64)
	tab := newTable(m)
	view := flow.Key{^uint64(0)}
	epoch := advance(tab, &view)
	tab.settled = epoch
	for i := range uint64(ways) {
		if o := put1(tab, epoch, &flow.Key{i + 1}, Verdict{}, 1); o != installed {
			t.Fatalf("flow %d: %v", i, o)
		}
	}
	busy := func(n int) {
		for i := range n {
			packet(m, &flow.Key{uint64(i) + 1}).Packets++
		}
	}
	for i := range uint64(100) {
		busy(ways)
		if o := put1(tab, epoch, &flow.Key{100 + i}, Verdict{}, 2); o != full {
			t.Fatalf("a new flow among busy ones: %v", o)
		}
	}
	busy(ways - 1)
	if o := put1(tab, epoch, &flow.Key{500}, Verdict{}, 2); o != evicting {
		t.Fatalf("a new flow beside a silent one: %v", o)
	}
	if o := put1(tab, epoch, &flow.Key{500}, Verdict{}, 2); o != evicting {
		t.Fatalf("before the grace period: %v", o)
	}
	for i := range tab.resting {
		tab.rested([]uint32{i})
	}
	if o := put1(tab, epoch, &flow.Key{500}, Verdict{}, 2); o != installed {
		t.Fatalf("after it: %v", o)
	}
	if packet(m, &flow.Key{uint64(ways)}) != nil || packet(m, &flow.Key{500}) == nil {
		t.Error("the silent flow has its place, or the new one has none")
	}
}

// TestFullBook has more rules than lines: the last ones stay in Go.
func TestFullBook(t *testing.T) {
	tab := newTable(newMemory(64, 4))
	view := flow.Key{^uint64(0)}
	epoch := advance(tab, &view)
	for i := range uint64(6) {
		want := installed
		if i >= 4 {
			want = full
		}
		if o := put1(tab, epoch, &flow.Key{i}, Verdict{}, flow.RuleID(i)); o != want {
			t.Errorf("rule %d: %v, want %v", i, o, want)
		}
	}
}

// some are flows that differ in the first word of their keys, from a number on.
func some(n int) (flows []Flow, from func(first uint64)) {
	keys := make([]flow.Key, n)
	for i := range keys {
		flows = append(flows, Flow{&keys[i], Verdict{Op: Forward, Port: 2}, 1})
	}
	return flows, func(first uint64) {
		for i := range keys {
			keys[i][0] = first + uint64(i)
		}
	}
}

// TestInstallAllocations pins that an install allocates nothing.
func TestInstallAllocations(t *testing.T) {
	m := newMemory(1024, 64)
	k := &Cache{table: newTable(m)}
	k.reach[2] = true
	view := flow.Key{^uint64(0)}
	epoch := advance(k.table, &view)
	k.table.line(1)
	flows, from := some(64)
	i := uint64(0)
	if n := testing.AllocsPerRun(100, func() { from(i); k.Install(epoch, flows); i += 64 }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkInstall is a verdict into a table that has room for it, alone and as one of 64.
func BenchmarkInstall(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tab := newTable(newMemory(DefaultFlows/ways, xdp.Lines))
			view := flow.Key{^uint64(0)}
			epoch := advance(tab, &view)
			flows, from := some(n)
			i := uint64(0)
			for b.Loop() {
				if i += uint64(n); i%8192 < uint64(n) {
					epoch = advance(tab, &view)
					tab.settled = epoch
				}
				from(i)
				tab.install(epoch, flows, func(outcome) {})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/flow")
		})
	}
}
