package offload

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Which rules go into a device? (CacheFlow, SOSR 2016, calls this the cover set.)
//
// Problem: an entry answers before software does. If rule Q is asked before rule R
// and they share a packet, R's entry may only be there if Q's packets are taken by
// something above it: Q's own entries, or a guard that punts them. A guard costs an
// entry and earns nothing.
//
// Idea: go through the rules from the hottest to the coldest and place each whole,
// with the guards it still needs, if all of that fits. A guard of Q is Q's match, so
// one serves every rule below; when Q itself is placed later, its guard goes.
//
// Invariant: after each placement the target is a set in which every entry is sound
// (see sound.go). Placing Q never breaks R: Q's entries take exactly what its guard
// took, at a higher priority. Nothing depends on which rules come later.
//
// An entry counts packets for its rule alone, so earlier rules with the same actions
// need guards too: the price is a few tenths of a point of hit rate, and per-rule
// counters add up.
//
// Measured (BenchmarkPlan, one of two shared cores, generated sets, Zipf 1.0):
// 1,000 rules 4 ms, 10,000 rules 40-50 ms with room for 10 % of them; 10,000 rules
// with room for all 0.2-0.5 s, and 0.3-0.8 s when 20,000 entries are installed.
//
// What was left for later: choosing by packets per entry instead of packets,
// narrower guards, dropping guards that others make superfluous, pieces of rules
// that are too wide, and keeping an entry that is nearly as hot as its rival.

// Heat is how many packets each rule has seen of late: what placement maximises.
// The default counts under [flow.DefaultRule]. Nil ranks rules by table order.
type Heat map[flow.RuleID]uint64

// Placement says where one rule is and why.
type Placement struct {
	Rule    flow.RuleID
	Name    string
	Entries []flow.EntryID // its own entries, guards left out; empty if it is in software
	// Code, Reason and Fix say why software answers the rule, or the rest of it if
	// there are entries. All are empty iff the device can answer all of its packets.
	Code, Reason, Fix string
}

// Whole reports whether software has nothing left to answer of the rule, packets
// that the device always misses aside.
func (p *Placement) Whole() bool { return p.Code == "" }

// placer is the state of one greedy placement.
type placer struct {
	view    *view
	model   *device.Model
	foreign []flow.Entry
	banned  map[flow.EntryID]device.Refusal // entries that checker or device refused

	room       int // entries that still fit; -1 means any number
	masks      map[device.Mask]int
	priorities map[uint64]int
	target     map[flow.EntryID]flow.Entry
	whole      []bool         // by table index: its entries take all of its packets
	guard      []flow.EntryID // by table index: its guard, 0 if it has none
	placements []Placement
	ports      []flow.Port
	stations   []flow.Station
	earlier    []int32 // the rules before the one being placed that overlap it; nil if not known
}

// place fills a target for want and says of every rule, the default last, what
// became of it.
func place(v *view, m *device.Model, foreign []flow.Entry, heat Heat, banned map[flow.EntryID]device.Refusal) *placer {
	n := v.t.Len() + 1
	p := &placer{view: v, model: m, foreign: foreign, banned: banned, room: -1,
		masks: map[device.Mask]int{}, priorities: map[uint64]int{}, target: map[flow.EntryID]flow.Entry{},
		whole: make([]bool, n), guard: make([]flow.EntryID, n), placements: make([]Placement, n), ports: ports(v.t), stations: stations(v.t.Switch())}
	if m.Entries > 0 {
		p.room = max(0, m.Entries-len(foreign))
	}
	for i := range foreign {
		p.masks[device.MaskOf(&foreign[i].Match)]++
		p.priorities[foreign[i].Priority]++
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(heat[v.t.Rule(b).ID], heat[v.t.Rule(a).ID])
	})
	for _, i := range order {
		r := v.t.Rule(i)
		p.placements[i] = Placement{Rule: r.ID, Name: r.Name}
		p.placeRule(i)
	}
	return p
}

// unit is entries of one rule that go in together or not at all.
type unit struct {
	entries []flow.Entry // not sealed
	station *flow.Entry  // a guard it needs besides those of earlier rules
	whole   bool         // it takes all packets of its rule
}

