package matcher

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// model is the rules that classifiers should have, as a dumb list.
type model struct {
	rng   *rand.Rand
	pool  []flow.Rule // rules that may be there
	in    map[flow.RuleID]int
	there []int // of the pool
	away  []int
}

func newModel(rng *rand.Rand, pool []flow.Rule, there int) *model {
	m := &model{rng: rng, pool: pool, in: map[flow.RuleID]int{}}
	for i, r := range rng.Perm(len(pool)) {
		if i < there {
			m.in[pool[r].ID] = len(m.there)
			m.there = append(m.there, r)
		} else {
			m.away = append(m.away, r)
		}
	}
	return m
}

func (m *model) table() *flow.Table {
	rules := make([]flow.Rule, 0, len(m.there))
	for _, r := range m.there {
		rules = append(rules, m.pool[r])
	}
	return flowtest.NewTable(rules, nil)
}

// swap moves a random element from one list to another and returns it.
func swap(rng *rand.Rand, from, to *[]int) int {
	i := rng.IntN(len(*from))
	r := (*from)[i]
	(*from)[i] = (*from)[len(*from)-1]
	*from = (*from)[:len(*from)-1]
	*to = append(*to, r)
	return r
}

// step makes one random update in all classifiers.
func (m *model) step(t *testing.T, classifiers ...*Classifier) {
	t.Helper()
	if len(m.there) > 0 && (len(m.away) == 0 || m.rng.IntN(2) == 0) {
		r := swap(m.rng, &m.there, &m.away)
		for _, c := range classifiers {
			if err := c.Delete(m.pool[r].ID); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	r := swap(m.rng, &m.away, &m.there)
	for _, c := range classifiers {
		if err := c.Insert(m.pool[r]); err != nil {
			t.Fatal(err)
		}
	}
}

// agree checks that classifiers answer keys as the definition does for want.
func agree(t *testing.T, want *flow.Table, keys []flow.Key, classifiers ...*Classifier) {
	t.Helper()
	winners := make([]flow.RuleID, len(keys))
	for i := range keys {
		winners[i] = want.Rule(want.Lookup(&keys[i])).ID
	}
	for _, c := range classifiers {
		b := Batch{Keys: keys, Rules: make([]int32, len(keys))}
		c.Lookup(&b)
		for i, w := range winners {
			if got := b.Rule(i).ID; got != w {
				t.Fatalf("lane %s: batch says rule %d for key %x, the definition %d", c.lane, got, keys[i], w)
			}
			if i%16 != 0 {
				continue
			}
			if got := c.LookupOne(&keys[i]).ID; got != w {
				t.Fatalf("lane %s: rule %d for key %x, the definition says %d", c.lane, got, keys[i], w)
			}
			if got, _ := c.Explain(keys[i]); got.ID != w {
				t.Fatalf("lane %s: explains rule %d for key %x, the definition says %d", c.lane, got.ID, keys[i], w)
			}
		}
	}
}

// everyLane returns a classifier for each lane, and one that saves memory.
func everyLane(t *flow.Table) []*Classifier {
	out := []*Classifier{Compile(t, SaveMemory())}
	for _, l := range Lanes() {
		out = append(out, Compile(t, WithLane(l)))
	}
	return out
}

// settle waits until nobody tends c.
func settle(t *testing.T, c *Classifier) {
	t.Helper()
	for range 10_000 {
		c.mu.Lock()
		busy := c.tending
		c.mu.Unlock()
		if !busy {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("a classifier is tended for more than 10 s")
}

// TestUpdateUniverses changes tables of small universes rule by rule and tries every
// key after some changes, in every lane.
func TestUpdateUniverses(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	tables := 20
	if testing.Short() {
		tables = 4
	}
	for _, u := range flowtest.Universes() {
		for range tables {
			pool := rulesOf(u.Table(rng, 60))
			m := newModel(rng, pool, rng.IntN(len(pool)+1))
			all := everyLane(m.table())
			for range 20 {
				for range 1 + rng.IntN(10) {
					m.step(t, all...)
				}
				agree(t, m.table(), u.Keys, all...)
				for _, c := range all {
					checkEngine(t, c)
				}
			}
		}
	}
}

func rulesOf(t *flow.Table) []flow.Rule {
	var rules []flow.Rule
	for i := range t.Len() {
		rules = append(rules, *t.Rule(i))
	}
	return rules
}

// checkEngine checks what the essays of build.go and update.go promise.
func checkEngine(t *testing.T, c *Classifier) {
	t.Helper()
	e := c.engine.Load()
	if e == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set := e.set.Load()
	if len(set.tables) > maxTables {
		t.Fatalf("%d tables", len(set.tables))
	}
	if !slices.IsSortedFunc(set.tables, func(a, b *subtable) int { return int(a.Best - b.Best) }) {
		t.Fatal("tables are not in the order of their best places")
	}
	places := map[int32]int32{} // by number
	for _, s := range set.tables {
		keys := 0
		for slot, head := range s.Heads {
			if head == 0 {
				continue
			}
			keys++
			last := int32(0)
			s.Rules(head, func(place, rule int32) bool {
				r := e.rule(rule)
				if place <= last || place < s.Best || place >= kernel.None {
					t.Fatalf("place %d after %d in a table with best %d", place, last, s.Best)
				}
				last = place
				if _, twice := places[rule]; twice {
					t.Fatalf("rule %d is in two places", rule)
				}
				places[rule] = place
				if s.Find(&r.Match.Value) != head || s.Hash(&r.Match.Value)>>s.Shift != uint32(slot) {
					t.Fatalf("rule %d is not where its value leads", rule)
				}
				if !s.takes(&r.Match) {
					t.Fatalf("rule %d is in a table that does not take it", rule)
				}
				return true
			})
		}
		if keys != s.keys {
			t.Fatalf("%d heads in use, counted %d", keys, s.keys)
		}
	}
	var last ordered
	var rank rank // of last
	n := 0
	for i := range e.changes.order.runs {
		for _, r := range e.changes.order.open(i) {
			own, run := rankOf(e.rule(r.rule)), &e.changes.order.runs[i]
			if !rank.before(own) || last.place >= r.place || places[r.rule] != r.place || own.upper < run.least || run.above(own.upper) > r.above {
				t.Fatalf("rule %d at %d, in its bucket at %d, after %d at %d", r.rule, r.place, places[r.rule], last.rule, last.place)
			}
			last, rank = r, own
			n++
		}
	}
	if n != len(places) {
		t.Fatalf("%d rules in order, %d in tables", n, len(places))
	}
}

// TestOrderedInserts puts rules in in orders that leave no room between places: each
// before, behind or between the last ones.
func TestOrderedInserts(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 500
	}
	rules := rulesOf(flowtest.NewTable(flowtest.Generate(flowtest.ACL, n, 1), nil))
	keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 1000})
	whole := flowtest.NewTable(rules, nil)
	for name, next := range map[string]func(i int) int{
		"forwards":  func(i int) int { return i },
		"backwards": func(i int) int { return len(rules) - 1 - i },
		"inwards": func(i int) int { // each between the two before it
			if i%2 == 0 {
				return i / 2
			}
			return len(rules) - 1 - i/2
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := Compile(flowtest.NewTable(nil, nil))
			steps := c.version.Load()
			for i := range rules {
				if err := c.Insert(rules[next(i)]); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%.2f steps an insertion", float64(c.version.Load()-steps)/2/float64(len(rules)))
			agree(t, whole, keys, c)
			checkEngine(t, c)
		})
	}
}

// TestUpdateErrors checks that a refused update changes nothing.
func TestUpdateErrors(t *testing.T) {
	u := flowtest.Universes()[0]
	rules := rulesOf(u.Table(rand.New(rand.NewPCG(1, 2)), 10))
	tab := flowtest.NewTable(rules[:5], nil)
	for _, c := range everyLane(tab) {
		bad := rules[6]
		bad.Priority = -1
		for name, err := range map[string]error{
			"a rule that is there": c.Insert(rules[5], rules[0]),
			"a rule twice":         c.Insert(rules[5], rules[5]),
			"an invalid rule":      c.Insert(rules[5], bad),
			"the default":          c.Insert(flow.Rule{Actions: flow.Actions{{Op: flow.Drop}}}),
			"no rule":              c.Delete(rules[0].ID, rules[7].ID),
			"one rule twice":       c.Delete(rules[0].ID, rules[0].ID),
			"the default rule":     c.Delete(flow.DefaultRule),
		} {
			if err == nil {
				t.Errorf("lane %s: no error for %s", c.lane, name)
			}
		}
		if got := c.Table(); got.Len() != 5 {
			t.Errorf("lane %s: %d rules", c.lane, got.Len())
		}
		agree(t, tab, u.Keys, c)
	}
}

// TestTend checks what happens behind updates: the accelerator comes back, and a large
// change of the rules makes a new engine.
func TestTend(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 2))
	pool := rulesOf(flowtest.NewTable(flowtest.Generate(flowtest.ACL, 6000, 1), nil))
	keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 500})
	m := newModel(rng, pool, 500)
	c := Compile(m.table())
	accelerated := c.current() != nil
	m.step(t, c)
	if c.current() != nil {
		t.Error("the accelerator is asked although it is behind")
	}
	agree(t, m.table(), keys, c)
	settle(t, c)
	if again := c.current() != nil; again != accelerated {
		t.Errorf("accelerator before an update: %v, after: %v", accelerated, again)
	}
	agree(t, m.table(), keys, c)
	before := c.engine.Load()
	for len(m.away) > 0 {
		r := swap(rng, &m.away, &m.there)
		if err := c.Insert(m.pool[r]); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, c)
	if c.engine.Load() == before {
		t.Error("twelve times the rules, and still the same engine")
	}
	agree(t, m.table(), keys, c)
	checkEngine(t, c)
}

