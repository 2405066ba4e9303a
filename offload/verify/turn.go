package verify

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// From one question to the next. An agent asks about a table and a device again and
// again, and little changes in between: ten rules, a few entries, or nothing but
// the order in which the device lists them. Each claim is about one entry, and what
// it rests on is local, so most proofs stand:
//
//   - Claims (2) and (3) rest on the entry's own rule and the switch, and if they
//     took a search also on the entries asked before that meet the entry.
//   - Claim (1) is a claim for each rule that meets the entry and is asked before its
//     own. It rests on a shield, one entry asked before that covers the whole rule,
//     or on a search.
//
// Searches are dear and rare. An entry whose proof has one is proved anew when
// anything that it rests on comes or goes. For all others there is left:
//
//   - A rule that comes: a claim for each entry that it meets and is not shielded from.
//   - An entry that goes: the rules whose shield it was get the next one; a claim for
//     each entry between the two shields that meets the rule.
//
// A rule that goes and an entry that comes take nothing away from such proofs. A
// rule that changes its place among the others goes and comes; one whose actions
// change leaves everything but its own entries alone.
//
// So the time it takes grows with what meets the change, and with the walk through
// both lists that finds it.

// change is what differs between two questions. Numbers may be used again at once,
// so what has gone is here as it was.
type change struct {
	goneRules    []box
	freshRules   []int32
	goneEntries  []veil
	freshEntries []veil
	switched     bool
}

// veil is what an entry hides from those asked after it.
type veil struct {
	box
	rank uint64
}

// turn makes c hold the question; listed is what match said of it. Afterwards
// entries are marked proved iff they are.
func (c *checker) turn(want *flow.Table, installed []flow.Entry, listed []int32) {
	var d change
	was := c.want
	kept := c.retable(want, &d)
	kept = c.refill(installed, listed, &d) && kept
	c.resolve(was)
	if !kept {
		for i := range c.rules {
			c.rules[i].shield = unknown
		}
		for i := range c.entries {
			c.entries[i].proved = false
		}
		return
	}
	c.doubt(&d)
	bare := c.reshield(&d)
	if len(bare)+len(d.freshRules) > 0 {
		c.sort()
	}
	for _, s := range bare {
		c.again(s.rule, s.was+1, s.is)
	}
	for _, j := range d.freshRules {
		c.again(j, 0, c.covering(j))
	}
}

// few reports whether it is worth while to look one by one at n changes of a list of
// the size given.
func few(n, size int) bool { return n <= 16+size/4 }

// rankStep is how far apart the ranks of rules are when all get new ones.
const rankStep = 1 << 32

// retable goes over to another table. It returns false if nothing is left of the old.
func (c *checker) retable(want *flow.Table, d *change) bool {
	old := c.want
	c.want = want
	if old == want {
		return true
	}
	if old == nil {
		c.renumber()
		return false
	}
	d.switched = !sameSwitch(old.Switch(), want.Switch())
	order := make([]int32, 0, want.Len()+1) // a fresh rule is none
	var left []int32
	fresh := 0
	for i, j := 0, 0; j <= want.Len(); { // both end with the default, which matches the same
		a, b := old.Rule(i), want.Rule(j)
		switch {
		case a.ID == b.ID && a.Match == b.Match:
			c.rules[c.order[i]].stale = !a.Actions.Equal(b.Actions)
			order = append(order, c.order[i])
			i, j = i+1, j+1
		case leaves(old, want, i, j):
			left = append(left, c.order[i])
			i++
		default:
			order = append(order, none)
			fresh++
			j++
		}
	}
	if !few(fresh+len(left), len(order)) || !c.admit(order, left, d) {
		c.renumber()
		return false
	}
	return true
}

// leaves reports whether the walk through two tables, which stands at rules that
// differ, should take the old one for gone. Otherwise it takes the new one for fresh.
// Of two that both tables have it takes the one that has moved further.
func leaves(old, want *flow.Table, i, j int) bool {
	to, stays := want.Index(old.Rule(i).ID)
	from, known := old.Index(want.Rule(j).ID)
	switch {
	case !stays || to < j || from == i && known:
		return true
	case !known || from < i:
		return false
	}
	return to-j > from-i
}

func sameSwitch(a, b *flow.Switch) bool {
	return a == b || a.Uplink() == b.Uplink() && slices.Equal(a.Stations(), b.Stations())
}

