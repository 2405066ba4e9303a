package fallback

import "github.com/bladeflow/bladeflow/flow"

// pageRules is how many rules share a page of counters.
const pageRules = 256

// tally counts per rule for one worker. Counting is by place in the current table,
// which is one addition; when the table changes, what was counted moves to the
// rules' IDs, so that no count is lost when a rule moves or goes. Pages appear when
// a rule on them is first hit: a worker of a large table pays for what it uses.
//
// past keeps every rule that was ever hit, 40 bytes each.
type tally struct {
	table *flow.Table // whose places pages speak of; nil before the first
	pages []*[pageRules]flow.Counter
	past  map[flow.RuleID]flow.Counter
}

// adopt makes t the table that places speak of.
func (c *tally) adopt(t *flow.Table) {
	if c.table == t {
		return
	}
	if c.past == nil {
		c.past = map[flow.RuleID]flow.Counter{}
	}
	c.addTo(c.past, false)
	c.table = t
	c.pages = make([]*[pageRules]flow.Counter, t.Len()/pageRules+1)
}

// count adds one frame to the rule at place i.
func (c *tally) count(i int32, length int) {
	page := &c.pages[i/pageRules]
	if *page == nil {
		*page = new([pageRules]flow.Counter)
	}
	n := &(*page)[i%pageRules]
	n.Packets++
	n.Bytes += uint64(length)
}

// addTo adds what was counted under the current table to sum, and with all also
// what was counted before.
func (c *tally) addTo(sum map[flow.RuleID]flow.Counter, all bool) {
	add := func(id flow.RuleID, n flow.Counter) {
		s := sum[id]
		sum[id] = flow.Counter{Packets: s.Packets + n.Packets, Bytes: s.Bytes + n.Bytes}
	}
	for i, page := range c.pages {
		if page == nil {
			continue
		}
		for j, n := range page {
			if n.Packets > 0 {
				add(c.table.Rule(i*pageRules+j).ID, n)
			}
		}
	}
	if all {
		for id, n := range c.past {
			add(id, n)
		}
	}
}