// placeRule tries the rule at table index i and records what became of it.
func (p *placer) placeRule(i int) {
	pl := &p.placements[i]
	refuse := func(r *device.Refusal) {
		if pl.Code == "" {
			pl.Code, pl.Reason, pl.Fix = r.Code, r.Reason, r.Fix
		}
	}
	units, rest := p.units(i)
	p.earlier = nil
	for u := range units {
		if r := p.placeUnit(i, u); r != nil {
			refuse(r)
			if r.Code == CodeFull {
				break
			}
		}
	}
	if rest != nil && !p.whole[i] {
		refuse(rest)
	}
}

// units returns the ways in which rule i can be in the device, and why software
// keeps the rest of it; nil if there is no rest.
func (p *placer) units(i int) (iter.Seq[unit], *device.Refusal) {
	r := p.view.t.Rule(i)
	none := func(func(unit) bool) {}
	if !answerable(p.model, &r.Match, &r.Match) {
		return none, &device.Refusal{Code: "E_MISSED", Reason: p.model.Name + " answers none of these packets", Fix: "none: they always reach software"}
	}
	normal, retags := switches(r.Actions)
	switch {
	case !normal:
		return func(yield func(unit) bool) { yield(p.unit(r, r.Match, r.Actions, nil)) }, nil
	case retags:
		return none, &device.Refusal{Code: "E_NORMAL_RETAGGED", Reason: "normal after a VLAN action looks up another VLAN than was matched",
			Fix: "end the rule with output"}
	}
	return func(yield func(unit) bool) {
			for _, st := range p.stations {
				for _, u := range p.stationUnits(r, st) {
					if !yield(u) {
						return
					}
				}
			}
		}, &device.Refusal{Code: "E_NORMAL_UNKNOWN_STATION", Reason: "normal to unknown and group addresses needs the whole switch",
			Fix: "match the destination MAC and VLAN of a known station"}
}

// unit returns the entries that answer m, which lies in rule r, with actions.
func (p *placer) unit(r *flow.Rule, m flow.Match, actions flow.Actions, guard *flow.Entry) unit {
	u := unit{station: guard, whole: m == r.Match}
	for _, part := range p.model.Split(&m) {
		u.entries = append(u.entries, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: ruleLevel(r), Match: part, Actions: actions})
	}
	return u
}

// stationUnits returns how rule r, which ends in normal, can answer for a station.
func (p *placer) stationUnits(r *flow.Rule, st flow.Station) []unit {
	pins := pinned(st)
	m, ok := meet(&r.Match, &pins)
	if !ok || !p.model.Has(st.Port) || !answerable(p.model, &m, &m) {
		return nil
	}
	actions, back := resolved(r.Actions, st.Port), fromPort(pins, st.Port)
	switch {
	case !mayComeFrom(&m, st.Port):
		return []unit{p.unit(r, m, actions, nil)}
	case m.Mask.Get(flow.InPort) == flow.InPort.Max():
		return nil // all of it came from there: nothing is delivered
	case p.model.Punt && p.model.Order == device.Honoured:
		guard := sealed(flow.Entry{Kind: flow.GuardEntry, Rule: flow.DefaultRule, Priority: stationGuard, Match: p.model.Widen(&back)})
		return []unit{p.unit(r, m, actions, &guard)}
	}
	var units []unit
	for _, in := range p.ports {
		if in != st.Port && p.model.Has(in) && mayComeFrom(&m, in) {
			units = append(units, p.unit(r, fromPort(m, in), actions, nil))
		}
	}
	return units
}

