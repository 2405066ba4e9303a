package offload

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// side tells the two tables of a change apart.
type side int

const (
	before side = iota // the table in force
	after              // the one wanted
)

// member is one rule of a table as a planner knows it, with what follows from the
// rule, the model and the switch and was asked before. All of it can be forgotten
// and found again; nothing of it depends on heat or on what is installed.
type member struct {
	rule  *flow.Rule
	place [2]int32 // in either table; -1 if it is not in it
	known *kinds   // see kinds; nil until it is asked for

	units   []*unit // as far as they were asked for
	station int     // how many stations they are for

	covered   bool // cover is known
	cover     *member
	guard     *slot // made when it is needed
	guardless *device.Refusal

	// Of the placement under way.
	whole   bool  // its entries take all of its packets
	guarded *slot // its guard, nil if it has none

	// Of the search for what may stay installed.
	held []*flow.Entry // its entries
	top  uint64        // the highest priority of one that takes all of it
}

// slot is an entry that is or was in a plan: sealed once.
type slot struct {
	flow.Entry
	mask, level int32 // numbers of its mask and its priority, see Planner
	in          bool  // it is in the placement under way
	listed      bool  // it is in Planner.sorted
}

// unit is entries of one rule that go in together or not at all.
type unit struct {
	match   flow.Match // what it takes of the rule
	actions flow.Actions
	whole   bool  // it takes all packets of its rule
	station *slot // a guard it needs besides those of earlier rules

	parts   []part // match as the device takes it
	refusal *device.Refusal
	asked   bool
	asks    []*member // the rules asked before it in whose packets it could answer, in order; valid iff asked
	rules   []*slot   // its entries if it relies on others
	pieces  []*slot   // and if it does not
}

// part is a match with its kinds.
type part struct {
	flow.Match
	kinds
}

// kinds is what [flow.Match.Kinds] says of a match, and whether the device answers
// none of its packets whatever it holds.
type kinds struct {
	set    flow.Kinds
	plain  bool
	missed bool
}

// kindsOf returns the kinds of m.
func (p *Planner) kindsOf(m *flow.Match) kinds {
	set, plain := m.Kinds()
	k := kinds{set: set, plain: plain, missed: slices.ContainsFunc(p.model.Missed, func(none flow.Match) bool { return none.Covers(m) })}
	if !plain {
		_, some := flow.Shared(m)
		k.missed = k.missed || !some
	}
	k.missed = k.missed || set == 0
	return k
}

// kinds returns the kinds of m's rule.
func (p *Planner) kinds(m *member) kinds {
	if m.known == nil {
		k := p.kindsOf(&m.rule.Match)
		m.known = &k
	}
	return *m.known
}

// matters reports whether the device could answer some packet of q with an entry for
// a part.
func (p *Planner) matters(q *member, with *part) bool {
	if !q.rule.Match.Overlaps(&with.Match) || with.missed {
		return false
	}
	k := p.kinds(q)
	if k.missed || k.plain && with.plain {
		return !k.missed && k.set&with.set != 0
	}
	_, ok := flow.Shared(&q.rule.Match, &with.Match)
	return ok
}

// unit returns the k-th way in which m's rule, or some of it, can be in the device;
// nil if there are not so many. Rules that end in normal have one or more for every
// station they match, so they are made as they are asked for.
func (p *Planner) unit(m *member, k int) *unit {
	normal, retags := switches(m.rule.Actions)
	most := 1
	if normal {
		most = len(p.stations)
	}
	if retags && normal || p.kinds(m).missed {
		return nil
	}
	for ; k >= len(m.units) && m.station < most; m.station++ {
		if normal {
			m.units = append(m.units, p.stationUnits(m.rule, p.stations[m.station])...)
		} else {
			m.units = append(m.units, p.newUnit(m.rule, m.rule.Match, m.rule.Actions, nil))
		}
	}
	if k < len(m.units) {
		return m.units[k]
	}
	return nil
}

// rest returns why software keeps what no unit of m takes; nil if nothing is left.
func (p *Planner) rest(m *member) *device.Refusal {
	normal, retags := switches(m.rule.Actions)
	switch {
	case p.kinds(m).missed:
		return &device.Refusal{Code: "E_MISSED", Reason: p.model.Name + " answers none of these packets", Fix: "none: they always reach software"}
	case normal && retags:
		return &device.Refusal{Code: "E_NORMAL_RETAGGED", Reason: "normal after a VLAN action looks up another VLAN than was matched",
			Fix: "end the rule with output"}
	case normal:
		return &device.Refusal{Code: "E_NORMAL_UNKNOWN_STATION", Reason: "normal to unknown and group addresses needs the whole switch",
			Fix: "match the destination MAC and VLAN of a known station"}
	}
	return nil
}

// newUnit returns the entries that answer match, which lies in rule r, with actions.
func (p *Planner) newUnit(r *flow.Rule, match flow.Match, actions flow.Actions, station *slot) *unit {
	u := &unit{match: match, actions: actions, whole: match == r.Match, station: station}
	for _, m := range p.model.Split(&match) {
		if err := p.model.Admit(&m, actions, flow.RuleEntry); err != nil {
			return &unit{refusal: err.(*device.Refusal)}
		}
		u.parts = append(u.parts, part{m, p.kindsOf(&m)})
	}
	return u
}

