package agent

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Which entries are looked under, and by what guards: peek.go says why.

// meet notes which kinds of entries have counted packets.
func (c *card) meet() {
	if c.peek.met == nil {
		c.peek.met, c.peek.looked = map[device.Mask]bool{}, map[flow.EntryID]time.Time{}
	}
	if c.allMet() { // as it is before long, and stays
		return
	}
	for i := range c.installed {
		if e := &c.installed[i]; c.ledger.live[e.ID].Packets > 0 {
			c.peek.met[device.MaskOf(&e.Match)] = true
		}
	}
}

// allMet reports whether an entry of each kind that the card holds has counted packets.
func (c *card) allMet() bool {
	for kind := range c.usage.kinds {
		if !c.peek.met[kind] {
			return false
		}
	}
	return true
}

// unmet returns the entries of kinds of which none has ever counted.
func (c *card) unmet() (out []*flow.Entry) {
	if c.allMet() {
		return nil
	}
	for i := range c.installed {
		if e := &c.installed[i]; offload.Ours(e.ID) && !c.peek.met[device.MaskOf(&e.Match)] {
			out = append(out, e)
		}
	}
	return out
}

// choose chooses the entries to look under, and reports whether there are any.
func (a *Agent) choose(c *card) bool {
	k, now := &c.peek, a.Now()
	if k.also.IsZero() {
		k.also = now.Add(peekPace)
	}
	k.probes = a.probesUnder(c, c.unmet(), now.Before(k.next))
	if len(k.probes) == 0 && !now.Before(k.also) {
		var all []*flow.Entry
		for i := range c.installed {
			if c.ledger.live[c.installed[i].ID].Packets == 0 {
				all = append(all, &c.installed[i])
			}
		}
		k.also, k.probes = now.Add(peekPace), a.probesUnder(c, all, false)
	}
	return len(k.probes) > 0
}

// probesUnder returns guards for entries that count packets now and stand below one of above
// that does something else: those first that were looked under longest ago, and then those with
// most packets. fresh wants only such as were not looked under since entries changed.
func (a *Agent) probesUnder(c *card, above []*flow.Entry, fresh bool) (out []probe) {
	if len(above) == 0 || len(c.ledger.more) == 0 {
		return nil
	}
	m, span := a.limited(c), c.span.Seconds()
	if span <= 0 {
		return nil
	}
	busy := make([]*flow.Entry, 0, len(c.ledger.more))
	for i := range c.installed {
		if e := &c.installed[i]; c.ledger.more[e.ID] > 0 && !e.Punt() && offload.Ours(e.ID) && !e.Actions.Metered() {
			busy = append(busy, e)
		}
	}
	slices.SortFunc(busy, func(x, y *flow.Entry) int {
		return cmp.Or(c.peek.looked[x.ID].Compare(c.peek.looked[y.ID]), cmp.Compare(c.ledger.more[y.ID], c.ledger.more[x.ID]), cmp.Compare(x.ID, y.ID))
	})
	work, budget := peekWork, float64(peekRate)
	room := peekRoom
	if m.Entries > 0 {
		room = min(room, m.Entries-len(c.installed))
	}
	for _, e := range busy {
		if len(out) >= room || work <= 0 || fresh && !c.peek.looked[e.ID].IsZero() {
			break
		}
		work -= len(above)
		if !slices.ContainsFunc(above, func(u *flow.Entry) bool { return before(&m, u, e) }) {
			continue
		}
		rate := float64(c.ledger.more[e.ID]) / span
		guard, ok := shield(&m, e, rate/budget)
		if !ok || rate > budget && guard.Match == e.Match {
			continue
		}
		budget = max(1, budget-rate)
		out = append(out, probe{guard: guard, under: *e})
	}
	return out
}

// sparing returns m less the room that is kept for guards of peeks. A small table has none to
// spare, and nothing is looked at in it once it is full.
func sparing(m device.Model) device.Model {
	if m.Entries > peekShare && m.Punt && m.Counters && m.Order == device.Honoured {
		m.Entries -= min(peekRoom, m.Entries/peekShare)
	}
	return m
}

// peekShare is which part of a table is kept for guards of peeks, at most: of one that is smaller
// nothing is.
const peekShare = 16

// before reports whether u has to take packets from e.
func before(m *device.Model, u, e *flow.Entry) bool {
	return m.Order == device.Honoured && u.Priority > e.Priority && u.Match.Overlaps(&e.Match) && (u.Punt() || !u.Actions.Equal(e.Actions))
}

// shield returns a guard right above e for its packets, or, where they are so many times as
// many as software is to get, for a share of them if the device can tell one.
func shield(m *device.Model, e *flow.Entry, excess float64) (flow.Entry, bool) {
	if excess > 1 {
		n := bits.Len64(uint64(excess))
		for _, part := range []struct {
			field, by flow.Field
			known     uint64 // bits of by that have to be matched
		}{{flow.SrcPort, flow.Flags, flow.FlagL4}, {flow.SrcLo, flow.Flags, flow.FlagIP}, {flow.SrcMAC, flow.SrcMAC, 0}} {
			low := uint64(1)<<min(n, 16) - 1
			match := e.Match
			if match.Mask.Get(part.field)&low != 0 || part.field == flow.SrcPort && !match.SrcPort.Any() || match.Value.Get(part.by)&part.known != part.known {
				continue
			}
			if v := rand.Uint64() & low; part.field == flow.SrcPort {
				match.SetPortMask(part.field, uint16(v), uint16(low))
			} else {
				match.Pin(part.field, v, low)
			}
			if guard, ok := offload.Shield(m, e, &match); ok {
				return guard, true
			}
		}
	}
	return offload.Shield(m, e, &e.Match)
}

// kindsMet says of how many kinds the entries are that a device holds, of how many of these
// one has counted a packet, and what the others look at.
func (c *card) kindsMet() (all, met int, others []string) {
	c.meet()
	for kind := range c.usage.kinds {
		if c.peek.met[kind] {
			met++
		} else {
			others = append(others, kind.String())
		}
	}
	slices.Sort(others)
	return len(c.usage.kinds), met, others[:min(len(others), unmetListed)]
}

// unmetListed is how many kinds that no packet has met a status lists.
const unmetListed = 16