// placeUnit puts u, of rule i, and the guards it needs into the target, or says why
// it cannot be there.
func (p *placer) placeUnit(i int, u unit) *device.Refusal {
	r := p.view.t.Rule(i)
	freed := 0
	if u.whole && p.guard[i] != 0 {
		freed = 1
	}
	for k := range u.entries {
		e := &u.entries[k]
		if err := p.model.Admit(&e.Match, e.Actions, e.Kind); err != nil {
			return err.(*device.Refusal)
		}
	}
	if p.room >= 0 && len(u.entries) > p.room+freed {
		return p.full(len(u.entries), 0)
	}
	guarded, guards, refusal := p.guardsFor(i, u)
	if refusal != nil {
		return refusal
	}
	if !guarded && !u.whole {
		for k := range u.entries {
			u.entries[k].Kind, u.entries[k].Priority = flow.PieceEntry, pieceLevel
		}
	}
	adds := append(guards, u.entries...)
	if u.station != nil && p.target[u.station.ID].ID == 0 {
		adds = append(adds, *u.station)
	}
	if p.room >= 0 && len(adds) > p.room+freed {
		return p.full(len(adds), len(guards))
	}
	for k := range adds {
		adds[k] = sealed(adds[k])
		if why, no := p.banned[adds[k].ID]; no {
			return &why
		}
		if f := meetsForeign(&adds[k].Match, p.foreign); f != nil {
			return &device.Refusal{Code: "E_FOREIGN", Reason: fmt.Sprintf("entry %016x, which is not bladeflow's, matches some of these packets", uint64(f.ID)),
				Fix: "find its owner and have it removed"}
		}
		if _, twice := p.target[adds[k].ID]; twice {
			return &device.Refusal{Code: "E_COOKIE", Reason: "another entry has the same cookie", Fix: "rename the rule " + r.Name}
		}
	}
	if refusal := p.otherLimits(adds); refusal != nil {
		return refusal
	}
	p.commit(i, u.whole, adds)
	return nil
}

