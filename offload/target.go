package offload

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// placeWhole puts all of b into the target, in place of its pieces, or says why it
// cannot be there. The room is there.
func (p *placer) placeWhole(b *bid) *device.Refusal {
	asks, _ := p.asksOf(b.m, b.u)
	entries := p.entries(b.m, b.u, len(asks) == 0 && !b.u.whole)
	adds := slices.Clone(entries)
	for _, q := range asks {
		if !q.whole && q.needed == 0 {
			adds = append(adds, p.guardSlot(q))
		}
	}
	if b.u.station != nil && b.u.station.needed == 0 {
		adds = append(adds, b.u.station)
	}
	if why := p.barred(b.m, adds); why != nil {
		return why
	}
	pieces := slices.Clone(b.pieces)
	for _, piece := range pieces {
		p.evictPiece(piece)
	}
	b.entries, b.placed = entries, true
	p.require(b, asks, 1)
	for _, s := range entries {
		p.add(s)
	}
	if b.u.whole {
		b.m.whole = true
		if b.m.needed > 0 {
			p.drop(b.m.guard)
		}
	}
	if why := p.use.over(); why != nil {
		p.evictWhole(b)
		for _, piece := range pieces {
			p.placePiece(piece)
		}
		return why
	}
	return nil
}

// barred returns why one of adds must not be in the device.
func (p *placer) barred(m *member, adds []*slot) *device.Refusal {
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
	return nil
}

// require counts a unit that comes (by 1) or goes (by -1) for the rules that it asks
// first and for its station. Their guards follow.
func (p *placer) require(b *bid, asks []*member, by int32) {
	for _, q := range asks {
		was := q.needed
		q.needed += by
		switch {
		case q.whole:
		case was == 0:
			p.add(p.guardSlot(q))
		case q.needed == 0:
			p.drop(q.guard)
		}
	}
	if st := b.u.station; st != nil {
		was := st.needed
		st.needed += by
		switch {
		case was == 0:
			p.add(st)
		case st.needed == 0:
			p.drop(st)
		}
	}
}

// evictWhole takes all of b out of the target.
func (p *placer) evictWhole(b *bid) {
	for _, s := range b.entries {
		p.drop(s)
	}
	b.entries, b.placed = nil, false
	if b.u.whole {
		b.m.whole = false
		if b.m.needed > 0 {
			p.add(p.guardSlot(b.m))
		}
	}
	asks, _ := p.asksOf(b.m, b.u)
	p.require(b, asks, -1)
}

func (p *placer) stationCost(b *bid) int {
	if b.u.station != nil && b.u.station.needed == 0 {
		return 1
	}
	return 0
}

// placePiece puts a piece into the target, or says why it cannot be there. The room
// is there.
func (p *placer) placePiece(piece *piece) *device.Refusal {
	b := piece.bid
	adds := []*slot{piece.slot}
	if p.stationCost(b) > 0 {
		adds = append(adds, b.u.station)
	}
	if why := p.barred(b.m, adds); why != nil {
		return why
	}
	p.add(piece.slot)
	p.require(b, nil, 1)
	b.pieces = append(b.pieces, piece)
	for _, f := range piece.held {
		f.pieces++
	}
	if why := p.use.over(); why != nil {
		p.evictPiece(piece)
		return why
	}
	return nil
}

// evictPiece takes a piece out of the target.
func (p *placer) evictPiece(gone *piece) {
	b := gone.bid
	if gone.came {
		p.came--
	}
	p.drop(gone.slot)
	p.require(b, nil, -1)
	b.pieces = slices.DeleteFunc(b.pieces, func(o *piece) bool { return o == gone })
	for _, f := range gone.held {
		f.pieces--
	}
}

// idlePieces is how many pieces without hot flows stay in a device of which nobody knows how
// much it holds. In others it is for room that they go; there, flows that come and go would
// leave pieces behind until the device refused one, each of which is read in every look. One
// that has them counts as full: no more pieces come and go in a plan than Traffic.Budget says.
const idlePieces = 2048

// adopt places what is installed and still sound, highest first.
func (p *placer) adopt(kept []*flow.Entry) {
	have := map[*unit]int{}
	for _, e := range kept {
		at, known := p.table.Index(e.Rule)
		if e.Punt() || !known || p.members[at].whole || p.coverOf(p.members[at]) != nil {
			continue
		}
		m, k := p.members[at], 0
		if n := p.ways(m); n == 0 {
			continue
		} else if normal, _ := switches(m.rule.Actions); normal {
			st := pinned(flow.Station{VLAN: uint16(e.Match.Value.Get(flow.VLAN) & flow.TagID), MAC: e.Match.Value.Get(flow.DstMAC)})
			if k, known = p.station[st]; !known {
				continue
			}
		}
		for _, u := range p.units(m, k) {
			if !u.match.Covers(&e.Match) || !u.actions.Equal(e.Actions) {
				continue
			}
			b := p.bidOf(m, u)
			piece, all := e.Kind == flow.PieceEntry, slices.ContainsFunc(u.parts, func(with part) bool { return with.Match == e.Match })
			if all {
				asks, ok := p.asksOf(m, u)
				all = piece == (ok && len(asks) == 0 && !u.whole) // else it may be one around a flow
			}
			if all {
				if have[u]++; have[u] < len(u.parts) {
					break
				}
				if cost, why := p.cost(b); why == nil && cost <= p.room() {
					p.placeWhole(b)
				}
				break
			}
			if piece && p.model.Admit(&e.Match, e.Actions, e.Kind) == nil && 1+p.stationCost(b) <= p.room() {
				s := p.Planner.placed[e.ID]
				if s != nil && !s.Equal(e) {
					s = nil
				}
				piece := p.pieceOf(b, e.Match, s)
				if idle := len(piece.held) == 0 && p.first != nil && p.limits.Entries == 0; idle {
					if p.idle >= idlePieces && (p.traffic.Budget == 0 || p.evicted < p.traffic.Budget) {
						p.evicted++
						break
					}
					p.idle++
				}
				p.placePiece(piece)
				break
			}
		}
	}
}
