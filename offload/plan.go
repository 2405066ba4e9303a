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

	Entries    []flow.Entry // what the device holds of ours in the end, highest priority first
	Foreign    []flow.Entry // what it holds of others'; never touched
	Placements []Placement  // one for each rule in table order, the default last
	Used       Usage

	from input
}

// Usage is how much of a device a plan's Entries take, foreign ones included.
type Usage struct{ Entries, Guards, Pieces, Foreign, Masks, Priorities int }

// input is all that a plan depends on.
type input struct {
	old, want *flow.Table
	installed []flow.Entry
	model     device.Model
	heat      Heat
	banned    map[flow.EntryID]device.Refusal
}

// NewPlan plans the way from what is installed under old, the table software runs
// now, to want. Where old is want it plans the repair of a device whose content has
// drifted, and the swap is nothing. It does no I/O and keeps no state: the same
// arguments give the same plan.
//
// The plan is safe whatever is installed: entries that nothing vouches for are
// retired first. heat decides only which rules get the room.
func NewPlan(old, want *flow.Table, installed []flow.Entry, m device.Model, heat Heat) Plan {
	return newPlan(input{old: old, want: want, installed: installed, model: m, heat: heat})
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
	ours := slices.DeleteFunc(slices.Clone(p.from.installed), func(e flow.Entry) bool { return !Ours(e.ID) })
	q.Retire = removals(ours, nil)
	q.Used = used(nil, p.Foreign)
	for _, pl := range p.Placements {
		pl.Entries = nil
		pl.Code, pl.Reason, pl.Fix = "E_UNPROVEN", "the checker keeps refusing what the planner plans for this device", "report this: planner and checker disagree"
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

func newPlan(in input) Plan {
	var ours, foreign []flow.Entry
	for _, e := range in.installed {
		if Ours(e.ID) {
			ours = append(ours, e)
		} else {
			foreign = append(foreign, e)
		}
	}
	want := newView(in.want)
	views := []*view{want}
	if in.old != in.want {
		views = append(views, newView(in.old))
	}
	m := &in.model
	target := place(want, m, foreign, in.heat, in.banned)
	p := Plan{Want: in.want, Entries: target.entries(), Foreign: foreign, Placements: target.placements, from: in}
	p.Used = used(p.Entries, foreign)

	usable := slices.DeleteFunc(slices.Clone(ours), func(e flow.Entry) bool { _, no := in.banned[e.ID]; return no })
	kept := soundSubset(usable, foreign, m, views...)
	p.Retire = removals(ours, kept)
	stay := kept
	if union := append(slices.Clone(kept), minus(p.Entries, kept)...); !fits(union, foreign, m) {
		stay = soundSubset(intersect(kept, p.Entries), foreign, m, want)
		p.Promote = removals(kept, stay) // break before make: there is no room for both
	}
	adds := minus(p.Entries, stay)
	slices.SortFunc(adds, highestFirst)
	for _, e := range adds {
		p.Promote = append(p.Promote, Op{Add, e})
	}
	p.Promote = append(p.Promote, removals(stay, p.Entries)...)
	return p
}

// removals returns the removal of what is in have and not in keep, lowest first.
func removals(have, keep []flow.Entry) []Op {
	gone := minus(have, keep)
	slices.SortFunc(gone, lowestFirst)
	var ops []Op
	for _, e := range gone {
		ops = append(ops, Op{Remove, e})
	}
	return ops
}

// minus returns the entries of a that are not in b; entries are told apart by ID
// and, as a device may hold an altered one, by all the rest.
func minus(a, b []flow.Entry) []flow.Entry {
	in := byID(b)
	return slices.DeleteFunc(slices.Clone(a), func(e flow.Entry) bool { o, ok := in[e.ID]; return ok && o.Equal(&e) })
}

func intersect(a, b []flow.Entry) []flow.Entry {
	in := byID(b)
	return slices.DeleteFunc(slices.Clone(a), func(e flow.Entry) bool { _, ok := in[e.ID]; return !ok })
}

func byID(entries []flow.Entry) map[flow.EntryID]*flow.Entry {
	m := make(map[flow.EntryID]*flow.Entry, len(entries))
	for i := range entries {
		m[entries[i].ID] = &entries[i]
	}
	return m
}

// fits reports whether a device can hold ours and foreign at the same time.
func fits(ours, foreign []flow.Entry, m *device.Model) bool {
	u := used(ours, foreign)
	return (m.Entries == 0 || u.Entries <= m.Entries) && (m.Masks == 0 || u.Masks <= m.Masks) &&
		(m.Priorities == 0 || u.Priorities <= m.Priorities)
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
