package offload

import (
	"cmp"
	"fmt"
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

// Traffic is what placement goes by.
type Traffic struct {
	Rules Heat
}

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
	*Planner
	limits  *device.Model
	foreign []flow.Entry
	banned  map[flow.EntryID]device.Refusal // entries that checker or device refused

	room       int // entries that still fit; -1 means any number
	placed     map[flow.EntryID]*slot
	fresh      []*slot // what is placed and was not the last time
	use        use
	placements []Placement
	ids        []flow.EntryID // what Placement.Entries are cut from
	fulls      map[[3]int]*device.Refusal
}

// use counts the entries in a placement by mask and by priority.
type use struct {
	masks, levels       []int32 // by number
	allMasks, allLevels int     // how many are above zero
}

func (u *use) add(s *slot, by int32) {
	count := func(of *[]int32, i int32, all *int) {
		if short := int(i) + 1 - len(*of); short > 0 {
			*of = append(*of, make([]int32, short)...)
		}
		was := (*of)[i]
		(*of)[i] = was + by
		switch {
		case was == 0:
			*all++
		case was+by == 0:
			*all--
		}
	}
	count(&u.masks, s.mask, &u.allMasks)
	count(&u.levels, s.level, &u.allLevels)
}

// place fills a target for the wanted table and says of every rule, the default
// last, what became of it.
func (p *Planner) place(in *input, foreign []flow.Entry) *placer {
	n := len(p.members)
	pl := &placer{Planner: p, limits: &in.model, foreign: foreign, banned: in.banned, room: -1,
		placed: make(map[flow.EntryID]*slot, len(p.sorted)), placements: make([]Placement, n), fulls: map[[3]int]*device.Refusal{}}
	if in.model.Entries > 0 {
		pl.room = max(0, in.model.Entries-len(foreign))
	}
	for i := range foreign {
		pl.use.add(&slot{mask: number(p.masks, device.MaskOf(&foreign[i].Match)), level: number(p.levels, foreign[i].Priority)}, 1)
	}
	for _, s := range p.sorted {
		s.in = false
	}
	type ranked struct {
		heat  uint64
		place int32
	}
	order := make([]ranked, n)
	for i, m := range p.members {
		m.whole, m.guarded = false, nil
		pl.placements[i] = Placement{Rule: m.rule.ID, Name: m.rule.Name}
		order[i] = ranked{in.traffic.Rules[m.rule.ID], int32(i)}
	}
	slices.SortFunc(order, func(a, b ranked) int { return cmp.Or(cmp.Compare(b.heat, a.heat), cmp.Compare(a.place, b.place)) })
	for _, r := range order {
		pl.placeRule(p.members[r.place])
	}
	pl.list()
	return pl
}

// placeRule tries a rule and records what became of it.
func (p *placer) placeRule(m *member) {
	pl := &p.placements[m.place[after]]
	first := len(p.ids)
	refuse := func(r *device.Refusal) {
		if pl.Code == "" {
			pl.Code, pl.Reason, pl.Fix = r.Code, r.Reason, r.Fix
		}
	}
	for k := 0; ; k++ {
		u := p.unit(m, k)
		if u == nil {
			break
		}
		if r := p.placeUnit(m, u); r != nil {
			refuse(r)
			if r.Code == CodeFull {
				break
			}
		}
	}
	if rest := p.rest(m); rest != nil && !m.whole {
		refuse(rest)
	}
	if len(p.ids) > first {
		pl.Entries = p.ids[first:len(p.ids):len(p.ids)]
	}
}

// placeUnit puts u, of rule m, and the guards it needs into the target, or says why
// it cannot be there.
func (p *placer) placeUnit(m *member, u *unit) *device.Refusal {
	if u.refusal != nil {
		return u.refusal
	}
	room := p.room
	if room >= 0 && u.whole && m.guarded != nil {
		room++
	}
	if room >= 0 && len(u.parts) > room {
		return p.full(len(u.parts), 0)
	}
	asks := p.asksOf(m, u)
	open := 0
	for _, q := range asks {
		if !q.whole && q.guarded == nil {
			open++
		}
	}
	if p.model.Order == device.Honoured && room >= 0 && len(u.parts)+open > room {
		return p.full(len(u.parts)+open, open)
	}
	if q := p.coverOf(m); q != nil {
		return &device.Refusal{Code: "E_NEVER_ASKED", Reason: fmt.Sprintf("rule %s takes all of its packets", q.rule.Name), Fix: "remove it, or raise its priority"}
	}
	guards, refusal := p.guardsFor(m, u, asks)
	if refusal != nil {
		return refusal
	}
	adds := append(guards, p.entries(m, u, len(asks) == 0 && !u.whole)...)
	if u.station != nil && p.placed[u.station.ID] == nil {
		adds = append(adds, u.station)
	}
	if room >= 0 && len(adds) > room {
		return p.full(len(adds), len(guards))
	}
	for _, s := range adds {
		if why, no := p.banned[s.ID]; no {
			return &why
		}
		if f := meetsForeign(&s.Match, p.foreign); f != nil {
			return &device.Refusal{Code: "E_FOREIGN", Reason: fmt.Sprintf("entry %016x, which is not bladeflow's, matches some of these packets", uint64(f.ID)),
				Fix: "find its owner and have it removed"}
		}
		if p.placed[s.ID] != nil {
			return &device.Refusal{Code: "E_COOKIE", Reason: "another entry has the same cookie", Fix: "rename the rule " + m.rule.Name}
		}
	}
	if refusal := p.otherLimits(adds); refusal != nil {
		return refusal
	}
	p.commit(m, u, adds)
	return nil
}

