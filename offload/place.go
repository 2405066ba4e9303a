package offload

import (
	"fmt"
	"math"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What goes into a device?
//
// Problem: an entry answers before software does. If rule Q is asked before rule R
// and they share a packet, R's entry may only be there if Q's packets are taken by
// something above it: Q's own entries, or a guard that punts them. A guard costs an
// entry and earns nothing; in sets for firewalls a rule may need hundreds. To choose
// the best set is a knapsack with neighbours, which nobody solves exactly.
//
// Idea: two ways to be in the device bid for room, each at the packets it brings for
// each entry it costs. A rule whole, with the guards that are not there yet (CacheFlow,
// SOSR 2016, calls this the cover set); and a piece of it around hot traffic, which
// costs one entry (piece.go). Bids are looked at from the best down. What a bid may
// bring at most is known for nothing, its packets for one entry; what it really costs
// is found out only when that bound is on top of the heap, so that cold rules with
// many neighbours are never looked at.
//
// A guard is not placed, it follows: rule Q has one iff it is not in the device whole
// and some unit that is there could answer its packets. So guards come and go by
// counting, one serves every rule below, and taking out a unit gives back exactly
// what it cost.
//
// Placement begins with what is installed and still sound, and then improves it: what
// fits is added, and what is in is displaced by what brings Margin times as much for
// each entry. A pass that changes nothing ends it. So a device that holds what was
// planned stays as it is, and traffic that drifts moves few entries.
//
// Invariant: between steps the target is a set in which every entry is sound (see
// sound.go): all rules that a unit could answer for are whole or guarded, and a piece
// meets no earlier rule.
//
// An entry counts packets for its rule alone, so earlier rules with the same actions
// need guards too: the price is a few tenths of a point of hit rate, and per-rule
// counters add up.
//
// docs/results/placement.json has what it reaches, BenchmarkPlan and BenchmarkPlanner
// what it takes.

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

// placer is the state of one placement.
type placer struct {
	*Planner
	limits  *device.Model
	foreign []flow.Entry
	banned  map[flow.EntryID]device.Refusal // entries that checker or device refused
	traffic *Traffic
	weights []float64 // by place: what a rule is worth
	flows   []hot     // of the rules in order
	first   []int32   // by place, and one more: where in flows the rule's begin; nil if none are known

	use      use
	placed   map[flow.EntryID]*slot
	fresh    []*slot // what was placed and is not in Planner.sorted
	bids     []*bid
	offers   offers
	lacking  []*member // scratch: of cost
	losers   []loser   // what may be displaced, the worst last; valid iff ranked
	ranked   bool
	evicted  int // entries that made room for hotter ones, or were idle for too long
	idle     int // pieces that were there, hold no hot flow, and stay, in a device of unknown size
	came     int // pieces that were not there
	changed  bool
	news     int               // counts what was placed whole
	refusals []*device.Refusal // by place: what stands in a rule's way
	fulls    map[[3]int]*device.Refusal
	hopeless *device.Refusal // of a unit that asks too many rules
}

// passes bounds how often placement goes through all bids.
const passes = 8

// place fills a target for the wanted table, beginning with what is kept of what is
// installed, highest first, and says of every rule, the default last, what became of
// it.
func (p *Planner) place(in *input, kept []*flow.Entry, foreign []flow.Entry) (*placer, []Placement) {
	n := len(p.members)
	pl := &placer{Planner: p, limits: &in.model, foreign: foreign, banned: in.banned, traffic: &in.traffic,
		placed: make(map[flow.EntryID]*slot, len(p.sorted)), refusals: make([]*device.Refusal, n), fulls: map[[3]int]*device.Refusal{}}
	p.mostAsks = math.MaxInt
	if in.model.Entries > 0 && in.model.Entries < n {
		p.mostAsks = min(crowded, in.model.Entries)
	}
	pl.hopeless = &device.Refusal{Code: CodeFull, Reason: fmt.Sprintf("more than %d rules are asked before it, and each needs an entry or a guard", p.mostAsks),
		Fix: "use a device with room for all rules, or fewer rules that overlap this one from above"}
	p.reserve(in)
	pl.use = use{limits: pl.limits, spare: p.spare}
	for i := range foreign {
		pl.use.add(p.tallyOf(&foreign[i]), 1)
	}
	for _, s := range p.sorted {
		s.in = false
	}
	for _, g := range p.byStation {
		g.needed = 0
	}
	for _, m := range p.members {
		m.whole, m.needed, m.wanted = false, 0, nil
	}
	pl.weigh(&in.traffic)
	pl.adopt(kept)
	for range passes {
		if pl.pass(); !pl.changed {
			break
		}
	}
	placements := pl.record()
	pl.list()
	return pl, placements
}

// reserve sees to it that where masks are few and flows are known, one mask in each
// set is kept for pieces of single packets, which every piece can be narrowed to.
func (p *Planner) reserve(in *input) {
	p.spare = nil
	if in.model.Masks == 0 || len(in.traffic.Flows) == 0 {
		return
	}
	var seen flow.Match
	for _, m := range p.members {
		r := &m.rule.Match
		for w := range seen.Mask {
			seen.Mask[w] |= r.Mask[w]
		}
		for _, f := range [...]flow.Field{flow.SrcPort, flow.DstPort} {
			if lo, hi := bounds(r, f); lo != 0 || hi != 0xffff {
				seen.Mask.Set(f, 0xffff)
			}
		}
		if normal, _ := switches(m.rule.Actions); normal {
			seen.Pin(flow.DstMAC, 0, flow.DstMAC.Max())
			seen.Pin(flow.VLAN, 0, flow.TagPresent|flow.TagID)
		}
	}
	p.exact = device.MaskOf(p.model.Whole(&seen))
	p.spare = map[int32]bool{}
	for _, set := range p.sets {
		p.spare[number(p.masks, setMask{set, p.exact})] = true
	}
}

// room returns how many entries still fit.
func (p *placer) room() int {
	if p.limits.Entries == 0 {
		return math.MaxInt32
	}
	return max(0, p.limits.Entries-p.use.entries)
}

// add puts an entry into the target.
func (p *placer) add(s *slot) {
	s.in = true
	p.placed[s.ID] = s
	p.use.add(s.tally, 1)
	if !s.listed {
		p.fresh = append(p.fresh, s)
	}
}

// drop takes an entry out of the target.
func (p *placer) drop(s *slot) {
	s.in = false
	delete(p.placed, s.ID)
	p.use.add(s.tally, -1)
}

// list brings Planner.sorted and Planner.placed to what is placed.
func (p *placer) list() {
	fresh := slices.DeleteFunc(p.fresh, func(s *slot) bool {
		again := s.listed || !s.in
		s.listed = s.listed || s.in
		return again
	})
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
	p.sorted = append(merged, fresh...)
	p.Planner.placed = p.placed
}

// used returns what the target takes of the device, foreign entries included.
func (p *placer) used() Usage {
	u := Usage{Entries: p.use.entries, Foreign: len(p.foreign), Masks: p.use.distinct, Priorities: p.use.priorities}
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

// record says of every rule what became of it.
func (p *placer) record() []Placement {
	out := make([]Placement, len(p.members))
	ids := make([]flow.EntryID, 0, len(p.placed)) // what Placement.Entries are cut from
	slices.SortFunc(p.bids, inTable)
	bids := p.bids
	for i, m := range p.members {
		pl := &out[i]
		pl.Rule, pl.Name = m.rule.ID, m.rule.Name
		first := len(ids)
		for ; len(bids) > 0 && bids[0].m == m; bids = bids[1:] {
			for _, s := range bids[0].entries {
				ids = append(ids, s.ID)
			}
			own := len(ids)
			for _, piece := range bids[0].pieces {
				ids = append(ids, piece.slot.ID)
			}
			slices.Sort(ids[own:])
		}
		if len(ids) > first {
			pl.Entries = ids[first:len(ids):len(ids)]
		}
		if m.whole {
			continue
		}
		if why := p.why(m); why != nil {
			pl.Code, pl.Reason, pl.Fix = why.Code, why.Reason, why.Fix
		}
	}
	return out
}

// why returns what keeps some of m in software.
func (p *placer) why(m *member) *device.Refusal {
	if why := p.refusals[m.place[after]]; why != nil {
		return why
	}
	for k := range p.ways(m) {
		for _, u := range p.units(m, k) {
			switch {
			case u.bid != nil && u.bid.plan == p && u.bid.placed:
			case u.refusal != nil:
				return u.refusal
			default:
				return p.full(len(u.parts), 0)
			}
		}
	}
	return p.rest(m)
}

// full returns the refusal for want of room.
func (p *placer) full(need, guards int) *device.Refusal {
	key := [3]int{need, guards, p.room()}
	if r := p.fulls[key]; r != nil {
		return r
	}
	with := ""
	if guards > 0 {
		with = ", " + count(guards, "guard", "guards") + " among them"
	}
	r := &device.Refusal{Code: CodeFull, Reason: fmt.Sprintf("needs %s%s, %s has room for %d", count(need, "entry", "entries"), with, p.model.Name, p.room()),
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
