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
// and found again; nothing of it depends on traffic or on what is installed.
type member struct {
	// What is looked at of each rule that is asked before another: one cache line.
	rule      *flow.Rule
	place     [2]int32        // in either table; -1 if it is not in it
	level     uint64          // of its guard
	known     kinds           // valid iff asked
	widened   *flow.Match     // what its guard matches, if that is more than the rule; valid iff guarded
	guardless *device.Refusal // why the device cannot hold one; valid iff guarded
	asked     bool
	guarded   bool
	covered   bool  // cover is known
	whole     bool  // in the placement under way: its entries take all of its packets
	needed    int32 // in the same: units placed that could answer its packets. It needs a guard if it is not whole

	ways   [][]*unit // by station, or one for all: as far as they were asked for
	cover  *member
	guard  *slot  // made when it is needed
	wanted []*bid // in the placement under way: that lack its guard

	// Of the search for what may stay installed.
	held []*flow.Entry // its entries
	top  uint64        // the highest priority of one that takes all of it
}

// slot is an entry that is or was in a plan: sealed once.
type slot struct {
	flow.Entry
	tally        // what it takes besides room
	in     bool  // it is in the placement under way
	listed bool  // it is in Planner.sorted
	needed int32 // of a station's guard: units placed that need it
}

// unit is entries of one rule that go in together or not at all.
type unit struct {
	nr      int        // which of its rule's it is
	match   flow.Match // what it takes of the rule
	actions flow.Actions
	whole   bool  // it takes all packets of its rule
	station *slot // a guard it needs besides those of earlier rules

	parts   []part // match as the device takes it
	refusal *device.Refusal
	crowded int // it asks more earlier rules than so many; 0 if that was never found
	asked   bool
	asks    []*member // the rules asked before it in whose packets it could answer, in order; valid iff asked
	rules   []*slot   // its entries if it relies on others
	pieces  []*slot   // and if it does not
	bid     *bid      // in the placement under way, or an old one
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
	if !m.asked {
		m.known, m.asked = p.kindsOf(&m.rule.Match), true
	}
	return m.known
}

// matters reports whether the device could answer some packet of q, whose match a part
// overlaps, with an entry for that.
func (p *Planner) matters(q *member, with *part) bool {
	k := p.kinds(q)
	if with.missed || k.missed || k.plain && with.plain {
		return !with.missed && !k.missed && k.set&with.set != 0
	}
	_, ok := flow.Shared(&q.rule.Match, &with.Match)
	return ok
}

// ways returns how many lists of units m has: one for each station if its rule ends
// in normal.
func (p *Planner) ways(m *member) int {
	normal, retags := switches(m.rule.Actions)
	switch {
	case retags && normal || p.kinds(m).missed:
		return 0
	case normal:
		return len(p.stations)
	}
	return 1
}

// units returns the ways in which m's rule, or what it does for the k-th station, can
// be in the device.
func (p *Planner) units(m *member, k int) []*unit {
	if len(m.ways) <= k {
		m.ways = append(m.ways, make([][]*unit, k+1-len(m.ways))...)
	}
	if m.ways[k] == nil {
		if normal, _ := switches(m.rule.Actions); normal {
			m.ways[k] = p.stationUnits(m.rule, p.stations[k])
		} else {
			m.ways[k] = []*unit{p.newUnit(m.rule, m.rule.Match, m.rule.Actions, nil)}
		}
		for i, u := range m.ways[k] {
			u.nr = k<<16 | i
		}
	}
	return m.ways[k]
}

// rest returns why software keeps what no unit of m takes; nil if nothing is left.
func (p *Planner) rest(m *member) *device.Refusal {
	normal, retags := switches(m.rule.Actions)
	switch {
	case p.kinds(m).missed:
		return &device.Refusal{Code: "E_MISSED", Reason: p.model.Name + " answers none of these packets", Fix: "none: they always reach software"}
	case normal && retags:
		return &device.Refusal{Code: "E_NORMAL_RETAGGED", Reason: "normal after an action on the VLAN or the destination MAC looks up another station than was matched",
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
			u.refusal, u.parts = err.(*device.Refusal), nil
			break
		}
		u.parts = append(u.parts, part{Match: m})
	}
	return u
}