// TestMemoryAfterUpdates replaces half of the rules and looks at the memory at once, when
// nobody has tended the classifier, and when all is quiet again.
func TestMemoryAfterUpdates(t *testing.T) {
	for _, f := range flowtest.Families() {
		for _, n := range []int{1000, 10_000} {
			if testing.Short() && n > 1000 {
				continue
			}
			rules := flowtest.Generate(f, n+n/2, 1)
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
			c := Compile(flowtest.NewTable(rules[:n], nil), SaveMemory())
			before := c.Bytes()
			replace := func(i int) {
				if err := c.Insert(rules[n+i]); err != nil {
					t.Fatal(err)
				}
				if err := c.Delete(rules[i].ID); err != nil {
					t.Fatal(err)
				}
			}
			c.tending = true // nobody else need
			for i := range n/2 - 1 {
				replace(i)
			}
			busy := c.Bytes()
			checkEngine(t, c)
			c.tending = false
			replace(n/2 - 1)
			settle(t, c)
			after := c.Bytes()
			t.Logf("%s, %d rules: %.1f bytes a rule, %.1f right after replacing half of them, %.1f later", f, n,
				float64(before)/float64(n), float64(busy)/float64(n), float64(after)/float64(n))
			if busy > 2*before || after > 2*before {
				t.Errorf("%s, %d rules: %d bytes have become %d, and %d later", f, n, before, busy, after)
			}
		}
	}
}

