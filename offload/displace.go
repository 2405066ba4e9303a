package offload

import (
	"cmp"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What has to go when there is no room? A bid may displace what brings less than
// 1/Margin of what it brings for each entry. What is placed is listed once in a pass,
// when the first bid finds no room, with what is lost for each entry that it gives
// back; that changes as guards come to serve fewer units, so it is looked at again
// before anything goes. A bid that costs several entries displaces several, or none.

// loser is something placed, and the packets that are lost for each entry it gives
// back.
type loser struct {
	ratio float64
	b     *bid
	p     *piece // nil for the whole bid
}

// id orders losers that are alike.
func (l *loser) id() flow.EntryID {
	if l.p != nil {
		return l.p.slot.ID
	}
	return l.b.entries[0].ID
}

// rank lists what is placed, what loses least last. It does so once in a pass, when
// the first bid finds no room; what is placed after that is hotter than what is
// listed.
func (p *placer) rank() {
	if p.ranked {
		return
	}
	p.ranked, p.losers = true, p.losers[:0]
	for _, b := range p.bids {
		if b.placed {
			p.losers = append(p.losers, loser{b: b})
		}
		for _, piece := range b.pieces {
			p.losers = append(p.losers, loser{b: b, p: piece})
		}
	}
	p.losers = slices.DeleteFunc(p.losers, func(l loser) bool { return !p.loses(&l) })
	slices.SortFunc(p.losers, compareLosers)
}

func compareLosers(a, b loser) int {
	if a.ratio != b.ratio {
		return cmp.Compare(b.ratio, a.ratio)
	}
	return cmp.Compare(a.id(), b.id())
}

// loses sets l's ratio; it is false if l is not placed, must stay, or gives nothing
// back.
func (p *placer) loses(l *loser) bool {
	if l.p != nil {
		l.ratio = l.p.brings()
		return l.p.slot.in && !p.traffic.Young[l.p.slot.ID]
	}
	if !l.b.placed || slices.ContainsFunc(l.b.entries, func(s *slot) bool { return p.traffic.Young[s.ID] }) {
		return false
	}
	freed := len(l.b.entries)
	asks, _ := p.asksOf(l.b.m, l.b.u)
	for _, q := range asks {
		if !q.whole && q.needed == 1 {
			freed++
		}
	}
	if l.b.u.whole && l.b.m.needed > 0 {
		if p.guardOf(l.b.m) != nil {
			return false // others rely on it
		}
		freed--
	}
	if st := l.b.u.station; st != nil && st.needed == 1 {
		freed++
	}
	l.ratio = l.b.packets / float64(max(1, freed))
	return freed > 0
}

// worst returns what loses least now and takes it off the list; ok is false if
// nothing is left.
func (p *placer) worst() (l loser, ok bool) {
	p.rank()
	for len(p.losers) > 0 {
		last := len(p.losers) - 1
		l = p.losers[last]
		p.losers = p.losers[:last]
		was := l.ratio
		switch {
		case !p.loses(&l):
		case l.ratio > was && last > 0 && l.ratio > p.losers[last-1].ratio:
			p.putBack(l)
		default:
			return l, true
		}
	}
	return loser{}, false
}

func (p *placer) putBack(l loser) {
	i, _ := slices.BinarySearchFunc(p.losers, l, compareLosers)
	p.losers = slices.Insert(p.losers, i, l)
}

// displaces reports whether something is placed that a bid of this ratio may
// displace.
func (p *placer) displaces(best float64) bool {
	if p.traffic.Budget > 0 && p.evicted >= p.traffic.Budget {
		return false
	}
	l, ok := p.worst()
	if ok {
		p.putBack(l)
	}
	return ok && l.ratio*Margin < best
}

// mostLosers bounds what one bid may displace.
const mostLosers = 16

// displace makes room for a bid that costs more than there is, or puts everything back
// and returns why it cannot.
func (p *placer) displace(b *bid, whole bool, gain, offered float64, costs func() (int, *device.Refusal)) *device.Refusal {
	cost, why := costs()
	full := p.full(cost, max(0, cost-len(b.u.parts)))
	evicted, lost := p.evicted, 0.0
	var out, own []loser
	for why == nil && cost > p.room() && len(out) < mostLosers && p.displaces(offered) {
		l, _ := p.worst()
		if whole && l.b == b {
			own = append(own, l)
			continue
		}
		if lost += l.ratio; lost*Margin >= gain {
			own = append(own, l)
			break
		}
		held := p.use.entries
		p.evict(l)
		p.evicted += max(0, held-p.use.entries)
		out = append(out, l)
		cost, why = costs()
	}
	for _, l := range own {
		p.putBack(l)
	}
	if why == nil && cost <= p.room() {
		return nil
	}
	for _, l := range slices.Backward(out) {
		if l.p != nil {
			p.placePiece(l.p)
		} else {
			p.placeWhole(l.b)
		}
		p.putBack(l)
	}
	p.evicted = evicted
	return cmp.Or(why, full)
}

func (p *placer) evict(l loser) {
	if l.p != nil {
		p.evictPiece(l.p)
	} else {
		p.evictWhole(l.b)
	}
}