// stationUnits returns how rule r, which ends in normal, can answer for a station.
func (p *Planner) stationUnits(r *flow.Rule, st flow.Station) []*unit {
	pins := pinned(st)
	m, ok := meet(&r.Match, &pins)
	if !ok || !p.model.Has(st.Port) || p.kindsOf(&m).missed {
		return []*unit{}
	}
	actions, back := resolved(r.Actions, st.Port), fromPort(pins, st.Port)
	switch {
	case !mayComeFrom(&m, st.Port):
		return []*unit{p.newUnit(r, m, actions, nil)}
	case m.Mask.Get(flow.InPort) == flow.InPort.Max():
		return []*unit{} // all of it came from there: nothing is delivered
	}
	if guard := p.model.Widen(&back); p.model.Order == device.Honoured && p.model.Admit(&guard, nil, flow.GuardEntry) == nil {
		return []*unit{p.newUnit(r, m, actions, p.stationGuard(guard))}
	}
	units := []*unit{}
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

// guardOf returns why the device cannot hold m's guard, nil if it can.
func (p *Planner) guardOf(m *member) *device.Refusal {
	if m.guarded {
		return m.guardless
	}
	m.guarded = true
	err := p.model.Admit(&m.rule.Match, nil, flow.GuardEntry)
	if err == nil {
		return nil
	}
	match := p.model.Widen(&m.rule.Match)
	if err = p.model.Admit(&match, nil, flow.GuardEntry); err == nil {
		m.widened = &match
		return nil
	}
	why := err.(*device.Refusal)
	m.guardless = &device.Refusal{Code: why.Code, Reason: fmt.Sprintf("rule %s is asked before it, in software: %s", m.rule.Name, why.Reason), Fix: why.Fix}
	return m.guardless
}

// guards returns what m's guard matches, which the device can hold.
func (m *member) guards() *flow.Match {
	if m.widened != nil {
		return m.widened
	}
	return &m.rule.Match
}

// guardSlot returns m's guard, which the device can hold.
func (p *Planner) guardSlot(m *member) *slot {
	if m.guard == nil {
		m.guard = p.seal(flow.Entry{Kind: flow.GuardEntry, Rule: m.rule.ID, Priority: m.level, Match: *m.guards()})
	}
	return m.guard
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
	return &slot{Entry: sealed(e), tally: p.tallyOf(&e)}
}

// mostKept bounds how many references from rules to earlier ones a planner keeps: 128 MB.
// Sets with more are asked for them each time.
const mostKept = 16 << 20

// crowded is how many earlier rules a unit may ask at most where a device has less room
// than there are rules. Each needs an entry or a guard, so what asks more than there is
// room for is hopeless, and nobody has to know which rules these are.
const crowded = 4096

// asksOf returns the rules in the wanted table that are asked before u, of m's rule,
// and in whose packets the device could answer with u, in order. ok is false if there
// are more than is worth knowing. A unit that the device cannot hold is asked about as
// if it could.
func (p *Planner) asksOf(m *member, u *unit) (asks []*member, ok bool) {
	return p.asksUpTo(m, u, p.mostAsks)
}

// asksUpTo is asksOf for who wants to know no more rules than so many.
func (p *Planner) asksUpTo(m *member, u *unit, most int) (asks []*member, ok bool) {
	if u.asked {
		return u.asks, len(u.asks) <= most
	}
	if u.crowded >= most && u.crowded > 0 {
		return nil, false
	}
	places := p.scratch[:0]
	for _, with := range p.partsOf(u) {
		others := len(places) // of other parts, which may ask the same
		within := p.index.each(&with.Match, after, m.place[after], func(q *member) bool {
			if p.matters(q, with) {
				places = append(places, q.place[after])
			}
			return len(places)-others <= most
		})
		if !within {
			u.crowded = most
			return nil, false
		}
	}
	p.scratch = places
	slices.Sort(places)
	places = slices.Compact(places)
	asks = make([]*member, len(places))
	for i, at := range places {
		asks[i] = p.members[at]
	}
	if p.kept += len(asks); p.kept <= mostKept {
		u.asked, u.asks = true, asks
	}
	return asks, len(asks) <= most // of several parts together
}

// asksNear returns the rules asked before m's that meet box, in order.
func (p *Planner) asksNear(m *member, box *flow.Match) []*member {
	with := part{*box, p.kindsOf(box)}
	places := p.scratch[:0]
	p.index.each(box, after, m.place[after], func(q *member) bool {
		if p.matters(q, &with) {
			places = append(places, q.place[after])
		}
		return true
	})
	p.scratch = places
	slices.Sort(places)
	asks := p.nearby[:0]
	for _, at := range places {
		asks = append(asks, p.members[at])
	}
	p.nearby = asks
	return asks
}

// partsOf returns u's parts with their kinds, or its match if it has none.
func (p *Planner) partsOf(u *unit) []*part {
	if len(u.parts) == 0 {
		return []*part{{u.match, p.kindsOf(&u.match)}}
	}
	out := make([]*part, len(u.parts))
	for i := range u.parts {
		out[i] = &u.parts[i]
		if u.parts[i].kinds == (kinds{}) {
			u.parts[i].kinds = p.kindsOf(&u.parts[i].Match)
		}
	}
	return out
}

func inOrder(a, b *member) int { return int(a.place[after] - b.place[after]) }

func wasInOrder(a, b *member) int { return int(a.place[before] - b.place[before]) }

// coverOf returns the first of the earlier rules that take all packets of m, so that
// it is never asked; nil if there is none.
func (p *Planner) coverOf(m *member) *member {
	if !m.covered {
		m.covered, m.cover = true, p.index.covering(&m.rule.Match, after, m.place[after])
	}
	return m.cover
}
