package matcher_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/matcher"
)

// TestSmallUniverses compiles random tables and tries every key of their universe
// in every lane against the definition.
func TestSmallUniverses(t *testing.T) {
	tables := 300
	if testing.Short() {
		tables = 40
	}
	for _, u := range flowtest.Universes() {
		t.Run(u.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range tables {
				tab := u.Table(rng, rng.IntN(80))
				for _, lane := range matcher.Lanes() {
					checkLookup(t, matcher.Compile(tab, matcher.WithLane(lane)), u.Keys)
				}
				checkLookup(t, matcher.Compile(tab, matcher.SaveMemory()), u.Keys)
			}
		})
	}
}

// checkLookup asks c about every key, as a batch and one by one.
func checkLookup(t *testing.T, c *matcher.Classifier, keys []flow.Key) {
	t.Helper()
	b := matcher.Batch{Keys: keys, Rules: make([]int32, len(keys))}
	c.Lookup(&b)
	for i := range keys {
		want := c.Table().Lookup(&keys[i])
		if int(b.Rules[i]) != want {
			t.Fatalf("lane %s: batch says rule %d for key %x, the definition %d", c.Lane(), b.Rules[i], keys[i], want)
		}
		if got, want := c.LookupOne(&keys[i]).ID, c.Table().Rule(want).ID; got != want {
			t.Fatalf("lane %s: rule %d for key %x, the definition says %d", c.Lane(), got, keys[i], want)
		}
	}
}

// TestExplainSmall checks on every pair of keys of a universe that keys which agree
// under a mask have the same winner.
func TestExplainSmall(t *testing.T) {
	for _, u := range flowtest.Universes() {
		t.Run(u.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, 4))
			for range 20 {
				tab := u.Table(rng, rng.IntN(40))
				for _, lane := range matcher.Lanes() {
					c := matcher.Compile(tab, matcher.WithLane(lane))
					for range 10 {
						k := u.Key(rng)
						rule, mask := c.Explain(k)
						for i := range u.Keys {
							if want := tab.Rule(tab.Lookup(&u.Keys[i])).ID; agree(&k, &u.Keys[i], &mask) && want != rule.ID {
								t.Fatalf("lane %s: key %x has rule %d under mask %x, but %x has %d", c.Lane(), k, rule.ID, mask, u.Keys[i], want)
							}
						}
					}
				}
			}
		})
	}
}

func agree(a, b, mask *flow.Key) bool {
	for w := range a {
		if (a[w]^b[w])&mask[w] != 0 {
			return false
		}
	}
	return true
}

// randomTable returns rules over whole fields: prefixes of every length, ranges,
// masks, IPv4 and IPv6, nested in each other often enough to matter.
func randomTable(rng *rand.Rand, n int) *flow.Table {
	rules := make([]flow.Rule, n)
	prefix := func(m *flow.Match, f flow.Field, v uint64, longest int) {
		length := rng.IntN(longest + 1)
		m.Pin(f, v, f.Max()>>(64-longest)&^(1<<(longest-length)-1))
	}
	for i := range rules {
		m := &rules[i].Match
		k := randomKey(rng)
		if rng.IntN(2) == 0 {
			m.Pin(flow.EthType, k.Get(flow.EthType), 0xffff)
		}
		width := 32
		if k.Get(flow.EthType) == flow.EthIPv6 {
			width = 64
			if rng.IntN(2) == 0 {
				prefix(m, flow.DstHi, k.Get(flow.DstHi), 64)
			}
		}
		prefix(m, flow.SrcLo, k.Get(flow.SrcLo), width)
		prefix(m, flow.DstLo, k.Get(flow.DstLo), width)
		for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
			p, q := uint16(k.Get(f)), uint16(rng.Uint32())
			switch rng.IntN(4) {
			case 0:
				m.SetPorts(f, min(p, q), max(p, q))
			case 1:
				m.SetPorts(f, p, p)
			case 2:
				m.SetPortMask(f, p, q)
			}
		}
		for _, f := range []flow.Field{flow.InPort, flow.DstMAC, flow.VLAN, flow.Proto, flow.TOS, flow.TCPFlags} {
			if rng.IntN(8) == 0 {
				m.Pin(f, k.Get(f), f.Max())
			}
		}
		rules[i].ID = flow.RuleID(i + 1)
		rules[i].Priority = int32(n - i)
		rules[i].Actions = flow.Actions{{Op: flow.Drop}}
	}
	return flowtest.NewTable(rules, nil)
}

