package offload

import (
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// The fast mode: for a change of nothing but actions the entries of a rule stay until
// software has swapped.
//
// Problem. An entry whose actions are not the new table's has to leave before the swap, and
// with it all later entries that rely on it: after a change of one wide rule most of a
// device may be empty for a moment, and software gets its packets.
//
// Idea. Let the entry stay through the swap. It is the one thing that is not right under
// both tables, but what it does is what the table before says, for exactly the packets that
// its rule answers in both. After the swap a guard of its rule comes in below it, it goes,
// and the new one comes: what relies on it relies on the guard meanwhile.
//
// The price. Between the swap and that moment packets which the device answers are judged
// by the table before, and those which software answers by the one after: each packet by one
// of the two, but there is no one instant of change. And a device that refuses to let go of
// such an entry after the swap goes on answering as before, where the strict mode would have
// called the change off; the next round tries again, and the status says so.
//
// Invariant: in every state each entry answers only packets that its rule wins in the table
// in force, and says of them what that table says or, for one of stale, what the one before
// said. The model checker tries both modes.

// stayable returns the rules whose entries may stay, by ID, as they are in the table before.
func (p *Planner) stayable(in *input, foreign []flow.Entry) map[flow.RuleID]*flow.Rule {
	if !in.fast || in.old == in.want {
		return nil
	}
	out := map[flow.RuleID]*flow.Rule{}
	for _, m := range p.fresh {
		at, ok := in.old.Index(m.rule.ID)
		if !ok {
			continue
		}
		was := in.old.Rule(at)
		if was.Priority != m.rule.Priority || was.Tier != m.rule.Tier || was.Match != m.rule.Match || delivers(was) || delivers(m.rule) {
			continue
		}
		if was.Actions.Equal(m.rule.Actions) { // it has another name, and its entries may stay for good
			continue
		}
		if p.model.Order == device.Honoured { // else nothing relies on anything
			if p.guardOf(m) != nil || meetsForeign(m.guards(), foreign) != nil {
				continue
			}
			if _, no := in.banned[p.guardSlot(m).ID]; no {
				continue
			}
		}
		out[m.rule.ID] = was
	}
	return out
}

// delivers reports whether a rule leaves it to the switch where its packets go.
func delivers(r *flow.Rule) bool { normal, _ := switches(r.Actions); return normal }

// staleOf returns those of kept, highest first, that are right under the table before alone.
func (p *Planner) staleOf(kept []*flow.Entry) (stale []*flow.Entry) {
	for _, e := range kept {
		if !e.Punt() && p.stays[e.Rule] != nil {
			stale = append(stale, e)
		}
	}
	return stale
}

// inStead returns the guards that stand in for entries when they go, highest first, without
// those that are kept already.
func (p *Planner) inStead(stale, kept []*flow.Entry) (guards []*flow.Entry) {
	if p.model.Order != device.Honoured {
		return nil
	}
	there := holding(kept)
	for _, e := range stale {
		at, _ := p.table.Index(e.Rule)
		g := &p.guardSlot(p.members[at]).Entry
		if o := there[g.ID]; o == nil || !o.Equal(g) {
			there[g.ID] = g
			guards = append(guards, g)
		}
	}
	slices.SortFunc(guards, highestFirst)
	return guards
}

// renewed returns entries with the actions that their rules have in the table after: what
// the checker is asked about, as it knows of no two tables.
func (p *Plan) renewed(entries []flow.Entry) []flow.Entry {
	if len(p.Stale) == 0 {
		return entries
	}
	stale := make(map[flow.EntryID]bool, len(p.Stale))
	for _, id := range p.Stale {
		stale[id] = true
	}
	out := slices.Clone(entries)
	for i := range out {
		if stale[out[i].ID] {
			at, _ := p.Want.Index(out[i].Rule)
			out[i].Actions = p.Want.Rule(at).Actions
		}
	}
	return out
}
