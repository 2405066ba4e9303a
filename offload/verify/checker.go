package verify

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// checker holds one question, which table and which entries, with what is known of
// the answer. Here the claims of one entry are proved; turn.go moves a checker on
// to the next question. A rule and an entry have numbers that stay while they do.
//
// Everything is searched in an order that depends on the question alone. So the same
// question has the same answer, to the packet, whatever was asked before.
type checker struct {
	search
	model  device.Model
	missed []box // what the device never answers

	want      *flow.Table
	rules     []rule
	freeRules []int32 // numbers of none
	order     []int32 // the rules as the table asks them, the default last
	asks      index   // their matches, ranked in that order

	entries     []entry
	freeEntries []int32                // numbers of none
	listed      []int32                // the entries as the device listed them
	number      map[flow.EntryID]int32 // of an entry
	answers     index                  // the matches of the entries, by rank
	round       uint32                 // counts questions
	behind      []int32                // by number, see again

	spare int     // boxes that may be spent on better counterexamples
	near  []int32 // scratch: rules that meet an entry
	above []int32 // scratch: entries that meet a box
	pairs int     // proved by a search
}

// rule is what is known of one rule of the table.
type rule struct {
	place  int32  // in the order
	shield uint64 // the rank of the first entry that covers it all; see covering
	stale  bool   // for one turn: claims of its entries may not hold any more
}

// unknown marks a shield that was not looked for yet.
const unknown = 0

// entry is one entry and what is known of it. What it is stands elsewhere, because each
// question walks through all of what is known.
type entry struct {
	*flow.Entry // nil if the number is free
	rank        uint64
	rule        int32 // the number of its rule, or none
	at          int32 // its place in listed
	cost        int32 // boxes its proof looked at; valid iff proved
	proved      bool
	empty       bool   // no key is in its match: it is in no index
	vague       bool   // what it matches is not known: it is in no index either
	round       uint32 // the last in which it was there; 0 if the number is free
}

// none stands for the number of a rule that the table does not have.
const none = -1

// newChecker returns a checker that was asked nothing yet: an empty device.
func newChecker(m device.Model) *checker {
	c := &checker{model: m, number: map[flow.EntryID]int32{}, answers: newIndex(nil, nil), round: 1}
	for i := range m.Missed {
		if b, some := newBox(&m.Missed[i]); some {
			c.missed = append(c.missed, b)
		}
	}
	return c
}

// rankOf says when an entry is asked: of those that match a packet one of the lowest
// rank answers.
func (c *checker) rankOf(e *flow.Entry) uint64 {
	if c.model.Order != device.Honoured {
		return unordered // whatever else a model says: any of them may
	}
	return ^e.Priority
}

const unordered = 1

// shielded reports whether an entry that is asked before e covers all of rule j.
// Most rules that meet an entry are covered by a guard or by themselves, and then
// there is nothing to search.
func (c *checker) shielded(j int32, e *entry) bool { return c.covering(j) < e.rank }

// covering returns the rank of the first entry that covers all of rule j. If none
// does, no entry comes after it.
func (c *checker) covering(j int32) uint64 {
	r := &c.rules[j]
	if r.shield == unknown {
		r.shield = c.answers.first(&c.asks.boxes[j], noLimit)
	}
	return r.shield
}

// earlier reports whether the table asks rule j before e's. Whatever rule has the
// packet, it is before that of an entry whose rule the table does not have.
func (c *checker) earlier(j int32, e *entry) bool {
	return e.rule < 0 || c.rules[j].place < c.rules[e.rule].place
}

// line returns rule j as the table has it.
func (c *checker) line(j int32) *flow.Rule { return c.want.Rule(int(c.rules[j].place)) }

// check proves entry i, or returns what is wrong with it; at most one result is
// not nil.
func (c *checker) check(i int32) (*Mismatch, *Unprovable) {
	e := &c.entries[i]
	c.left = maxBoxes
	if e.empty {
		e.proved, e.cost = true, 0
		return nil, nil
	}
	if unsure := c.unclear(e); unsure != nil {
		return nil, unsure
	}
	if unsure := c.metered(e); unsure != nil {
		return nil, unsure
	}
	if e.vague { // a guard
		e.proved, e.cost = true, 0
		return nil, nil
	}
	if b := &c.answers.boxes[i]; !e.Punt() {
		if bad := c.attribution(e, b); bad != nil {
			return c.sharpen(e, b, bad), nil
		}
		if c.left >= 0 && e.rule >= 0 {
			if r := c.line(e.rule); !e.Actions.Equal(r.Actions) {
				if bad := c.differ(e, r, *b, c.before(e, b), axes(b, c.want.Switch(), e.Actions, r.Actions)); bad != nil {
					return bad, nil
				}
			}
		}
		if c.left < 0 {
			return nil, &Unprovable{Entry: *e.Entry,
				Reason: fmt.Sprintf("what it answers falls into more than %d boxes between the matches of its rule, %s, and of those asked before", maxBoxes, c.ruleOf(e)),
				Fix:    "to have it in hardware, narrow the match of that rule or join rules that are asked before it"}
		}
	}
	e.proved, e.cost = true, int32(maxBoxes-c.left)
	return nil, nil
}

