package matcher

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// How an engine changes while it is read.
//
// Problem. Rules come and go one by one, some hundred thousand a second, and readers
// neither wait nor see anything half done.
//
// Idea. Everything a reader follows is immutable, except heads. A bucket with one rule
// more, or less, is written beside the old one, which takes less than a microsecond because
// buckets are short, and put in place by one atomic store of its head. What is not a
// bucket - the list of tables, a table that grows - is copied and put in place by one
// atomic pointer; so is what kernels need to find a bucket, together with its heads. Old memory is kept as long as a reader may have it: buckets by epochs
// (package epoch), the rest by Go's collector.
//
// Each such store is a step. An insertion is one step, and one more for each rule that has to move
// so that there is a place for it (order.go).
//
// Invariants, besides those in build.go:
//   - The best place of a table is a lower bound, and it is lowered before a rule below
//     it can be found. Deletions do not raise it. Tables are in the order of these bounds.
//   - A search that runs while one step is made finds for each key the winner before it
//     or the winner after it. For two steps that does not hold: a rule that is deleted
//     may be missed together with the one that was inserted before to replace it, if
//     the one was looked for before and the other after both steps. So a search counts
//     the steps and is repeated, with fewer keys, if there was more than one; how many
//     keys are searched at once follows the steps that are made meanwhile.
//   - Numbers of rules are never used again in one engine: what a search has answered can
//     be asked for at any time.
//
// Where a rule goes. Into the first table that takes it (subtable.takes) and has room
// in its bucket, a chunk at least. If there is none, into the smallest bucket that is
// below two chunks; if there is none, into a new table, under a mask that others
// may share; if there are too many of them, full buckets get fuller. A new table costs
// every key a probe, a longer bucket only those that meet it. Neither is as good as
// tables that were chosen for all rules, so sooner or later a new engine is built
// (tend.go).

// Insert puts rules in, one after the other: each is there for every lookup that begins
// afterwards. If one is not valid or its ID is taken, none is put in and the error is a
// *flow.Fault. Unlike [flow.NewTable], Insert does not look for ties ([flow.FindTie]): of
// two rules that only the ID orders, the lower one wins.
//
// Cost: about 1 µs a rule; the worst rules, of which no two can share a hash table, cost a
// copy of as many as there are.
func (c *Classifier) Insert(rules ...flow.Rule) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range rules {
		r := &rules[i]
		if err := r.Valid(); err != nil {
			return fmt.Errorf("rule %s: %w", r.Name, err)
		}
		if c.ruleOf(r.ID) != nil || r.ID == flow.DefaultRule || slices.ContainsFunc(rules[:i], func(o flow.Rule) bool { return o.ID == r.ID }) {
			return &flow.Fault{Code: "E_RULE_TWICE", What: "rule " + r.Name, Why: fmt.Sprintf("ID %#x is taken", uint64(r.ID)),
				Remedy: "delete the other rule first, or rename one of them"}
		}
	}
	for i := range rules {
		own := rules[i]
		c.change(change{rule: &own})
	}
	return nil
}

// Delete takes rules out, one after the other: no lookup that begins afterwards answers
// with them. If one is not there, none is taken out and the error is a *flow.Fault. To
// replace a rule, insert the new one, under another ID, before deleting the old one.
// Cost: about 1 µs a rule.
func (c *Classifier) Delete(ids ...flow.RuleID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	rules := make([]*flow.Rule, 0, 8) // on the stack
	for i, id := range ids {
		r := c.ruleOf(id)
		if r == nil || slices.Contains(ids[:i], id) {
			return &flow.Fault{Code: "E_RULE_UNKNOWN", What: fmt.Sprintf("rule with ID %#x", uint64(id)), Why: "there is none",
				Remedy: "delete a rule that is in the table, once"}
		}
		rules = append(rules, r)
	}
	for _, r := range rules {
		c.change(change{rule: r, gone: true})
	}
	return nil
}

