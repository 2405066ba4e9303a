package verify

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// checker is one run of [Prove].
type checker struct {
	search
	want    *flow.Table
	rules   *index  // the matches of the table, the default last
	missed  []box   // what the device never answers
	entries []entry // those that match anything, by priority from high to low
	asked   *index  // the matches of entries
	shield  []int32 // per rule, the first entry that covers it all; see covering
	spare   int     // boxes that may be spent on better counterexamples
	near    []int32 // scratch: rules that meet an entry
	above   []int32 // scratch: entries that meet a box
	proof   Proof
}

// entry is one entry with its place among the others.
type entry struct {
	*flow.Entry
	rule  int   // its rule's place in the table, or -1
	first int32 // the entries before this one are asked before it, for sure
}

func newChecker(want *flow.Table, installed []flow.Entry, m device.Model) *checker {
	c := &checker{want: want, spare: maxBoxes}
	rules := make([]box, want.Len()+1)
	for i := range rules {
		rules[i], _ = newBox(&want.Rule(i).Match) // a valid match is not empty
	}
	c.rules = newIndex(rules)
	for i := range m.Missed {
		if b, some := newBox(&m.Missed[i]); some {
			c.missed = append(c.missed, b)
		}
	}
	order := make([]*flow.Entry, len(installed))
	for i := range installed {
		order[i] = &installed[i]
	}
	slices.SortStableFunc(order, func(a, b *flow.Entry) int { return cmp.Compare(b.Priority, a.Priority) })
	var boxes []box
	for _, e := range order {
		b, some := newBox(&e.Match)
		if !some {
			continue
		}
		x := entry{Entry: e, rule: -1}
		if i, known := want.Index(e.Rule); known {
			x.rule = i
		}
		if last := len(c.entries) - 1; m.Order == device.Honoured && last >= 0 {
			x.first = c.entries[last].first
			if c.entries[last].Priority != e.Priority {
				x.first = int32(len(c.entries))
			}
		}
		c.entries = append(c.entries, x)
		boxes = append(boxes, b)
	}
	c.asked = newIndex(boxes)
	c.shield = make([]int32, len(rules))
	for i := range c.shield {
		c.shield[i] = unknown
	}
	return c
}

// unknown marks a shield that was not looked for yet.
const unknown = -1

// covering returns the number of the first entry that covers all of rule j, or the
// number of entries if there is none. Most rules that meet an entry are covered by
// a guard or by themselves, and then there is nothing to search.
func (c *checker) covering(j int32) int32 {
	if c.shield[j] == unknown {
		first := int32(len(c.entries))
		rule := &c.rules.boxes[j]
		c.above = c.asked.meeting(rule, first, c.above[:0])
		for _, i := range c.above {
			if i < first && c.asked.boxes[i].covers(rule) {
				first = i
			}
		}
		c.shield[j] = first
	}
	return c.shield[j]
}

// check proves entry i, or returns what is wrong with it; at most one result is
// not nil.
func (c *checker) check(i int) (*Mismatch, *Unprovable) {
	e, b := &c.entries[i], &c.asked.boxes[i]
	if reason := unreadable(e.Entry); reason != "" {
		return nil, &Unprovable{Entry: *e.Entry, Reason: reason}
	}
	if e.Punt() {
		return nil, nil
	}
	c.left = maxBoxes
	if bad := c.attribution(e, b); bad != nil {
		return c.sharpen(e, b, bad), nil
	}
	var bad *Mismatch
	if c.left >= 0 && e.rule >= 0 {
		if r := c.want.Rule(e.rule); !e.Actions.Equal(r.Actions) {
			bad = c.differ(e, r, *b, c.before(e, b), axes(b, c.want.Switch(), e.Actions, r.Actions))
		}
	}
	if bad == nil && c.left < 0 {
		return nil, &Unprovable{Entry: *e.Entry, Reason: fmt.Sprintf("what it answers falls into more than %d boxes", maxBoxes)}
	}
	return bad, nil
}

// unreadable says why the meaning of an entry is not known, or returns "".
func unreadable(e *flow.Entry) string {
	if e.Punt() {
		if len(e.Actions) > 0 {
			return "it is a guard, which punts, and yet it has actions"
		}
		return ""
	}
	if err := e.Actions.Valid(); err != nil {
		return err.Error()
	}
	if op := e.Actions.Terminal().Op; op == flow.Normal || op == flow.Pass {
		return "it says " + op.String() + ", and a device has neither the table's switch nor the blade's kernel"
	}
	return ""
}

// attribution proves that the table gives every packet e really answers to e's
// rule: claims (1) and (2).
func (c *checker) attribution(e *entry, b *box) *Mismatch {
	limit := int32(e.rule)
	if e.rule < 0 {
		limit = int32(len(c.rules.boxes)) // whatever rule has the packet, it is not e's
	}
	c.near = c.rules.meeting(b, limit, c.near[:0])
	c.proof.Pairs += len(c.near)
	for _, j := range c.near {
		if c.covering(j) < e.first {
			continue
		}
		v, _ := b.and(&c.rules.boxes[j])
		if m := c.stray(e, &v); m != nil || c.left < 0 {
			return m
		}
	}
	if e.rule < 0 {
		return nil
	}
	rule := &c.rules.boxes[e.rule]
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
	if m.Differs() {
		return m
	}
	c.left = c.spare
	defer func() { c.spare = c.left }()
	near := c.rules.meeting(b, int32(len(c.rules.boxes)), nil)
	slices.Sort(near)
	var earlier []*box
	for _, j := range near {
		if c.left < 0 {
			break
		}
		w, rule := c.want.Rule(int(j)), &c.rules.boxes[j]
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
	c.above = c.asked.meeting(v, e.first, c.above[:0])
	for _, i := range c.above {
		over = append(over, &c.asked.boxes[i])
	}
	return over
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
	case e.rule == at:
		return fmt.Sprintf("its actions do not do to the packet what those of rule %s do", name)
	case e.rule < 0:
		why = fmt.Sprintf("its rule %#x is not in the table, which answers by rule %s", uint64(e.Rule), name)
	case at < e.rule:
		why = fmt.Sprintf("the table asks rule %s first, and nothing in the device does", name)
	default:
		why = fmt.Sprintf("the match of rule %s does not hold the packet, which the table answers by rule %s", c.want.Rule(e.rule).Name, name)
	}
	if !m.Differs() {
		why += "; the same is emitted, but the wrong rule would count it"
	}
	return why
}
