package flowcache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
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
	const ruleCount = 20 // of a table: others come with some epochs, until there were far more than lines
	oldest := 0
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
	kept := map[flow.RuleID]flow.Counter{} // what owners before this one have taken over
	forgot := 0
	forget := func() {
		read := tab.counters()
		if rng.IntN(2) == 0 { // some have counted since, or so it seems
			for rule := range read {
				if rng.IntN(2) == 0 {
					read[rule] = flow.Counter{Packets: 1}
				}
			}
		}
		rules := tab.forget(read, func(r flow.RuleID) bool { return r >= flow.RuleID(oldest) && r < flow.RuleID(oldest+ruleCount) })
		for _, r := range rules {
			if r >= flow.RuleID(oldest) && r < flow.RuleID(oldest+ruleCount) {
				t.Fatalf("rule %d of the table is forgotten", r)
			}
		}
		forgot += len(rules)
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
					f = fact{Verdict{Op: Forward, Port: flow.Port(rng.IntN(100))}, flow.RuleID(oldest + rng.IntN(ruleCount))}
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
			switch rng.IntN(4) {
			case 0:
				oldest += rng.IntN(ruleCount)
			case 1: // some come back
				oldest = max(0, oldest-rng.IntN(ruleCount/2))
			}
			rule := flow.RuleID(oldest + 5)
			for range 10 { // installs before the grace period ends
				k := flow.Key{rng.Uint64N(40)}
				if put1(tab, epoch, &k, Verdict{}, rule) == installed {
					facts[masked(k)] = fact{Verdict{}, rule}
				}
			}
			forget()
			grace()
			forget()
		case n < 998:
			grace()
		default: // the owner dies; the next one waits for a grace period
			for _, s := range sights {
				count(s)
			}
			sights = nil
			kept = plusAll(kept, tab.past)
			tab = newTable(m)
		}
		if rng.IntN(1000) == 0 {
			for _, s := range sights {
				count(s)
			}
			sights = nil
			if diff := cmp.Diff(want, plusAll(kept, tab.counters())); diff != "" {
				t.Fatalf("counters (-want +got):\n%s", diff)
			}
		}
	}
	if oldest > 10*len(m.Book) && forgot < 5*len(m.Book) {
		t.Errorf("of more than %d rules, in a book of %d, %d were forgotten", oldest, len(m.Book), forgot)
	}
	if hits < 1000 { // 24,000 as a rule; fewer where the hash puts nearly all of these few keys into one set
		t.Errorf("%d packets were answered", hits)
	}
}

// plusAll adds counters by rule.
func plusAll(a, b map[flow.RuleID]flow.Counter) map[flow.RuleID]flow.Counter {
	sum := maps.Clone(a)
	for rule, n := range b {
		sum[rule] = flow.Counter{Packets: sum[rule].Packets + n.Packets, Bytes: sum[rule].Bytes + n.Bytes}
	}
	return sum
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

// TestFullBook has more rules than lines: the last ones stay in Go, until others are gone and
// what those have counted is kept.
func TestFullBook(t *testing.T) {
	m := newMemory(64, 4)
	tab := newTable(m)
	view := flow.Key{^uint64(0)}
	epoch := advance(tab, &view)
	put := func(rules, lines uint64) {
		t.Helper()
		for i := range rules {
			want := installed
			if i >= lines {
				want = full
			}
			if o := put1(tab, epoch, &flow.Key{i}, Verdict{}, flow.RuleID(i)); o != want {
				t.Errorf("rule %d: %v, want %v", i, o, want)
			}
		}
	}
	put(6, 4)
	packet(m, &flow.Key{1}).Packets += 7
	gone := func(flow.RuleID) bool { return false }
	check := func(what string, kept map[flow.RuleID]flow.Counter, want ...flow.RuleID) {
		t.Helper()
		got := tab.forget(kept, gone)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: rules %v are forgotten, want %v", what, got, want)
		}
	}
	check("with flows that answer", tab.counters())
	epoch = advance(tab, &view)
	check("before the grace period", tab.counters())
	tab.settled = epoch
	check("but for one that counted more than is kept", map[flow.RuleID]flow.Counter{1: {Packets: 6}}, 0, 2, 3)
	check("with most of the book free", tab.counters())
	for i := range uint64(3) {
		if o := put1(tab, epoch, &flow.Key{10 + i}, Verdict{}, flow.RuleID(10+i)); o != installed {
			t.Errorf("rule %d: %v", 10+i, o)
		}
	}
	check("what counted, too", tab.counters(), 1)
	if o := put1(tab, epoch, &flow.Key{1}, Verdict{}, 1); o != installed {
		t.Errorf("rule 1 once more: %v", o)
	}
	packet(m, &flow.Key{1}).Packets += 2
	if n := tab.counters()[1].Packets; n != 9 {
		t.Errorf("rule 1 has counted %d packets, want 7 and 2", n)
	}
	if n := newTable(m).counters()[1].Packets; n != 2 {
		t.Errorf("for the next owner rule 1 has counted %d packets, want 2", n)
	}
}

// TestRulesOverTime has three times as many rules as a book has lines, some thousand at a
// time: each gets a line, and all is counted.
func TestRulesOverTime(t *testing.T) {
	m := newMemory(DefaultFlows/ways, xdp.Lines)
	tab := newTable(m)
	view := flow.Key{^uint64(0)}
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	const atOnce = 8192
	var rules, full, packets uint64
	for rules < 3*xdp.Lines {
		epoch := advance(tab, &view)
		tab.settled = epoch
		for i := range uint64(atOnce) {
			key := flow.Key{rng.Uint64()}
			put1(tab, epoch, &key, Verdict{}, flow.RuleID(rules+i))
			if e := packet(m, &key); e != nil {
				e.Packets++
				packets++
			} else {
				full++ // its set is
			}
		}
		if rules += atOnce; len(tab.lines) > xdp.Lines/2 { // else nothing happens
			tab.forget(tab.counters(), func(r flow.RuleID) bool { return uint64(r) >= rules-atOnce })
		}
		if len(tab.lines) > xdp.Lines/2+atOnce {
			t.Fatalf("%d lines are in use", len(tab.lines))
		}
	}
	if full > rules/20 { // 1 in 250 as a rule
		t.Errorf("of %d rules %d had no flow", rules, full)
	}
	counted := uint64(0)
	for _, n := range tab.counters() {
		counted += n.Packets
	}
	if counted != packets {
		t.Errorf("%d packets are counted of %d", counted, packets)
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