// stationUnits returns how rule r, which ends in normal, can answer for a station.
func (p *Planner) stationUnits(r *flow.Rule, st flow.Station) []*unit {
	pins := pinned(st)
	m, ok := meet(&r.Match, &pins)
	if !ok || !p.model.Has(st.Port) || p.kindsOf(&m).missed {
		return nil
	}
	actions, back := resolved(r.Actions, st.Port), fromPort(pins, st.Port)
	switch {
	case !mayComeFrom(&m, st.Port):
		return []*unit{p.newUnit(r, m, actions, nil)}
	case m.Mask.Get(flow.InPort) == flow.InPort.Max():
		return nil // all of it came from there: nothing is delivered
	case p.model.Punt && p.model.Order == device.Honoured:
		return []*unit{p.newUnit(r, m, actions, p.stationGuard(p.model.Widen(&back)))}
	}
	var units []*unit
	for _, in := range p.ports {
		if in != st.Port && p.model.Has(in) && mayComeFrom(&m, in) {
			units = append(units, p.newUnit(r, fromPort(m, in), actions, nil))
		}
	}
	return units
}

// stationGuard returns the guard that punts what a station sends to itself: one for
// all units.
func (p *Planner) stationGuard(match flow.Match) *slot {
	s := p.byStation[match]
	if s == nil {
		s = p.seal(flow.Entry{Kind: flow.GuardEntry, Rule: flow.DefaultRule, Priority: stationGuard, Match: match})
		p.byStation[match] = s
	}
	return s
}

// guardOf returns m's guard, or why the device cannot hold it.
func (p *Planner) guardOf(m *member) (*slot, *device.Refusal) {
	if m.guard == nil && m.guardless == nil {
		match := p.model.Widen(&m.rule.Match)
		if err := p.model.Admit(&match, nil, flow.GuardEntry); err != nil {
			why := err.(*device.Refusal)
			m.guardless = &device.Refusal{Code: why.Code, Reason: fmt.Sprintf("rule %s is asked before it, in software: %s", m.rule.Name, why.Reason), Fix: why.Fix}
		} else {
			m.guard = p.seal(flow.Entry{Kind: flow.GuardEntry, Rule: m.rule.ID, Priority: guardLevel(m.rule), Match: match})
		}
	}
	return m.guard, m.guardless
}

// entries returns u's entries: of a rule, or pieces if u relies on nothing above.
func (p *Planner) entries(m *member, u *unit, pieces bool) []*slot {
	made, e := &u.rules, flow.Entry{Kind: flow.RuleEntry, Rule: m.rule.ID, Priority: ruleLevel(m.rule), Actions: u.actions}
	if pieces {
		made, e.Kind, e.Priority = &u.pieces, flow.PieceEntry, pieceLevel
	}
	if *made == nil {
		for _, part := range u.parts {
			e.Match = part.Match
			*made = append(*made, p.seal(e))
		}
	}
	return *made
}

// seal makes a slot of e.
func (p *Planner) seal(e flow.Entry) *slot {
	return &slot{Entry: sealed(e), mask: number(p.masks, device.MaskOf(&e.Match)), level: number(p.levels, e.Priority)}
}

// number returns the number of x, a new one if it has none.
func number[T comparable](numbers map[T]int32, x T) int32 {
	n, known := numbers[x]
	if !known {
		n = int32(len(numbers))
		numbers[x] = n
	}
	return n
}

// most bounds how many references from rules to earlier ones a planner keeps: 128 MB.
// Sets with more are asked for them each time.
const most = 16 << 20

// asksOf returns the rules in the wanted table that are asked before u, of m's rule,
// and in whose packets the device could answer with u, in order.
func (p *Planner) asksOf(m *member, u *unit) []*member {
	if u.asked {
		return u.asks
	}
	asks := p.scratch[:0]
	for i := range u.parts {
		with := &u.parts[i]
		p.index.each(&with.Match, func(q *member) bool {
			if at := q.place[after]; at >= 0 && at < m.place[after] && p.matters(q, with) {
				asks = append(asks, q)
			}
			return true
		})
	}
	slices.SortFunc(asks, inOrder)
	if len(u.parts) > 1 {
		asks = slices.Compact(asks)
	}
	p.scratch = asks
	if p.kept += len(asks); p.kept <= most {
		u.asked, u.asks = true, slices.Clone(asks)
	}
	return asks
}

func inOrder(a, b *member) int { return int(a.place[after] - b.place[after]) }

// coverOf returns the first of the earlier rules that take all packets of m, so that
// it is never asked; nil if there is none.
func (p *Planner) coverOf(m *member) *member {
	if !m.covered {
		m.covered, m.cover = true, p.index.covering(&m.rule.Match, after, m.place[after])
	}
	return m.cover
}