func (p *placer) full(need, guards int) *device.Refusal {
	with := ""
	if guards > 0 {
		with = ", " + count(guards, "guard", "guards") + " among them"
	}
	return &device.Refusal{Code: CodeFull, Reason: fmt.Sprintf("needs %s%s, %s has room for %d", count(need, "entry", "entries"), with, p.model.Name, p.room),
		Fix: "use a device with more entries, or fewer rules that overlap this one from above"}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// guardsFor returns the guards that u needs and that are not there yet. guarded
// says whether u relies on anything above it.
func (p *placer) guardsFor(i int, u unit) (guarded bool, guards []flow.Entry, refusal *device.Refusal) {
	r := p.view.t.Rule(i)
	if p.earlier == nil {
		p.earlier = p.view.index.earlier(&r.Match, i)
	}
	var open []int32
	for _, q := range p.earlier {
		rule := p.view.t.Rule(int(q))
		if !slices.ContainsFunc(u.entries, func(e flow.Entry) bool { return e.Match.Overlaps(&rule.Match) }) {
			continue
		}
		if rule.Match.Covers(&r.Match) {
			return false, nil, &device.Refusal{Code: "E_NEVER_ASKED", Reason: fmt.Sprintf("rule %s takes all of its packets", rule.Name), Fix: "remove it, or raise its priority"}
		}
		taken := p.whole[q] || p.guard[q] != 0
		if taken && guarded && guardLevel(rule) > guardLevel(r) {
			continue // one more of what it relies on already
		}
		if taken && !p.needs(u, rule) {
			continue
		}
		if p.model.Order != device.Honoured || guardLevel(rule) == guardLevel(r) {
			if !taken && !p.needs(u, rule) {
				continue
			}
			return false, nil, p.orderRefusal(r, rule)
		}
		guarded = guarded || taken
		if !taken {
			open = append(open, q)
		}
	}
	if p.room >= 0 && len(open) > p.room {
		return false, nil, p.full(len(u.entries)+len(open), len(open))
	}
	for _, q := range open {
		rule := p.view.t.Rule(int(q))
		if !p.needs(u, rule) {
			continue
		}
		g := flow.Entry{Kind: flow.GuardEntry, Rule: rule.ID, Priority: guardLevel(rule), Match: p.model.Widen(&rule.Match)}
		if err := p.model.Admit(&g.Match, nil, flow.GuardEntry); err != nil {
			why := err.(*device.Refusal)
			return false, nil, &device.Refusal{Code: why.Code, Reason: fmt.Sprintf("rule %s is asked before it, in software: %s", rule.Name, why.Reason), Fix: why.Fix}
		}
		if slices.ContainsFunc(u.entries, func(e flow.Entry) bool { return g.Match.Covers(&e.Match) }) {
			return false, nil, &device.Refusal{Code: "E_GUARD_COVERS", Reason: fmt.Sprintf("rule %s is asked before it, in software, and its guard would punt all of this", rule.Name),
				Fix: "make " + rule.Name + " one that the device can hold, or match fewer packets with it"}
		}
		guarded = true
		guards = append(guards, g)
	}
	return guarded, guards, nil
}

// needs reports whether some packet of an earlier rule could be answered by u.
func (p *placer) needs(u unit, earlier *flow.Rule) bool {
	return slices.ContainsFunc(u.entries, func(e flow.Entry) bool {
		return e.Match.Overlaps(&earlier.Match) && answerable(p.model, &e.Match, &earlier.Match)
	})
}

func (p *placer) orderRefusal(r, earlier *flow.Rule) *device.Refusal {
	if p.model.Order != device.Honoured {
		return &device.Refusal{Code: "E_ORDER", Reason: fmt.Sprintf("rule %s is asked before it, and %s may ask entries in any order", earlier.Name, p.model.Name),
			Fix: "make the two rules disjoint, or use a device that honours priority"}
	}
	return &device.Refusal{Code: "E_ORDER", Reason: fmt.Sprintf("rule %s has the same priority and nearly the same ID", earlier.Name),
		Fix: "give " + r.Name + " a lower priority"}
}

// otherLimits returns why adds do not fit although there is room for entries.
func (p *placer) otherLimits(adds []flow.Entry) *device.Refusal {
	masks, priorities := map[device.Mask]bool{}, map[uint64]bool{}
	for k := range adds {
		if m := device.MaskOf(&adds[k].Match); p.masks[m] == 0 {
			masks[m] = true
		}
		if p.priorities[adds[k].Priority] == 0 {
			priorities[adds[k].Priority] = true
		}
	}
	if n := len(p.masks) + len(masks); p.model.Masks > 0 && n > p.model.Masks {
		return &device.Refusal{Code: CodeMask, Reason: fmt.Sprintf("makes %d distinct masks, %s has %d", n, p.model.Name, p.model.Masks),
			Fix: "match the same fields as hotter rules do"}
	}
	if n := len(p.priorities) + len(priorities); p.model.Priorities > 0 && n > p.model.Priorities {
		return &device.Refusal{Code: "E_PRIORITIES_FULL", Reason: fmt.Sprintf("makes %d distinct priorities, %s has %d", n, p.model.Name, p.model.Priorities),
			Fix: "give rules that do not overlap the same priority"}
	}
	return nil
}

// commit puts sealed entries of rule i and its guards into the target.
func (p *placer) commit(i int, whole bool, adds []flow.Entry) {
	if whole {
		p.whole[i] = true
		if g := p.guard[i]; g != 0 {
			p.drop(g)
			p.guard[i] = 0
		}
	}
	for _, e := range adds {
		p.target[e.ID] = e
		p.masks[device.MaskOf(&e.Match)]++
		p.priorities[e.Priority]++
		if p.room > 0 {
			p.room--
		}
		switch {
		case !e.Punt():
			p.placements[i].Entries = append(p.placements[i].Entries, e.ID)
		case e.Priority != stationGuard:
			q, _ := p.view.t.Index(e.Rule)
			p.guard[q] = e.ID
		}
	}
}

// drop takes an entry out of the target.
func (p *placer) drop(id flow.EntryID) {
	e := p.target[id]
	delete(p.target, id)
	if m := device.MaskOf(&e.Match); p.masks[m] == 1 {
		delete(p.masks, m)
	} else {
		p.masks[m]--
	}
	if p.priorities[e.Priority] == 1 {
		delete(p.priorities, e.Priority)
	} else {
		p.priorities[e.Priority]--
	}
	if p.room >= 0 {
		p.room++
	}
}

// entries returns the target, highest first.
func (p *placer) entries() []flow.Entry {
	out := make([]flow.Entry, 0, len(p.target))
	for _, e := range p.target {
		out = append(out, e)
	}
	slices.SortFunc(out, highestFirst)
	return out
}
