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

// holding is a set of entries, indexed for the question what takes which packets.
type holding struct {
	byRule map[flow.RuleID][]*flow.Entry
	guards map[flow.Match]uint64 // the highest priority of a guard with this match
}

func (h *holding) add(e *flow.Entry) {
	h.byRule[e.Rule] = append(h.byRule[e.Rule], e)
	if e.Punt() {
		h.guards[e.Match] = max(h.guards[e.Match], e.Priority)
	}
}

// soundSubset returns the greatest subset of entries that is sound for every view,
// in the order given by highestFirst. Foreign and altered entries are not in it,
// nor is anything that overlaps a foreign entry.
func soundSubset(entries, foreign []flow.Entry, m *device.Model, views ...*view) []flow.Entry {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, highestFirst)
	h := &holding{byRule: map[flow.RuleID][]*flow.Entry{}, guards: map[flow.Match]uint64{}}
	var kept []flow.Entry
	for i := range sorted {
		e := &sorted[i]
		if !genuine(e) || meetsForeign(&e.Match, foreign) != nil {
			continue
		}
		if slices.ContainsFunc(views, func(v *view) bool { return !v.sound(e, h, m) }) {
			continue
		}
		h.add(e)
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

// sound reports whether e is sound for v's table above nothing but h.
func (v *view) sound(e *flow.Entry, h *holding, m *device.Model) bool {
	if e.Punt() {
		return true
	}
	i, there := v.t.Index(e.Rule)
	if !there {
		return false
	}
	r := v.t.Rule(i)
	if !r.Match.Covers(&e.Match) || !v.says(r, e, h, m) {
		return false
	}
	for q := range v.index.overlapping(&e.Match, i) {
		earlier := v.t.Rule(int(q))
		if !(m.Order == device.Honoured && h.takes(earlier, e, m)) && answerable(m, &earlier.Match, &e.Match) {
			return false
		}
	}
	return true
}

// says reports whether e's actions are what r does to e's packets.
func (v *view) says(r *flow.Rule, e *flow.Entry, h *holding, m *device.Model) bool {
	normal, retags := switches(r.Actions)
	if !normal {
		return e.Actions.Equal(r.Actions)
	}
	station := pinned(flow.Station{VLAN: uint16(e.Match.Value.Get(flow.VLAN) & flow.TagID), MAC: e.Match.Value.Get(flow.DstMAC)})
	port, known := v.stations[station]
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
// that e could answer.
func (h *holding) takes(q *flow.Rule, e *flow.Entry, m *device.Model) bool {
	own := h.byRule[q.ID]
	if slices.ContainsFunc(own, func(g *flow.Entry) bool {
		return g.Priority > e.Priority && (g.Match.Covers(&q.Match) || g.Match.Covers(&e.Match))
	}) {
		return true
	}
	split := m.Split(&q.Match)
	return len(split) > 1 && !slices.ContainsFunc(split, func(part flow.Match) bool {
		return !slices.ContainsFunc(own, func(g *flow.Entry) bool {
			return g.Priority > e.Priority && g.Match.Covers(&part)
		})
	})
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
