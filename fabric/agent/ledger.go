package agent

import (
	"maps"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// ledger turns the counters of one device's entries, which start again with every
// entry, into counters that never decrease.
//
// Invariant: a total is the sum of what was seen of every entry, each packet once.
// The driver's final count of a removed entry closes its account, so nothing is
// lost when a rule moves to software and back. What an entry counts between the
// last look and its disappearance behind our back is lost: nobody can read it.
type ledger struct {
	live     map[flow.EntryID]flow.Counter // the last reading of each entry that is installed
	rules    map[flow.RuleID]flow.Counter  // packets that a rule's entries answered
	verdicts map[string]uint64             // packets by what the entry did with them; `punt` for guards
	sent     map[flow.Port]uint64          // copies of packets that entries have sent to each port
	more     map[flow.EntryID]uint64       // packets that entries have counted from the reading before to the last
}

func newLedger() *ledger {
	return &ledger{live: map[flow.EntryID]flow.Counter{}, rules: map[flow.RuleID]flow.Counter{}, verdicts: map[string]uint64{}, sent: map[flow.Port]uint64{}, more: map[flow.EntryID]uint64{}}
}

// read books the counters of what is installed. Cost: nothing for an entry that counted
// nothing, if the device lists counters in the order of its entries.
func (l *ledger) read(installed []flow.Entry, counts []offload.Count, t *flow.Table) {
	var places map[flow.EntryID]int // of counts, once one is not where its entry is
	find := func(i int, id flow.EntryID) (flow.Counter, bool) {
		if i < len(counts) && counts[i].Entry == id {
			return counts[i].Counter, true
		}
		if places == nil {
			places = make(map[flow.EntryID]int, len(counts))
			for at := range counts {
				places[counts[at].Entry] = at
			}
		}
		at, counted := places[id]
		if !counted {
			return flow.Counter{}, false
		}
		return counts[at].Counter, true
	}
	counted := 0
	clear(l.more)
	for i := range installed {
		e := &installed[i]
		if !offload.Ours(e.ID) {
			continue
		}
		if c, ok := find(i, e.ID); ok {
			counted++
			if last, known := l.live[e.ID]; !known || c != last {
				l.book(e, c, t)
				if c.Packets > last.Packets {
					l.more[e.ID] = c.Packets - last.Packets
				}
				l.live[e.ID] = c
			}
		}
	}
	if counted < len(l.live) { // some went, and nobody told their last count
		there := byID(installed)
		maps.DeleteFunc(l.live, func(id flow.EntryID, _ flow.Counter) bool { return there[id] == nil })
	}
}

// close books the final count of an entry that was removed.
func (l *ledger) close(e *flow.Entry, final flow.Counter, t *flow.Table) {
	l.book(e, final, t)
	delete(l.live, e.ID)
}

// book adds what an entry counted since the last reading. A counter that went back
// belongs to another entry with the same ID, put in since.
func (l *ledger) book(e *flow.Entry, c flow.Counter, t *flow.Table) {
	last := l.live[e.ID]
	if c.Packets < last.Packets || c.Bytes < last.Bytes {
		last = flow.Counter{}
	}
	more := flow.Counter{Packets: c.Packets - last.Packets, Bytes: c.Bytes - last.Bytes}
	l.verdicts[verdict(e, t)] += more.Packets
	for i := range e.Actions {
		for _, p := range e.Actions[i].Ports {
			l.sent[p] += more.Packets
		}
	}
	if !e.Punt() {
		l.rules[e.Rule] = plus(l.rules[e.Rule], more)
	}
}

// verdict returns the word for what becomes of the packets an entry answers: its
// rule's, where the table has the rule, because an entry's own `output` may be
// what a rule's `normal` comes to.
func verdict(e *flow.Entry, t *flow.Table) string {
	if e.Punt() {
		return "punt"
	}
	if t != nil {
		if i, ok := t.Index(e.Rule); ok {
			return t.Rule(i).Actions.Terminal().Op.String()
		}
	}
	return e.Actions.Terminal().Op.String()
}

func plus(a, b flow.Counter) flow.Counter {
	return flow.Counter{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}