// randomKey returns a key whose fields have few bits that vary, so that rules and
// keys meet.
func randomKey(rng *rand.Rand) flow.Key {
	k := flowtest.TCP()
	few := func(f flow.Field) { k.Set(f, k.Get(f)^rng.Uint64()&rng.Uint64()&rng.Uint64()) }
	for _, f := range []flow.Field{flow.SrcLo, flow.DstLo, flow.SrcPort, flow.DstPort, flow.TOS} {
		few(f)
	}
	if rng.IntN(3) == 0 {
		k.Set(flow.EthType, flow.EthIPv6)
		few(flow.SrcHi)
		few(flow.DstHi)
	} else {
		k.Set(flow.SrcLo, k.Get(flow.SrcLo)&0xffffffff)
		k.Set(flow.DstLo, k.Get(flow.DstLo)&0xffffffff)
	}
	k.Set(flow.InPort, rng.Uint64N(4))
	k.Set(flow.Proto, []uint64{flow.ProtoTCP, flow.ProtoUDP}[rng.IntN(2)])
	return k
}

// near returns a key in the match of a random rule, so that rules deep in the table
// are asked for too.
func near(rng *rand.Rand, tab *flow.Table) flow.Key {
	m := &tab.Rule(rng.IntN(tab.Len() + 1)).Match
	k, _ := flow.Witness(m)
	r := randomKey(rng)
	for w := range k {
		k[w] |= r[w] &^ m.Mask[w]
	}
	if !m.SrcPort.Any() {
		k.Set(flow.SrcPort, uint64(m.SrcPort.Lo)+rng.Uint64N(uint64(m.SrcPort.Hi-m.SrcPort.Lo)+1))
	}
	if !m.DstPort.Any() {
		k.Set(flow.DstPort, uint64(m.DstPort.Lo)+rng.Uint64N(uint64(m.DstPort.Hi-m.DstPort.Lo)+1))
	}
	return k
}

// TestRandomTables checks lookups and explanations on tables too large to try every
// key: on random keys, keys inside random rules, and keys that differ from those
// outside of the explanation's mask.
func TestRandomTables(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 10, 100, 1000, 5000} {
		tab := randomTable(rng, n)
		c := matcher.Compile(tab)
		var keys []flow.Key
		for range 1000 {
			keys = append(keys, randomKey(rng), near(rng, tab))
		}
		checkLookup(t, c, keys)
		checkLookup(t, matcher.Compile(tab, matcher.SaveMemory()), keys)
		for _, k := range keys[:500] {
			checkExplain(t, rng, c, k)
		}
	}
}

// checkExplain changes bits of k outside of its mask: all, each alone, and random
// ones.
func checkExplain(t *testing.T, rng *rand.Rand, c *matcher.Classifier, k flow.Key) {
	t.Helper()
	rule, mask := c.Explain(k)
	if want := c.Table().Rule(c.Table().Lookup(&k)); rule.ID != want.ID {
		t.Fatalf("lane %s: explains rule %d for key %x, the definition says %d", c.Lane(), rule.ID, k, want.ID)
	}
	try := func(flip flow.Key) {
		o := k
		for w := range o {
			o[w] ^= flip[w] &^ mask[w]
		}
		if got := c.LookupOne(&o); got.ID != rule.ID {
			t.Fatalf("lane %s: key %x has rule %d under mask %x, but %x has %d", c.Lane(), k, rule.ID, mask, o, got.ID)
		}
	}
	try(flow.Key{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)})
	for bit := range 64 * flow.Words {
		var flip flow.Key
		flip[bit/64] = 1 << (bit % 64)
		try(flip)
	}
	for range 50 {
		var flip flow.Key
		for w := range flip {
			flip[w] = rng.Uint64() & rng.Uint64()
		}
		try(flip)
	}
}

// TestGeneratedSets checks every lane on sets of every family, on traffic inside
// the rules and on keys mixed from two of them, which mostly fall deep.
func TestGeneratedSets(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	sizes := []int{1, 100, 1000, 3000}
	if testing.Short() { // the definition takes its time under the race detector
		sizes = sizes[:3]
	}
	for _, family := range flowtest.Families() {
		for _, n := range sizes {
			rules := flowtest.Generate(family, n, 5)
			keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 1000, Mix: 0.2})
			for range 500 {
				a, b := keys[rng.IntN(1000)], keys[rng.IntN(1000)]
				a.Set(flow.DstLo, b.Get(flow.DstLo))
				a.Set(flow.DstPort, b.Get(flow.DstPort))
				keys = append(keys, a)
			}
			tab := flowtest.NewTable(rules, nil)
			for _, lane := range matcher.Lanes() {
				c := matcher.Compile(tab, matcher.WithLane(lane))
				checkLookup(t, c, keys)
				for range 20 {
					checkExplain(t, rng, c, keys[rng.IntN(len(keys))])
				}
			}
		}
	}
}