// renumber takes all rules as fresh.
func (c *checker) renumber() {
	n := c.want.Len() + 1
	boxes, ranks := make([]box, n), make([]uint64, n)
	c.rules, c.order, c.freeRules = make([]rule, n), make([]int32, n), nil
	for i := range n {
		boxes[i], _ = newBox(&c.want.Rule(i).Match) // a valid match is not empty
		ranks[i] = rankStep * uint64(i+1)
		c.rules[i].place, c.order[i] = int32(i), int32(i)
	}
	c.asks = newIndex(boxes, ranks)
	for i := range c.entries {
		c.entries[i].rule = none
	}
}

// admit takes out the rules that left and gives those that come, none in order, a
// number and a rank between their neighbours'. It returns false if there is no such
// rank any more.
func (c *checker) admit(order, left []int32, d *change) bool {
	for _, j := range left {
		d.goneRules = append(d.goneRules, c.asks.boxes[j])
		c.rules[j].stale = true
		c.asks.take(j)
		c.freeRules = append(c.freeRules, j)
	}
	low := uint64(0)
	for i, j := range order {
		if j != none {
			c.rules[j].place = int32(i)
			low = c.asks.rank[j]
			continue
		}
		n := 1 // fresh ones in a row; the default never is
		for order[i+n] == none {
			n++
		}
		step := (c.asks.rank[order[i+n]] - low) / uint64(n+1)
		if step == 0 {
			return false
		}
		low += step
		if last := len(c.freeRules) - 1; last >= 0 {
			j, c.freeRules = c.freeRules[last], c.freeRules[:last]
		} else {
			j = int32(len(c.rules))
			c.rules = append(c.rules, rule{})
		}
		b, _ := newBox(&c.want.Rule(i).Match)
		c.asks.put(j, &b, low)
		c.rules[j] = rule{place: int32(i), stale: true}
		order[i] = j
		d.freshRules = append(d.freshRules, j)
	}
	c.order = order
	return true
}

// match compares what is installed with what was. It returns for each entry its
// number if it is as it was, else none, and how many entries differ. An ID that two
// entries have is returned as twice.
func (c *checker) match(installed []flow.Entry) (listed []int32, differ int, twice *flow.Entry) {
	c.round++
	listed = make([]int32, len(installed))
	fresh := map[flow.EntryID]bool{}
	next := 0 // in the last list: most devices list entries in the same order again
	for k := range installed {
		e := &installed[k]
		n := int32(none)
		if next < len(c.listed) && c.entries[c.listed[next]].ID == e.ID {
			n = c.listed[next]
		} else if have, known := c.number[e.ID]; known {
			n = have
		}
		if n == none || !c.entries[n].Equal(e) {
			if fresh[e.ID] || n != none && c.entries[n].round == c.round {
				return nil, 0, e
			}
			fresh[e.ID] = true
			listed[k] = none
			continue
		}
		x := &c.entries[n]
		if x.round == c.round || len(fresh) > 0 && fresh[e.ID] {
			return nil, 0, e
		}
		x.round = c.round
		next = int(x.at) + 1
		listed[k] = n
	}
	return listed, len(c.listed) - len(installed) + 2*len(fresh), nil
}

// refill goes over to other entries. It returns false if nothing is left of the old.
func (c *checker) refill(installed []flow.Entry, listed []int32, d *change) bool {
	kept := 0
	for _, n := range listed {
		if n != none {
			kept++
		}
	}
	if !few(len(installed)+len(c.listed)-2*kept, len(installed)) {
		c.fill(installed, listed)
		return false
	}
	if kept < len(c.listed) {
		for _, n := range c.listed {
			x := &c.entries[n]
			if x.round == c.round {
				continue
			}
			if !x.empty && !x.vague {
				d.goneEntries = append(d.goneEntries, veil{c.answers.boxes[n], x.rank})
				c.answers.take(n)
			}
			if c.number[x.ID] == n {
				delete(c.number, x.ID)
			}
			*x = entry{}
			c.freeEntries = append(c.freeEntries, n)
		}
	}
	for k, n := range listed {
		if n == none {
			if last := len(c.freeEntries) - 1; last >= 0 {
				n, c.freeEntries = c.freeEntries[last], c.freeEntries[:last]
			} else {
				n = int32(len(c.entries))
				c.entries = append(c.entries, entry{})
			}
			own := installed[k]
			b := c.enter(n, &own)
			if x := &c.entries[n]; !x.empty && !x.vague {
				c.answers.put(n, &b, x.rank)
				d.freshEntries = append(d.freshEntries, veil{b, x.rank})
			}
			listed[k] = n
		}
		c.entries[n].at = int32(k)
	}
	c.listed = listed
	return true
}

