package agent

import (
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
}

func newLedger() *ledger {
	return &ledger{live: map[flow.EntryID]flow.Counter{}, rules: map[flow.RuleID]flow.Counter{}, verdicts: map[string]uint64{}}
}

// read books the counters of what is installed.
func (l *ledger) read(installed []flow.Entry, counts []offload.Count, t *flow.Table) {
	now := make(map[flow.EntryID]flow.Counter, len(counts))
	for _, c := range counts {
		now[c.Entry] = c.Counter
	}
	live := make(map[flow.EntryID]flow.Counter, len(installed))
	for i := range installed {
		e := &installed[i]
		if c, counted := now[e.ID]; counted && offload.Ours(e.ID) {
			l.book(e, c, t)
			live[e.ID] = c
		}
	}
	l.live = live
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