// ruleOf returns the rule with this ID, or nil.
func (c *Classifier) ruleOf(id flow.RuleID) *flow.Rule {
	if e := c.engine.Load(); e != nil {
		if n, ok := e.find(id); ok {
			return e.rule(n)
		}
		return nil
	}
	t := c.table.Load().table
	if i, ok := t.Index(id); ok && i < t.Len() {
		return t.Rule(i)
	}
	return nil
}

// change makes one change.
func (c *Classifier) change(ch change) {
	e := c.engine.Load()
	if e == nil {
		c.table.Store(&dated{c.table.Load().table.Edited(map[flow.RuleID]*flow.Rule{ch.rule.ID: ch.now()}), c.version.Add(2)})
		return
	}
	e.make(ch)
	c.changed++
	if !c.tending {
		c.tending = true
		go c.tend()
	}
}

// Table returns the table as it is. After changes that costs a copy of it: 0.1 to
// 0.2 µs a rule.
func (c *Classifier) Table() *flow.Table { return c.dated().table }

func (c *Classifier) dated() *dated {
	d := c.table.Load()
	if c.engine.Load() == nil {
		return d
	}
	c.mu.Lock()
	e, version := c.engine.Load(), c.version.Load()
	log := e.changes.log
	c.mu.Unlock()
	if d.version == version {
		return d
	}
	d = &dated{e.edited(log), version}
	c.table.Store(d)
	return d
}

// changes is what an engine knows of the updates since it was built.
type changes struct {
	order *order
	names names // of what was inserted
	gone  set   // numbers of rules of base that were deleted; none as long as none was
	next  int32 // number
	log   history
}

// change is one update: the rule is now there, or no longer.
type change struct {
	rule *flow.Rule
	gone bool
}

// now returns the rule if it is there after the change, else nil.
func (ch change) now() *flow.Rule {
	if ch.gone {
		return nil
	}
	return ch.rule
}

// history is changes in their order, in pieces that never move: the number of a rule that
// came, or the complement of that of one that went. A copy of it stays as it is.
type history struct {
	pieces []*[pieceChanges]int32
	n      int
}

const pieceChanges = 256

func (h *history) add(n int32) {
	if h.n%pieceChanges == 0 {
		h.pieces = append(h.pieces, new([pieceChanges]int32))
	}
	h.pieces[h.n/pieceChanges][h.n%pieceChanges] = n
	h.n++
}

// since calls f for the changes of a history of e from the i-th on.
func (e *engine) since(h history, i int, f func(change)) {
	for ; i < h.n; i++ {
		if n := h.pieces[i/pieceChanges][i%pieceChanges]; n < 0 {
			f(change{rule: e.rule(^n), gone: true})
		} else {
			f(change{rule: e.rule(n)})
		}
	}
}

// page is rules that were inserted, by number.
type page [pageRules]atomic.Pointer[flow.Rule]

const pageRules = 512

// rule returns the rule with a number.
func (e *engine) rule(n int32) *flow.Rule {
	if int(n) <= e.base.Len() {
		return e.base.Rule(int(n))
	}
	i := int(n) - e.base.Len() - 1
	return (*e.pages.Load())[i/pageRules][i%pageRules].Load()
}

// name gives a rule the next number.
func (e *engine) name(r *flow.Rule) int32 {
	n := e.changes.next
	e.changes.next++
	i := int(n) - e.base.Len() - 1
	all := *e.pages.Load()
	if i/pageRules == len(all) {
		all = append(slices.Clip(all), new(page))
		e.pages.Store(&all)
	}
	all[i/pageRules][i%pageRules].Store(r)
	return n
}

// find returns the number of the rule with this ID.
func (e *engine) find(id flow.RuleID) (n int32, ok bool) {
	if i, ok := e.base.Index(id); ok && i < e.base.Len() && !e.changes.gone.has(i) {
		return int32(i), true
	}
	return e.changes.names.find(id)
}

// insert puts in a rule whose ID is not there.
func (e *engine) insert(r *flow.Rule) {
	c := &e.changes
	k := rankOf(r)
	at := c.order.find(k)
	low, high := c.order.room(at)
	if high-low < 2 {
		for _, m := range c.order.spread(at) {
			e.move(m)
		}
		low, high = c.order.room(at)
	}
	n := e.name(r)
	place := c.order.choose(low, high)
	e.put(&r.Match, place, n)
	c.order.put(at, k.upper, n, place)
	c.names.add(r.ID, n)
	c.log.add(n)
}