// ruleOf names e's rule.
func (c *checker) ruleOf(e *entry) string {
	switch {
	case e.rule == none:
		return fmt.Sprintf("%#x", uint64(e.Rule))
	case e.Rule == flow.DefaultRule:
		return "the default"
	}
	return c.line(e.rule).Name
}

// unclear says that the meaning of an entry is not known, or returns nil. A guard
// that matches anything is harmless.
func (c *checker) unclear(e *entry) *Unprovable {
	u := &Unprovable{Entry: *e.Entry, Fix: "if it comes back, another program writes to the device, or its driver misreads it"}
	if e.Punt() {
		if len(e.Actions) == 0 {
			return nil
		}
		u.Reason = "it is a guard, which punts, and yet it has actions"
		return u
	}
	if err := e.Actions.Valid(); err != nil {
		u.Reason = err.Error()
		return u
	}
	if op := e.Actions.Terminal().Op; op == flow.Normal || op == flow.Pass {
		u.Reason = "it says " + op.String() + ", and a device has neither the table's switch nor the blade's kernel"
		return u
	}
	if e.vague {
		u.Reason = "what it really matches is not known: " + c.takes(&e.Match).Error()
		u.Fix = "if the device does match it as it is written, its model has to say so"
		return u
	}
	return nil
}

// metered says that a meter of the table would not be the one meter in the device, or
// returns nil. What a meter does shows on no single packet, so there is no search: the
// entry has to be its rule, whole and alone, with the same actions.
func (c *checker) metered(e *entry) *Unprovable {
	if e.Punt() || e.rule < 0 {
		return nil // it answers nothing, or that is wrong whatever it does
	}
	r := c.line(e.rule)
	if !e.Actions.Metered() && !r.Actions.Metered() {
		return nil
	}
	u := &Unprovable{Entry: *e.Entry, Fix: "a rule that polices lives in one place"}
	switch {
	case !e.Actions.Equal(r.Actions):
		u.Reason = fmt.Sprintf("it does not police as its rule, %s, does", r.Name)
	case e.Kind != flow.RuleEntry || e.Match != r.Match:
		u.Reason = fmt.Sprintf("it is a part of rule %s, which polices, and would be a second meter", r.Name)
	case slices.ContainsFunc(c.listed, func(i int32) bool {
		o := &c.entries[i]
		return o != e && o.rule == e.rule && !o.Punt()
	}):
		u.Reason = fmt.Sprintf("it is one of several entries of rule %s, which polices: each has a meter", r.Name)
	default:
		return nil
	}
	return u
}

// takes returns why the device's model does not take a match, or nil.
func (c *checker) takes(match *flow.Match) error {
	m := c.model // of which only the matching is asked
	m.MissFalls, m.Punt = true, true
	return m.Admit(match, nil, flow.GuardEntry)
}

// attribution proves that the table gives every packet e really answers to e's
// rule: claims (1) and (2).
func (c *checker) attribution(e *entry, b *box) *Mismatch {
	limit := uint64(noLimit)
	if e.rule >= 0 {
		limit = c.asks.rank[e.rule]
	}
	// A shield that is known spares the look at the rule's match.
	c.near = c.asks.meeting(b, limit, func(j int32) bool {
		s := c.rules[j].shield
		return s == unknown || s >= e.rank
	}, c.near[:0])
	near := slices.DeleteFunc(c.near, func(j int32) bool { return c.shielded(j, e) })
	c.inOrder(near)
	for _, j := range near {
		if m := c.pair(e, b, j); m != nil || c.left < 0 {
			return m
		}
	}
	if e.rule < 0 {
		return nil
	}
	rule := &c.asks.boxes[e.rule]
	if !rule.meets(b) {
		return c.stray(e, b)
	}
	for v := range b.minus(rule) {
		if m := c.stray(e, v); m != nil || c.left < 0 {
			return m
		}
	}
	return nil
}

