package matcher

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// seedOf returns a fresh seed, or that of BLADEFLOW_SEED, and prints it if t fails.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("BLADEFLOW_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("BLADEFLOW_SEED=%d", seed)
		}
	})
	return seed
}

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

// agree checks that c answers keys as the definition does for want.
func agree(t *testing.T, c *Classifier, want *flow.Table, keys []flow.Key) {
	t.Helper()
	b := Batch{Keys: keys, Rules: make([]int32, len(keys))}
	c.Lookup(&b)
	for i := range keys {
		w := want.Rule(want.Lookup(&keys[i])).ID
		if got := b.Rule(i).ID; got != w {
			t.Fatalf("lane %s: batch says rule %d for key %x, the definition %d", c.lane, got, keys[i], w)
		}
		if i%16 == 0 {
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
	rng := rand.New(rand.NewPCG(seedOf(t), 1))
	for _, u := range flowtest.Universes() {
		for range 20 {
			pool := rulesOf(u.Table(rng, 60))
			m := newModel(rng, pool, rng.IntN(len(pool)+1))
			all := everyLane(m.table())
			for range 20 {
				for range 1 + rng.IntN(10) {
					m.step(t, all...)
				}
				tab := m.table()
				for _, c := range all {
					agree(t, c, tab, u.Keys)
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
	n := 0
	for i := range e.changes.order.runs {
		for _, r := range e.changes.order.open(i) {
			if !last.before(r.rank) || last.place >= r.place || places[r.rule] != r.place || rankOf(e.rule(r.rule)) != r.rank {
				t.Fatalf("rule %d at %d, in its bucket at %d, after %d at %d", r.rule, r.place, places[r.rule], last.rule, last.place)
			}
			last = r
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
	rules := rulesOf(flowtest.NewTable(flowtest.Generate(flowtest.ACL, 3000, 1), nil))
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
			agree(t, c, whole, keys)
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
		agree(t, c, tab, u.Keys)
	}
}

// TestTend checks what happens behind updates: the accelerator comes back, and a large
// change of the rules makes a new engine.
func TestTend(t *testing.T) {
	rng := rand.New(rand.NewPCG(seedOf(t), 2))
	pool := rulesOf(flowtest.NewTable(flowtest.Generate(flowtest.ACL, 6000, 1), nil))
	keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 500})
	m := newModel(rng, pool, 500)
	c := Compile(m.table())
	accelerated := c.current() != nil
	m.step(t, c)
	if c.current() != nil {
		t.Error("the accelerator is asked although it is behind")
	}
	agree(t, c, m.table(), keys)
	settle(t, c)
	if again := c.current() != nil; again != accelerated {
		t.Errorf("accelerator before an update: %v, after: %v", accelerated, again)
	}
	agree(t, c, m.table(), keys)
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
	agree(t, c, m.table(), keys)
	checkEngine(t, c)
}

// TestUpdates makes many random updates on sets of every family in all lanes at once,
// and compares them with the definition and with each other again and again.
// BLADEFLOW_UPDATES is how many.
func TestUpdates(t *testing.T) {
	updates := 20_000
	if testing.Short() {
		updates = 2000
	}
	if s := os.Getenv("BLADEFLOW_UPDATES"); s != "" {
		var err error
		if updates, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := seedOf(t)
	sizes := []int{60, 1200, 5000}
	families := flowtest.Families()
	checked := 0
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
				if all[0].current() != nil { // that one mostly asks the engine
					all = append(all, Compile(tab, SaveMemory()))
				}
				share := updates / len(sizes) / len(families)
				rounds := 25
				for range rounds {
					for range share/rounds + 1 {
						m.step(t, all...)
					}
					keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 300, Mix: 0.2})
					checked += len(keys) * len(all)
					tab := m.table()
					for _, c := range all {
						if rng.IntN(3) == 0 {
							settle(t, c)
						}
						agree(t, c, tab, keys)
					}
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
	t.Logf("%d updates, %d answers compared, seed %d", updates, checked, seed)
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

// TestConcurrentUpdates has readers look up while rules come and go. What a batch answers
// must be right for the rules that were there all the time and some of those that came
// or went meanwhile: the winner must have been there at some time, and no better rule
// that matches all the time.
func TestConcurrentUpdates(t *testing.T) {
	seed := seedOf(t)
	updates := 3000
	if testing.Short() {
		updates = 600
	}
	for _, l := range Lanes() {
		if l == Definition {
			continue
		}
		t.Run(l.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(l)))
			pool := rulesOf(flowtest.NewTable(withTies(rng, flowtest.Generate(flowtest.FW, 400, rng.Uint64())), nil))
			place := map[flow.RuleID]int{}
			for i := range pool {
				place[pool[i].ID] = i
			}
			m := newModel(rng, pool, 200)
			c := Compile(m.table(), WithLane(l))

			// history[i] is the numbers of the updates, from 1 on, at which rule i came and
			// went in turn; begun and ended count them.
			history := make([]*spells, len(pool))
			for i := range history {
				history[i] = &spells{}
			}
			for _, r := range m.there {
				history[r].add(0)
			}
			var begun, ended atomic.Int64
			var stop atomic.Bool
			var wg sync.WaitGroup
			for reader := range 3 {
				wg.Go(func() {
					keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 64 << reader, Mix: 0.2})
					winners := make([][]int, len(keys)) // rules of the pool that match, best first
					for k := range keys {
						for i := range pool {
							if pool[i].Match.Matches(&keys[k]) {
								winners[k] = append(winners[k], i)
							}
						}
					}
					b := Batch{Keys: keys, Rules: make([]int32, len(keys))}
					for !stop.Load() {
						from := ended.Load()
						c.Lookup(&b)
						to := begun.Load()
						for k := range keys {
							got := b.Rule(k).ID
							if why := wrong(history, winners[k], place, got, from, to); why != "" {
								t.Errorf("updates %d to %d: rule %d for key %x: %s", from, to, got, keys[k], why)
								stop.Store(true)
								return
							}
						}
					}
				})
			}
			for u := int64(1); u <= int64(updates) && !stop.Load(); u++ {
				gone := len(m.there) > 0 && (len(m.away) == 0 || rng.IntN(2) == 0)
				from, to := &m.away, &m.there
				if gone {
					from, to = to, from
				}
				r := swap(rng, from, to)
				history[r].add(u)
				begun.Store(u)
				var err error
				if gone {
					err = c.Delete(pool[r].ID)
				} else {
					err = c.Insert(pool[r])
				}
				if err != nil {
					t.Error(err)
					break
				}
				ended.Store(u)
			}
			stop.Store(true)
			wg.Wait()
			settle(t, c)
			agree(t, c, m.table(), flowtest.Trace(pool, flowtest.Traffic{Packets: 500}))
			checkEngine(t, c)
		})
	}
}

// spells is when a rule came and went: there from an even element up to the next.
type spells struct {
	mu sync.Mutex
	at []int64
}

func (s *spells) add(u int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, u)
}

// there reports whether the rule was there in version v, after v updates.
func (s *spells) there(v int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, found := slices.BinarySearch(s.at, v)
	if found {
		n++
	}
	return n%2 == 1
}

// wrong says why got is the winner in none of the versions, or nothing.
func wrong(history []*spells, winners []int, place map[flow.RuleID]int, got flow.RuleID, from, to int64) string {
	for v := from; v <= to; v++ {
		winner := flow.DefaultRule
		for _, w := range winners {
			if history[w].there(v) {
				for id, i := range place {
					if i == w {
						winner = id
					}
				}
				break
			}
		}
		if winner == got {
			return ""
		}
	}
	return "it is the winner in none of these versions"
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
			tab := flowtest.NewTable(rules, nil)
			for _, c := range all {
				agree(t, c, tab, u.Keys)
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
