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

// view is a table with what is needed to ask for soundness.
type view struct {
	t        *flow.Table
	index    *index
	stations map[flow.Match]flow.Port // by what they pin
}

func newView(t *flow.Table) *view {
	v := &view{t: t, index: newIndex(t), stations: map[flow.Match]flow.Port{}}
	for _, st := range stations(t.Switch()) {
		v.stations[pinned(st)] = st.Port
	}
	return v
}

// holding is a set of entries, indexed for the question what takes which packets of
// the rules of one view.
type holding struct {
	*view
	byRule map[flow.RuleID][]*flow.Entry
	guards map[flow.Match]uint64 // the highest priority of a guard with this match
	whole  []uint64              // by table index: the highest priority of an entry that takes all of the rule
}

func newHolding(v *view) *holding {
	return &holding{v, map[flow.RuleID][]*flow.Entry{}, map[flow.Match]uint64{}, make([]uint64, v.t.Len()+1)}
}

func (h *holding) add(e *flow.Entry) {
	h.byRule[e.Rule] = append(h.byRule[e.Rule], e)
	if e.Punt() {
		h.guards[e.Match] = max(h.guards[e.Match], e.Priority)
	}
	if i, there := h.t.Index(e.Rule); there && e.Match.Covers(&h.t.Rule(i).Match) {
		h.whole[i] = max(h.whole[i], e.Priority)
	}
}

// soundSubset returns the greatest subset of entries that is sound for every view,
// in the order given by highestFirst. Foreign and altered entries are not in it,
// nor is anything that overlaps a foreign entry.
func soundSubset(entries, foreign []flow.Entry, m *device.Model, views ...*view) []flow.Entry {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, highestFirst)
	var holds []*holding
	for _, v := range views {
		holds = append(holds, newHolding(v))
	}
	var kept []flow.Entry
	for i := range sorted {
		e := &sorted[i]
		if !genuine(e) || meetsForeign(&e.Match, foreign) != nil {
			continue
		}
		if slices.ContainsFunc(holds, func(h *holding) bool { return !h.sound(e, m) }) {
			continue
		}
		for _, h := range holds {
			h.add(e)
		}
		kept = append(kept, *e)
	}
	return kept
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

// sound reports whether e is sound for h's table above nothing but h.
func (h *holding) sound(e *flow.Entry, m *device.Model) bool {
	if e.Punt() {
		return true
	}
	i, there := h.t.Index(e.Rule)
	if !there {
		return false
	}
	r := h.t.Rule(i)
	if !r.Match.Covers(&e.Match) || !h.says(r, e, m) {
		return false
	}
	for q := range h.index.overlapping(&e.Match, i) {
		taken := m.Order == device.Honoured && (h.whole[q] > e.Priority || h.takes(h.t.Rule(int(q)), e, m))
		if !taken && answerable(m, &h.t.Rule(int(q)).Match, &e.Match) {
			return false
		}
	}
	return true
}

// says reports whether e's actions are what r does to e's packets.
func (h *holding) says(r *flow.Rule, e *flow.Entry, m *device.Model) bool {
	normal, retags := switches(r.Actions)
	if !normal {
		return e.Actions.Equal(r.Actions)
	}
	station := pinned(flow.Station{VLAN: uint16(e.Match.Value.Get(flow.VLAN) & flow.TagID), MAC: e.Match.Value.Get(flow.DstMAC)})
	port, known := h.stations[station]
	if retags || !known || !station.Covers(&e.Match) || !e.Actions.Equal(resolved(r.Actions, port)) {
		return false
	}
	if !mayComeFrom(&e.Match, port) {
		return true
	}
	guard := m.Widen(ref(fromPort(station, port)))
	return m.Order == device.Honoured && h.guards[guard] > e.Priority
}

// takes reports whether the entries of rule q in h, above e, take every packet of q
// that e could answer, although none of them takes all of q.
func (h *holding) takes(q *flow.Rule, e *flow.Entry, m *device.Model) bool {
	own := h.byRule[q.ID]
	above := func(part *flow.Match) bool {
		return slices.ContainsFunc(own, func(g *flow.Entry) bool { return g.Priority > e.Priority && g.Match.Covers(part) })
	}
	if len(own) == 0 || above(&e.Match) {
		return len(own) > 0
	}
	split := m.Split(&q.Match)
	return len(split) > 1 && !slices.ContainsFunc(split, func(part flow.Match) bool { return !above(&part) })
}

// answerable reports whether the device could answer some packet of both a and b.
func answerable(m *device.Model, a, b *flow.Match) bool {
	for i := range m.Missed {
		if m.Missed[i].Covers(a) || m.Missed[i].Covers(b) {
			return false
		}
	}
	_, ok := flow.Shared(a, b)
	return ok
}

func ref(m flow.Match) *flow.Match { return &m }