// enter gives number n to a fresh entry, which it keeps, and returns its box.
func (c *checker) enter(n int32, e *flow.Entry) box {
	b, some := newBox(&e.Match)
	c.entries[n] = entry{Entry: e, rank: c.rankOf(e), rule: none, empty: !some, vague: some && c.takes(&e.Match) != nil, round: c.round}
	c.number[e.ID] = n
	return b
}

// fill takes all entries as fresh.
func (c *checker) fill(installed []flow.Entry, listed []int32) {
	c.entries, c.freeEntries = make([]entry, len(installed)), nil
	c.number = make(map[flow.EntryID]int32, len(installed))
	boxes, ranks := make([]box, len(installed)), make([]uint64, len(installed))
	own := slices.Clone(installed)
	var full []int32
	for k := range own {
		n := int32(k)
		boxes[k] = c.enter(n, &own[k])
		ranks[k] = c.entries[k].rank
		c.entries[k].at, listed[k] = n, n
		if x := &c.entries[k]; !x.empty && !x.vague {
			full = append(full, n)
		}
	}
	c.answers = index{boxes: boxes, rank: ranks}
	c.answers.make(full)
	c.listed = listed
}

// resolve finds the rules of entries again, where they are not what they were under
// the table asked about before.
func (c *checker) resolve(was *flow.Table) {
	for _, n := range c.listed {
		e := &c.entries[n]
		if e.rule != none && !c.rules[e.rule].stale {
			continue
		}
		old := e.rule
		e.rule = none
		if at, known := c.want.Index(e.Rule); known {
			e.rule = c.order[at]
		}
		e.proved = e.proved && old == none && e.rule == none
	}
	if c.want != was {
		for j := range c.rules {
			c.rules[j].stale = false
		}
	}
}

// doubt marks the entries to be proved anew whose proof searched what has changed.
func (c *checker) doubt(d *change) {
	for _, n := range c.listed {
		e := &c.entries[n]
		if !e.proved || e.cost == 0 {
			continue // nothing, and so not one without a box
		}
		switch b := &c.answers.boxes[n]; {
		case d.switched && e.rule != none && !e.Actions.Equal(c.line(e.rule).Actions),
			slices.ContainsFunc(d.goneRules, func(r box) bool { return r.meets(b) }),
			slices.ContainsFunc(d.goneEntries, func(v veil) bool { return v.rank < e.rank && v.meets(b) }),
			slices.ContainsFunc(d.freshEntries, func(v veil) bool { return v.rank < e.rank && v.meets(b) }):
			e.proved = false
		}
	}
}

// bared is a rule whose shield has become worse.
type bared struct {
	rule    int32
	was, is uint64
}

// reshield brings shields up to date.
func (c *checker) reshield(d *change) (bare []bared) {
	if c.model.Order != device.Honoured {
		return nil // and nothing is shielded
	}
	for _, g := range d.goneEntries {
		c.near = c.asks.inside(&g.box, func(j int32) bool { return c.rules[j].shield == g.rank }, c.near[:0])
		for _, j := range c.near {
			c.rules[j].shield = unknown
			if is := c.covering(j); is > g.rank {
				bare = append(bare, bared{j, g.rank, is})
			}
		}
	}
	for _, g := range d.freshEntries {
		c.near = c.asks.inside(&g.box, func(j int32) bool { return c.rules[j].shield > g.rank }, c.near[:0])
		for _, j := range c.near {
			c.rules[j].shield = g.rank
		}
	}
	return bare
}

// sort notes for again, in one small place, which entries have claims that were
// proved, and the places of their rules.
func (c *checker) sort() {
	c.behind = slices.Grow(c.behind[:0], len(c.entries))[:len(c.entries)]
	for _, n := range c.listed {
		e := &c.entries[n]
		switch {
		case !e.proved || e.Punt():
			c.behind[n] = -1
		case e.rule == none:
			c.behind[n] = int32(len(c.order))
		default:
			c.behind[n] = c.rules[e.rule].place
		}
	}
}

// again proves the claims about rule j of the entries whose ranks are from … to.
func (c *checker) again(j int32, from, to uint64) {
	place, limit := c.rules[j].place, to
	if limit < noLimit {
		limit++ // to is among them
	}
	c.near = c.answers.meeting(&c.asks.boxes[j], limit, func(i int32) bool {
		return from <= c.answers.rank[i] && place < c.behind[i]
	}, c.near[:0])
	for _, i := range c.near {
		e := &c.entries[i]
		if !e.proved {
			continue // by what was found a moment ago
		}
		c.left = maxBoxes - int(e.cost)
		bad := c.pair(e, &c.answers.boxes[i], j)
		e.cost = int32(maxBoxes - c.left)
		e.proved = bad == nil && c.left >= 0
	}
}
