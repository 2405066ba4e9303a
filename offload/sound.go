package offload

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// An entry is sound for a table if every packet it answers is won by its rule, and
// its actions are what that rule does. Punts are always sound. Whether a rule's
// entry is sound depends only on what sits above it: each rule that is asked before
// its own and shares a packet with the entry must have those packets taken by an
// entry above, a guard or a sound one. So one pass from the highest priority down
// finds the greatest sound subset, and removing entries from the lowest up keeps
// every remaining entry sound all the way.
//
// What the last plan put in is sound together for the table it was made for, which
// is the one before. An entry of it only has to be looked at again if something
// changed under it: a new rule asked before its own, or an entry above it that is no
// longer there. After a change of ten rules that is few.

// proof is entries, highest first, that are known to be sound together for the table
// on a side.
type proof struct {
	entries []*flow.Entry
	at      side
}

// survey is one search for a greatest sound subset.
type survey struct {
	*Planner
	old    *flow.Table
	sides  []side
	proof  proof
	held   []*member // those that have something in member.held
	guards map[flow.Match]uint64

	kept    []*flow.Entry // highest first
	noted   int           // how many of kept are in member.held
	missing []*flow.Entry // of proof, what is not there or not kept
}

// soundSubset returns the greatest subset of entries that is sound for the tables on
// the given sides, highest first. Foreign and altered entries are not in it, nor is
// anything that overlaps a foreign entry. known spares it work.
func (p *Planner) soundSubset(old *flow.Table, entries []*flow.Entry, foreign []flow.Entry, known proof, sides ...side) []*flow.Entry {
	s := survey{Planner: p, old: old, sides: sides, proof: known}
	proved := holding(known.entries)
	there := make(map[flow.EntryID]bool, len(proved))
	var strangers []*flow.Entry
	for _, e := range entries {
		if k := proved[e.ID]; k != nil && k.Equal(e) {
			there[e.ID] = true
		} else if genuine(e) {
			strangers = append(strangers, e)
		}
	}
	slices.SortFunc(strangers, highestFirst)
	for _, e := range known.entries {
		for len(strangers) > 0 && highestFirst(strangers[0], e) < 0 {
			s.consider(strangers[0], foreign, false)
			strangers = strangers[1:]
		}
		if there[e.ID] {
			s.consider(e, foreign, true)
		} else {
			s.missing = append(s.missing, e)
		}
	}
	for _, e := range strangers {
		s.consider(e, foreign, false)
	}
	for _, m := range s.held {
		m.held, m.top = nil, 0
	}
	return s.kept
}

// consider keeps e, the next highest entry, if it is sound.
func (s *survey) consider(e *flow.Entry, foreign []flow.Entry, proved bool) {
	sound := meetsForeign(&e.Match, foreign) == nil
	if sound && !e.Punt() && !(proved && s.untouched(e)) {
		s.note()
		sound = !slices.ContainsFunc(s.sides, func(at side) bool { return !s.sound(e, at) })
	}
	if sound {
		s.kept = append(s.kept, e)
	} else if proved {
		s.missing = append(s.missing, e)
	}
}

// manyMissing is how many missing entries untouched looks at before it gives up.
const manyMissing = 64

// untouched reports that nothing has changed that a proved entry relies on.
func (s *survey) untouched(e *flow.Entry) bool {
	m := s.rule(e.Rule, after)
	if m == nil || len(s.missing) > manyMissing {
		return false
	}
	if s.proof.at == before {
		if m.place[before] < 0 {
			return false
		}
		for _, q := range s.fresh {
			if q.place[after] < m.place[after] && q.rule.Match.Overlaps(&e.Match) {
				return false
			}
		}
	}
	for _, d := range s.missing {
		if d.Priority <= e.Priority {
			continue
		}
		if d.Match.Overlaps(&e.Match) {
			return false
		}
		if q := s.rule(d.Rule, s.proof.at); q == nil || d.Priority != stationGuard && q.rule.Match.Overlaps(&e.Match) {
			return false
		}
	}
	return true
}

// rule returns the member with this ID in the table on a side, nil if it has none.
func (s *survey) rule(id flow.RuleID, at side) *member {
	t, members := s.table, s.members
	if at == before {
		t, members = s.old, s.was
	}
	if i, ok := t.Index(id); ok {
		return members[i]
	}
	return nil
}

// note puts what is kept so far into member.held.
func (s *survey) note() {
	for ; s.noted < len(s.kept); s.noted++ {
		e := s.kept[s.noted]
		var last *member
		for _, at := range s.sides {
			m := s.rule(e.Rule, at)
			if m == nil || m == last {
				continue
			}
			if len(m.held) == 0 {
				s.held = append(s.held, m)
			}
			m.held = append(m.held, e)
			if e.Match.Covers(&m.rule.Match) {
				m.top = max(m.top, e.Priority)
			}
			last = m
		}
		if e.Punt() {
			if s.guards == nil {
				s.guards = map[flow.Match]uint64{}
			}
			s.guards[e.Match] = max(s.guards[e.Match], e.Priority)
		}
	}
}

// sound reports whether e is sound for the table on a side above nothing but what is
// kept.
func (s *survey) sound(e *flow.Entry, at side) bool {
	m := s.rule(e.Rule, at)
	if m == nil {
		return false
	}
	says := m.rule
	if was := s.stays[e.Rule]; was != nil {
		says = was // before and after: what it may go on saying
	}
	if !m.rule.Match.Covers(&e.Match) || !s.says(says, e, at) {
		return false
	}
	with := part{e.Match, s.kindsOf(&e.Match)}
	return s.index.each(&e.Match, at, m.place[at], func(q *member) bool {
		taken := s.model.Order == device.Honoured && (q.top > e.Priority || s.takes(q, e))
		return taken || !s.matters(q, &with)
	})
}

// says reports whether e's actions are what r does to e's packets.
func (s *survey) says(r *flow.Rule, e *flow.Entry, at side) bool {
	normal, retags := switches(r.Actions)
	if !normal {
		return e.Actions.Equal(r.Actions)
	}
	station := pinned(flow.Station{VLAN: uint16(e.Match.Value.Get(flow.VLAN) & flow.TagID), MAC: e.Match.Value.Get(flow.DstMAC)})
	port, known := s.pinned[at][station]
	if retags || !known || !station.Covers(&e.Match) || !e.Actions.Equal(resolved(r.Actions, port)) {
		return false
	}
	if !mayComeFrom(&e.Match, port) {
		return true
	}
	back := fromPort(station, port)
	return s.model.Order == device.Honoured && s.guards[s.model.Widen(&back)] > e.Priority
}

// takes reports whether the kept entries of rule q above e take every packet of q
// that e could answer, although none of them takes all of q.
func (s *survey) takes(q *member, e *flow.Entry) bool {
	above := func(part *flow.Match) bool {
		return slices.ContainsFunc(q.held, func(g *flow.Entry) bool { return g.Priority > e.Priority && g.Match.Covers(part) })
	}
	if len(q.held) == 0 || above(&e.Match) {
		return len(q.held) > 0
	}
	split := s.model.Split(&q.rule.Match)
	return len(split) > 1 && !slices.ContainsFunc(split, func(part flow.Match) bool { return !above(&part) })
}

// meetsForeign returns a foreign entry that overlaps match, or nil.
func meetsForeign(match *flow.Match, foreign []flow.Entry) *flow.Entry {
	for i := range foreign {
		if foreign[i].Match.Overlaps(match) {
			return &foreign[i]
		}
	}
	return nil
}
