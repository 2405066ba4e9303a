package offload

import (
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Plan is how one device gets from the table that is in force to the next. Read it
// top to bottom: Retire while software runs the old table, then swap software to
// Want, then Promote. It is data; [Run] carries it out.
//
// Invariant: if what is installed is sound for the old table, then after every
// single operation, also if any Add was refused together with what relies on it,
// the device's answer to each packet is a miss, a punt, or what the table in force
// says. Why: whether an entry is sound depends only on entries above it. What
// Retire leaves is the greatest subset that is sound under both tables, and taking
// out the rest from the lowest up never takes anything from above what remains.
// What Promote adds from the highest down finds all it relies on in place, and
// what it removes in the end, lowest first, nothing that stays relies on. Adding a
// sound entry takes packets from others and gives them the same answer.
// plan_test.go tries every packet after every operation.
type Plan struct {
	Want    *flow.Table
	Retire  []Op // removals only, lowest priority first
	Promote []Op

	// Stale are entries that stay until software has swapped, although their rules' actions
	// change: none but in the fast mode, see [Planner.Fast]. Promote takes them out.
	Stale []flow.EntryID

	Entries    []flow.Entry // what the device holds of ours in the end, highest priority first
	Foreign    []flow.Entry // what it holds of others'; never touched
	Placements []Placement  // one for each rule in table order, the default last
	Used       Usage

	from input
}

// Usage is how much of a device a plan's Entries take, foreign ones included.
// Masks are counted in each set of [device.Model.MasksPer].
type Usage struct{ Entries, Guards, Pieces, Foreign, Masks, Priorities int }

// input is all that a plan depends on.
type input struct {
	old, want *flow.Table
	installed []flow.Entry
	model     device.Model
	traffic   Traffic
	banned    map[flow.EntryID]device.Refusal
	fast      bool
}

// NewPlan plans the way from what is installed under old, the table software runs
// now, to want. Where old is want it plans the repair of a device whose content has
// drifted, and the swap is nothing. It does no I/O and keeps no state: the same
// arguments give the same plan.
//
// The plan is safe whatever is installed: entries that nothing vouches for are
// retired first. heat decides only which rules get the room.
func NewPlan(old, want *flow.Table, installed []flow.Entry, m device.Model, heat Heat) Plan {
	return newPlan(input{old: old, want: want, installed: installed, model: m, traffic: Traffic{Rules: heat}})
}

// Without returns the plan that p would be if an entry could not be used, for the
// reason given. It is what becomes of a plan that checker or device refuse.
func (p *Plan) Without(id flow.EntryID, why device.Refusal) Plan {
	return newPlan(p.from.without(id, why))
}

func (in input) without(id flow.EntryID, why device.Refusal) input {
	banned := map[flow.EntryID]device.Refusal{id: why}
	maps.Copy(banned, in.banned)
	in.banned = banned
	return in
}

// empty returns the plan that takes everything of ours out of the device.
func (p *Plan) empty() Plan {
	q := Plan{Want: p.Want, Foreign: p.Foreign, from: p.from}
	var ours []*flow.Entry
	for i := range p.from.installed {
		if e := &p.from.installed[i]; Ours(e.ID) {
			ours = append(ours, e)
		}
	}
	q.Retire = removals(ours, nil)
	q.Used = used(nil, p.Foreign)
	for _, pl := range p.Placements {
		pl.Entries = nil
		pl.Code, pl.Reason, pl.Fix = "E_UNPROVEN", "the checker keeps refusing what the planner plans for this device", "none needed: software answers the rule. If the status shows a packet, report it"
		q.Placements = append(q.Placements, pl)
	}
	return q
}

// kept returns what the device holds between Retire and Promote, foreign entries
// included, in the order it was installed.
func (p *Plan) kept() []flow.Entry {
	retired := make([]flow.Entry, len(p.Retire))
	for i := range p.Retire {
		retired[i] = p.Retire[i].Entry
	}
	return minus(p.from.installed, retired)
}

func newPlan(in input) Plan { return new(Planner).plan(in) }

func (p *Planner) plan(in input) Plan {
	p.learn(&in)
	var ours []*flow.Entry
	var foreign []flow.Entry
	for i := range in.installed {
		if e := &in.installed[i]; Ours(e.ID) {
			ours = append(ours, e)
		} else {
			foreign = append(foreign, *e)
		}
	}
	sides := []side{before, after}
	if in.old == in.want {
		sides = sides[1:]
	}
	usable := ours
	if len(in.banned) > 0 {
		usable = slices.DeleteFunc(slices.Clone(ours), func(e *flow.Entry) bool { _, no := in.banned[e.ID]; return no })
	}
	p.stays = p.stayable(&in, foreign)
	kept := p.soundSubset(in.old, usable, foreign, proof{p.proved, before}, sides...)
	stale := p.staleOf(kept)
	guards := p.inStead(stale, kept)

	target, placements := p.place(&in, kept, foreign)
	around := append(slices.Clip(kept), guards...) // what the device holds at the most while it changes, but for what is new
	fits := p.fits(around, target.use)
	if len(stale) > 0 && !fits {
		in.fast = false
		return p.plan(in)
	}
	plan := Plan{Want: in.want, Foreign: foreign, Placements: placements, Used: target.used(), from: in}
	plan.Entries = make([]flow.Entry, len(p.sorted))
	p.proved = make([]*flow.Entry, len(p.sorted))
	for i, s := range p.sorted {
		plan.Entries[i], p.proved[i] = s.Entry, &s.Entry
	}

	plan.Retire = removals(ours, holding(kept))
	stay := kept
	for _, g := range guards {
		plan.Promote = append(plan.Promote, Op{Add, *g})
	}
	if len(stale) > 0 {
		plan.Promote = append(plan.Promote, removals(stale, nil)...)
		gone := holding(stale)
		stay = slices.DeleteFunc(slices.Clone(around), func(e *flow.Entry) bool { return gone[e.ID] != nil })
		for _, e := range stale {
			plan.Stale = append(plan.Stale, e.ID)
		}
	}
	if !fits {
		common := slices.DeleteFunc(slices.Clone(kept), func(e *flow.Entry) bool { return p.placed[e.ID] == nil })
		stay = p.soundSubset(in.old, common, foreign, proof{kept, after}, after)
		plan.Promote = removals(kept, holding(stay)) // break before make: there is no room for both
	}
	staying := holding(stay)
	for _, s := range p.sorted {
		if o := staying[s.ID]; o == nil || !o.Equal(&s.Entry) {
			plan.Promote = append(plan.Promote, Op{Add, s.Entry})
		}
	}
	leaving := slices.DeleteFunc(slices.Clone(stay), func(e *flow.Entry) bool { s := p.placed[e.ID]; return s != nil && s.Equal(e) })
	plan.Promote = append(plan.Promote, removals(leaving, nil)...)
	return plan
}

// removals returns the removal of what is in have and not in keep, lowest first.
func removals(have []*flow.Entry, keep map[flow.EntryID]*flow.Entry) []Op {
	var gone []*flow.Entry
	for _, e := range have {
		if k := keep[e.ID]; k == nil || !k.Equal(e) {
			gone = append(gone, e)
		}
	}
	slices.SortFunc(gone, lowestFirst)
	var ops []Op
	for _, e := range gone {
		ops = append(ops, Op{Remove, *e})
	}
	return ops
}

// holding returns entries by ID.
func holding(entries []*flow.Entry) map[flow.EntryID]*flow.Entry {
	m := make(map[flow.EntryID]*flow.Entry, len(entries))
	for _, e := range entries {
		m[e.ID] = e
	}
	return m
}

// minus returns the entries of a that are not in b; entries are told apart by ID
// and, as a device may hold an altered one, by all the rest.
func minus(a, b []flow.Entry) []flow.Entry {
	in := byID(b)
	return slices.DeleteFunc(slices.Clone(a), func(e flow.Entry) bool { o, ok := in[e.ID]; return ok && o.Equal(&e) })
}

func byID(entries []flow.Entry) map[flow.EntryID]*flow.Entry {
	m := make(map[flow.EntryID]*flow.Entry, len(entries))
	for i := range entries {
		m[entries[i].ID] = &entries[i]
	}
	return m
}

// fits reports whether a device can hold what is kept and placed at the same time.
func (p *Planner) fits(kept []*flow.Entry, target use) bool {
	u := target.clone()
	for _, e := range kept {
		if s := p.placed[e.ID]; s == nil || !s.Equal(e) {
			u.add(p.tallyOf(e), 1)
		}
	}
	return (u.limits.Entries == 0 || u.entries <= u.limits.Entries) && u.over() == nil
}

func used(ours, foreign []flow.Entry) Usage {
	u := Usage{Entries: len(ours) + len(foreign), Foreign: len(foreign)}
	masks, priorities := map[device.Mask]bool{}, map[uint64]bool{}
	for _, set := range [][]flow.Entry{ours, foreign} {
		for i := range set {
			masks[device.MaskOf(&set[i].Match)] = true
			priorities[set[i].Priority] = true
		}
	}
	for i := range ours {
		switch ours[i].Kind {
		case flow.GuardEntry:
			u.Guards++
		case flow.PieceEntry:
			u.Pieces++
		}
	}
	u.Masks, u.Priorities = len(masks), len(priorities)
	return u
}