// full returns the refusal for want of room.
func (p *placer) full(need, guards int) *device.Refusal {
	key := [3]int{need, guards, p.room}
	if r := p.fulls[key]; r != nil {
		return r
	}
	with := ""
	if guards > 0 {
		with = ", " + count(guards, "guard", "guards") + " among them"
	}
	r := &device.Refusal{Code: CodeFull, Reason: fmt.Sprintf("needs %s%s, %s has room for %d", count(need, "entry", "entries"), with, p.model.Name, p.room),
		Fix: "use a device with more entries, or fewer rules that overlap this one from above"}
	p.fulls[key] = r
	return r
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// guardsFor returns the guards that u needs and that are not there yet, given the
// rules that u's packets ask first.
func (p *placer) guardsFor(m *member, u *unit, asks []*member) (guards []*slot, refusal *device.Refusal) {
	for _, q := range asks {
		if p.model.Order != device.Honoured || guardLevel(q.rule) == guardLevel(m.rule) {
			return nil, p.orderRefusal(m.rule, q.rule)
		}
		if q.whole || q.guarded != nil {
			continue
		}
		g, refusal := p.guardOf(q)
		if refusal != nil {
			return nil, refusal
		}
		if slices.ContainsFunc(u.parts, func(with part) bool { return g.Match.Covers(&with.Match) }) {
			return nil, &device.Refusal{Code: "E_GUARD_COVERS", Reason: fmt.Sprintf("rule %s is asked before it, in software, and its guard would punt all of this", q.rule.Name),
				Fix: "make " + q.rule.Name + " one that the device can hold, or match fewer packets with it"}
		}
		guards = append(guards, g)
	}
	return guards, nil
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
func (p *placer) otherLimits(adds []*slot) (refusal *device.Refusal) {
	m := p.limits
	if m.Masks == 0 && m.Priorities == 0 {
		return nil
	}
	for _, s := range adds {
		p.use.add(s, 1)
	}
	if n := p.use.allMasks; m.Masks > 0 && n > m.Masks {
		refusal = &device.Refusal{Code: CodeMask, Reason: fmt.Sprintf("makes %d distinct masks, %s has %d", n, m.Name, m.Masks),
			Fix: "match the same fields as hotter rules do"}
	} else if n := p.use.allLevels; m.Priorities > 0 && n > m.Priorities {
		refusal = &device.Refusal{Code: "E_PRIORITIES_FULL", Reason: fmt.Sprintf("makes %d distinct priorities, %s has %d", n, m.Name, m.Priorities),
			Fix: "give rules that do not overlap the same priority"}
	}
	for _, s := range adds {
		p.use.add(s, -1)
	}
	return refusal
}

// commit puts entries of u, of rule m, and its guards into the target.
func (p *placer) commit(m *member, u *unit, adds []*slot) {
	if u.whole {
		m.whole = true
		if m.guarded != nil {
			p.drop(m.guarded)
			m.guarded = nil
		}
	}
	for _, s := range adds {
		s.in = true
		p.placed[s.ID] = s
		if !s.listed {
			p.fresh = append(p.fresh, s)
		}
		p.use.add(s, 1)
		if p.room > 0 {
			p.room--
		}
		switch {
		case !s.Punt():
			p.ids = append(p.ids, s.ID)
		case s.Priority != stationGuard:
			q, _ := p.table.Index(s.Rule)
			p.members[q].guarded = s
		}
	}
}

// drop takes an entry out of the target.
func (p *placer) drop(s *slot) {
	s.in = false
	delete(p.placed, s.ID)
	p.use.add(s, -1)
	if p.room >= 0 {
		p.room++
	}
}

// list brings Planner.sorted and Planner.placed to what is placed.
func (p *placer) list() {
	fresh := slices.DeleteFunc(p.fresh, func(s *slot) bool { return !s.in || s.listed })
	slices.SortFunc(fresh, func(a, b *slot) int { return highestFirst(&a.Entry, &b.Entry) })
	merged := make([]*slot, 0, len(p.placed))
	for _, s := range p.sorted {
		if s.listed = s.in; !s.in {
			continue
		}
		for len(fresh) > 0 && highestFirst(&fresh[0].Entry, &s.Entry) < 0 {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
		merged = append(merged, s)
	}
	merged = append(merged, fresh...)
	for _, s := range merged {
		s.listed = true
	}
	p.sorted = merged
	p.Planner.placed = p.placed
}

// used returns what the target takes of the device, foreign entries included.
func (p *placer) used() Usage {
	u := Usage{Entries: len(p.sorted) + len(p.foreign), Foreign: len(p.foreign), Masks: p.use.allMasks, Priorities: p.use.allLevels}
	for _, s := range p.sorted {
		switch s.Kind {
		case flow.GuardEntry:
			u.Guards++
		case flow.PieceEntry:
			u.Pieces++
		}
	}
	return u
}