// TestUpdates makes many random updates on sets of every family in all lanes at once,
// and compares them with the definition again and again. BLADEFLOW_UPDATES is how many;
// then the result is written to docs/results/updates.json.
func TestUpdates(t *testing.T) {
	updates, sizes := 20_000, []int{60, 1200, 5000}
	if testing.Short() {
		updates, sizes = 2000, []int{60, 600}
	}
	updates = flowtest.Count(t, "BLADEFLOW_UPDATES", updates)
	seed := flowtest.Seed(t)
	start := time.Now()
	families := flowtest.Families()
	share := updates / len(sizes) / len(families)
	made, compared := 0, 0
	for _, n := range sizes {
		for _, f := range families {
			t.Run(fmt.Sprintf("%s/%d", f, n), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, uint64(n)<<8|uint64(f)))
				pool := withTies(rng, flowtest.Generate(f, n, rng.Uint64()))
				m := newModel(rng, pool, n/2)
				tab := m.table()
				var all []*Classifier
				for _, l := range Lanes() {
					if l != Definition {
						all = append(all, Compile(tab, WithLane(l)))
					}
				}
				if all[0].current() != nil {
					all = append(all, Compile(tab, SaveMemory())) // the engine on that lane
				}
				rounds := max(20, share/1000)
				for range rounds {
					for range share/rounds + 1 {
						m.step(t, all...)
						made++
					}
					keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 300, Mix: 0.2})
					compared += len(keys) * len(all)
					for _, c := range all {
						if rng.IntN(3) == 0 {
							settle(t, c)
						}
					}
					agree(t, m.table(), keys, all...)
				}
				for _, c := range all {
					checkEngine(t, c)
					if got := c.Table(); got.Len() != len(m.there) {
						t.Errorf("lane %s: table of %d rules, wants %d", c.lane, got.Len(), len(m.there))
					}
				}
			})
		}
	}
	t.Logf("%d updates, %d answers compared, seed %d", made, compared, seed)
	if os.Getenv("BLADEFLOW_UPDATES") != "" {
		flowtest.Record(t, "updates", seed, start, map[string]any{"updates": made, "answers_compared": compared, "lanes": fmt.Sprint(Lanes())})
	}
}

// withTies gives some rules the priority of the next one and large random IDs, so that only the
// ID orders them; they act alike.
func withTies(rng *rand.Rand, rules []flow.Rule) []flow.Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].ID = flow.RuleID(rng.Uint64() | 1)
		out[i].Actions = flow.Actions{{Op: flow.Drop}}
		if i > 0 && rng.IntN(4) == 0 {
			out[i].Priority = out[i-1].Priority
		}
	}
	return out
}

// FuzzUpdates makes a table and updates from the fuzzer's bytes: each byte inserts or
// deletes a rule of a pool or asks.
func FuzzUpdates(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 3, 4, 200, 5, 6, 1, 2, 255})
	f.Add(uint64(7), []byte("every byte is an update"))
	f.Fuzz(func(t *testing.T, seed uint64, updates []byte) {
		rng := rand.New(rand.NewPCG(seed, 3))
		us := flowtest.Universes()
		u := us[seed%uint64(len(us))]
		pool := rulesOf(u.Table(rng, 40))
		there := map[int]bool{}
		all := everyLane(flowtest.NewTable(nil, nil))
		check := func() {
			var rules []flow.Rule
			for i := range pool {
				if there[i] {
					rules = append(rules, pool[i])
				}
			}
			agree(t, flowtest.NewTable(rules, nil), u.Keys, all...)
			for _, c := range all {
				checkEngine(t, c)
			}
		}
		for _, b := range updates[:min(len(updates), 200)] {
			i := int(b) % 64
			if i >= len(pool) {
				check()
				continue
			}
			for _, c := range all {
				var err error
				if there[i] {
					err = c.Delete(pool[i].ID)
				} else {
					err = c.Insert(pool[i])
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			there[i] = !there[i]
		}
		check()
	})
}