// TestFewMasks checks that explanations of many packets have few masks.
func TestFewMasks(t *testing.T) {
	for _, family := range flowtest.Families() {
		rules := flowtest.Generate(family, 1000, 5)
		c := matcher.Compile(flowtest.NewTable(rules, nil))
		masks := map[flow.Key]bool{}
		for _, k := range flowtest.Trace(rules, flowtest.Traffic{Packets: 5000}) {
			_, mask := c.Explain(k)
			masks[mask] = true
		}
		t.Logf("%s: %d masks", family, len(masks))
		most := 61
		if family == flowtest.Segment {
			most = 16
		}
		if len(masks) > most {
			t.Errorf("%s: 5000 packets have %d masks", family, len(masks))
		}
	}
}

// TestReaders has several goroutines use one classifier; it means something under
// the race detector.
func TestReaders(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	tab := randomTable(rng, 500)
	c := matcher.Compile(tab)
	var keys []flow.Key
	for range 1000 {
		keys = append(keys, near(rng, tab))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			b := matcher.Batch{Keys: keys, Rules: make([]int32, len(keys))}
			c.Lookup(&b)
			for i := range keys {
				if int(b.Rules[i]) != tab.Lookup(&keys[i]) {
					t.Errorf("key %x: rule %d", keys[i], b.Rules[i])
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNoAllocations(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	tab := randomTable(rng, 300)
	b := matcher.Batch{Rules: make([]int32, 256)}
	for range 256 {
		b.Keys = append(b.Keys, near(rng, tab))
	}
	for _, lane := range matcher.Lanes() {
		c := matcher.Compile(tab, matcher.WithLane(lane))
		if n := testing.AllocsPerRun(100, func() { c.Lookup(&b) }); n != 0 {
			t.Errorf("lane %s: Lookup allocates %v times", lane, n)
		}
		if n := testing.AllocsPerRun(100, func() { c.LookupOne(&b.Keys[0]) }); n != 0 {
			t.Errorf("lane %s: LookupOne allocates %v times", lane, n)
		}
		if n := testing.AllocsPerRun(100, func() { c.Explain(b.Keys[0]) }); n != 0 {
			t.Errorf("lane %s: Explain allocates %v times", lane, n)
		}
	}
}

// TestLanes checks that the lanes this machine is known to have are there, and that
// each does what it is called.
func TestLanes(t *testing.T) {
	tab := randomTable(rand.New(rand.NewPCG(11, 12)), 50)
	for _, name := range []string{"avx512", "avx2", "purego", "definition"} {
		t.Run(name, func(t *testing.T) {
			lane, err := matcher.ParseLane(name)
			must.Have(t, name, err)
			if c := matcher.Compile(tab, matcher.WithLane(lane)); c.Lane().String() != name {
				t.Errorf("compiled for lane %s", c.Lane())
			}
		})
	}
	if got := matcher.Compile(tab).Lane(); got != matcher.Lanes()[0] {
		t.Errorf("without a choice the lane is %s", got)
	}
	if _, err := matcher.ParseLane("quantum"); err == nil {
		t.Error("lane quantum exists")
	}
}

// FuzzLookup builds a table and keys from the fuzzer's bytes.
func FuzzLookup(f *testing.F) {
	f.Add(uint64(1), uint64(2), uint8(3))
	f.Add(uint64(0), uint64(0), uint8(200))
	f.Fuzz(func(t *testing.T, a, b uint64, n uint8) {
		rng := rand.New(rand.NewPCG(a, b))
		tab := randomTable(rng, int(n))
		var keys []flow.Key
		for range 50 {
			keys = append(keys, randomKey(rng), near(rng, tab))
		}
		for _, lane := range matcher.Lanes() {
			c := matcher.Compile(tab, matcher.WithLane(lane))
			checkLookup(t, c, keys)
			checkExplain(t, rng, c, keys[1])
		}
		checkLookup(t, matcher.Compile(tab, matcher.SaveMemory()), keys)
	})
}