// remove takes out the rule with this number.
func (e *engine) remove(n int32) {
	c := &e.changes
	r := e.rule(n)
	b, i := e.locate(&r.Match, n)
	e.steps.Add(1)
	b.without(i)
	e.steps.Add(1)
	c.order.remove(c.order.find(rankOf(r)))
	if int(n) >= e.base.Len() {
		c.names.remove(r.ID)
	} else {
		if c.gone == nil {
			c.gone = make(set, e.base.Len()/64+1)
		}
		c.gone.add(int(n))
	}
	c.log.add(^n)
}

// move gives a rule another place between its neighbours.
func (e *engine) move(m move) {
	b, i := e.locate(&e.rule(m.rule.rule).Match, m.rule.rule)
	e.steps.Add(1)
	e.lower(b.table, m.place)
	b.moved(i, m.place)
	e.steps.Add(1)
	m.rule.place = m.place
}

// put puts a rule into the table that suits it.
func (e *engine) put(m *flow.Match, place, n int32) {
	set := e.set.Load()
	var last *subtable // takes the rule if no other has room
	size := 0          // of its bucket there
	for _, t := range set.tables {
		if !t.takes(m) || t.arena.full() {
			continue
		}
		b := t.bucketOf(m)
		if b.size() < max(e.limit, kernel.Chunk) && t.mask != (flow.Key{}) {
			e.putInto(t, m, place, n)
			return
		}
		better := last == nil || last.mask == (flow.Key{}) || t.mask != (flow.Key{}) && b.size() < size
		if better {
			last, size = t, b.size()
		}
	}
	if last != nil && (len(set.tables) >= maxTables-1 || last.mask != (flow.Key{}) && size < 2*kernel.Chunk) {
		e.putInto(last, m, place, n)
		return
	}
	t, words := e.another(set, m)
	t.Best = place
	b := t.bucketOf(m)
	b.with(m, place, n)
	e.steps.Add(1)
	e.set.Store(newTableSet(append(slices.Clone(set.tables), t), words))
	e.steps.Add(1)
}

// putInto puts a rule into t.
func (e *engine) putInto(t *subtable, m *flow.Match, place, n int32) {
	t = e.roomy(t)
	b := t.bucketOf(m)
	e.steps.Add(1)
	e.lower(t, place)
	b.with(m, place, n)
	e.steps.Add(1)
	if 3*t.keys > 2*len(t.Heads) && len(t.Heads) <= growHeads {
		e.exchange(t, e.doubled(t))
	}
}

// lower makes sure that the best place of t is not above place. It is part of a step.
func (e *engine) lower(t *subtable, place int32) {
	if place >= t.Best {
		return
	}
	atomic.StoreInt32(&t.Best, place)
	set := e.set.Load()
	if i := slices.Index(set.tables, t); i > 0 && place < set.tables[i-1].Best {
		e.set.Store(newTableSet(slices.Clone(set.tables), set.words))
	}
}

// exchange puts a table with the same rules in the place of another. It is a step.
func (e *engine) exchange(old, t *subtable) {
	set := e.set.Load()
	tables := slices.Clone(set.tables)
	tables[slices.Index(tables, old)] = t
	e.steps.Add(1)
	e.set.Store(newTableSet(tables, set.words))
	e.steps.Add(1)
}

// locate returns where the rule with this match and number is, in a table with room.
func (e *engine) locate(match *flow.Match, n int32) (bucket, int) {
	for _, t := range e.set.Load().tables {
		if !t.takes(match) {
			continue
		}
		b := t.bucketOf(match)
		for i := range b.size() {
			if row, m := b.table.row(b.words, i); int32(row[m]) == n {
				return e.roomy(t).bucketOf(match), i
			}
		}
	}
	panic("matcher: a rule is in no table")
}