// inOrder sorts rules as the table asks them.
func (c *checker) inOrder(rules []int32) {
	slices.SortFunc(rules, func(i, j int32) int { return cmp.Compare(c.rules[i].place, c.rules[j].place) })
}

// pair proves that e answers no packet of rule j, which meets it and is asked before
// e's: claim (1), as far as it is about j.
func (c *checker) pair(e *entry, b *box, j int32) *Mismatch {
	c.pairs++
	v, _ := b.and(&c.asks.boxes[j])
	return c.stray(e, &v)
}

// stray searches v, in which the table gives no packet to e's rule, for one that e
// answers.
func (c *checker) stray(e *entry, v *box) *Mismatch {
	k, found := c.find(v, c.before(e, v))
	if !found {
		return nil
	}
	return c.mismatch(e, c.want.Rule(c.want.Lookup(&k)), k)
}

// sharpen looks for a mismatch of e whose emissions differ, given one in which only
// the rule does. It goes through what each rule wins of b in turn, with a budget
// for all entries together: this makes the answer better, not truer.
func (c *checker) sharpen(e *entry, b *box, m *Mismatch) *Mismatch {
	if m.Differs() || c.spare < 0 {
		return m
	}
	c.left = c.spare
	defer func() { c.spare = c.left }()
	near := c.asks.meeting(b, noLimit, nil, nil)
	c.inOrder(near)
	var earlier []*box
	for _, j := range near {
		if c.left < 0 {
			break
		}
		w, rule := c.line(j), &c.asks.boxes[j]
		if v, _ := b.and(rule); !e.Actions.Equal(w.Actions) {
			over := append(c.before(e, &v), earlier...)
			if better := c.differ(e, w, v, over, axes(&v, c.want.Switch(), e.Actions, w.Actions)); better != nil {
				return better
			}
		}
		earlier = append(earlier, rule)
	}
	return m
}

// before returns the boxes in v that e does not answer: what the device misses
// and what is asked before e.
func (c *checker) before(e *entry, v *box) []*box {
	var over []*box
	for i := range c.missed {
		if c.missed[i].meets(v) {
			over = append(over, &c.missed[i])
		}
	}
	c.above = c.answers.meeting(v, e.rank, func(i int32) bool { return c.entries[i].rank < e.rank }, c.above[:0])
	slices.SortFunc(c.above, c.asked)
	for _, i := range c.above {
		over = append(over, &c.answers.boxes[i])
	}
	return over
}

// asked orders entries as the device asks them, and among equals by ID.
func (c *checker) asked(i, j int32) int {
	a, b := &c.entries[i], &c.entries[j]
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ID, b.ID))
}

// mismatch describes what e and rule w, which wins, do to a packet with key k. It
// takes a frame on which their emissions differ, if there is one.
func (c *checker) mismatch(e *entry, w *flow.Rule, k flow.Key) *Mismatch {
	m := &Mismatch{Key: k, Entry: *e.Entry, Rule: w, ports: c.want.Ports()}
	in, sw := flow.Port(k.Get(flow.InPort)), c.want.Switch()
	frames := variants(k, sw, e.Actions, w.Actions)
	for _, f := range append(frames, frames[0]) { // the last round is for when none differs
		m.Frame = f
		m.Want = flow.Act(w.Actions, sw, w.ID, f, in)
		m.Got = flow.Act(e.Actions, sw, e.Rule, f, in)
		if m.Differs() {
			break
		}
	}
	m.Reason = c.reason(e, m)
	return m
}

func (c *checker) reason(e *entry, m *Mismatch) string {
	name := m.Rule.Name
	if m.Rule.ID == flow.DefaultRule {
		name = "default"
	}
	var why string
	at, _ := c.want.Index(m.Rule.ID)
	switch {
	case e.rule < 0:
		why = fmt.Sprintf("its rule %#x is not in the table, which answers by rule %s", uint64(e.Rule), name)
	case c.order[at] == e.rule:
		return fmt.Sprintf("its actions do not do to the packet what those of rule %s do", name)
	case c.earlier(c.order[at], e):
		why = fmt.Sprintf("the table asks rule %s first, and nothing in the device does", name)
	default:
		why = fmt.Sprintf("the match of rule %s does not hold the packet, which the table answers by rule %s", c.line(e.rule).Name, name)
	}
	if !m.Differs() {
		why += "; the same is emitted, but the wrong rule would count it"
	}
	return why
}
