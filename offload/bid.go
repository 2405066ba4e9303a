package offload

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// bid is a unit that asks for room in a placement: whole, or piece by piece.
type bid struct {
	plan    *placer // it is of
	m       *member
	u       *unit
	packets float64 // what all of it answers
	flows   []*hot  // those of it that are known, hottest first

	entries []*slot  // its own, if all of it is placed
	placed  bool     // all of it
	pieces  []*piece // placed ones
	spare   *piece   // offered last; nil if none was
	offered float64  // the ratio of the last offer of all of it
	wants   bool     // it is in wanted of the rules whose guards it lacks
	told    int      // the last of placer.news that it heard
}

// piece is a box in a unit.
type piece struct {
	*bid
	slot   *slot
	around *hot // nil if it was there already
	came   bool // it is in placer.came
	held   []*hot
}

// brings is what a piece answers that no other one does.
func (p *piece) brings() float64 {
	sum, others := cold, int32(0)
	if p.slot.in {
		others = 1
	}
	for _, f := range p.held {
		if f.pieces <= others {
			sum += f.packets
		}
	}
	return sum
}

// nothing stands for the cost of what replaces what it needs: an entry that takes the
// place of its rule's guard, or of pieces. It is not zero so that such bids have an
// order too.
const nothing = 0.01

func ratio(packets float64, cost int) float64 { return packets / max(nothing, float64(cost)) }

// bidOf returns u's bid in this placement.
func (p *placer) bidOf(m *member, u *unit) *bid {
	if u.bid != nil && u.bid.plan == p {
		return u.bid
	}
	b := &bid{plan: p, m: m, u: u}
	at := m.place[after]
	b.packets = p.weights[at]
	flows := p.flowsOf(m)
	n := p.ways(m)
	all, sum, every := 0.0, 0.0, n == 1 && u.whole
	for i := range flows {
		f := &flows[i]
		all += f.packets
		if every || u.match.Matches(f.key) {
			sum += f.packets
			f.lost = p.lost(m, f.key)
			b.flows = append(b.flows, f)
		}
	}
	if !every {
		b.packets = max(cold, sum+(p.weights[at]-all)/float64(n))
	}
	u.bid = b
	p.bids = append(p.bids, b)
	return b
}

// fewFresh is how many new rules a flow is compared with one by one.
const fewFresh = 64

// lost reports whether a new rule takes packets that m's rule took when they were counted.
// It need not know: no piece can hold such a flow, and it takes long to find that out for
// each one by itself.
func (p *placer) lost(m *member, k *flow.Key) bool {
	return len(p.Planner.fresh) <= fewFresh && slices.ContainsFunc(p.Planner.fresh, func(q *member) bool { return q.place[after] < m.place[after] && q.rule.Match.Matches(k) })
}

// refuse notes why a rule stays in software, if nothing was noted yet.
func (p *placer) refuse(m *member, why *device.Refusal) {
	if at := m.place[after]; p.refusals[at] == nil {
		p.refusals[at] = why
	}
}

// pass looks at all bids from the best down, and places what fits or displaces what
// is worse.
func (p *placer) pass() {
	p.changed, p.ranked, p.offers = false, false, slices.Grow(p.offers[:0], len(p.members))
	clear(p.refusals)
	for _, m := range p.members {
		m.wanted = nil
		if !m.whole {
			p.offers = append(p.offers, offer{ratio: p.atMost(m), at: m.place[after]})
		}
	}
	for _, b := range p.bids {
		b.offered, b.wants = 0, false
		for _, f := range b.flows {
			f.barren = false
		}
	}
	p.offers.order()
	for len(p.offers) > 0 {
		if p.room() == 0 && !p.displaces(p.offers[0].ratio) {
			break
		}
		o := p.offers.pop()
		switch {
		case o.b == nil:
			p.look(p.members[o.at], int(o.k))
		case o.more:
			p.offerPiece(o.b)
		case o.p != nil:
			p.tryPiece(o.p, o.ratio)
		default:
			p.tryWhole(o.b, o.ratio)
		}
	}
	p.replace()
}

// replace places what takes no room, because it replaces guards or pieces.
func (p *placer) replace() {
	for _, m := range p.members {
		if m.needed > 0 && !m.whole && p.ways(m) == 1 && p.coverOf(m) == nil {
			for _, u := range p.units(m, 0) {
				if u.whole {
					p.bidOf(m, u)
				}
			}
		}
	}
	slices.SortFunc(p.bids, inTable)
	for _, b := range p.bids {
		if b.placed || b.m.needed == 0 && len(b.pieces) == 0 {
			continue
		}
		if cost, why := p.cost(b); why == nil && cost <= p.room() && p.placeWhole(b) == nil {
			p.changed = true
		}
	}
}

// inTable orders bids as the table asks their rules.
func inTable(a, b *bid) int { return cmp.Or(inOrder(a.m, b.m), cmp.Compare(a.u.nr, b.u.nr)) }

// atMost returns a bound for what a bid of m brings for each entry.
func (p *placer) atMost(m *member) float64 {
	w := p.weights[m.place[after]]
	if m.needed > 0 {
		return ratio(w, 0)
	}
	return w
}

// look makes bids of m's k-th units and offers them. A rule for many stations is
// looked at one station at a time, those with flows first.
func (p *placer) look(m *member, k int) {
	n := p.ways(m)
	if k >= n {
		return
	}
	if why := p.neverAsked(m); why != nil {
		p.refuse(m, why)
		return
	}
	if k == 0 && n > 1 {
		for _, f := range p.flowsOf(m) {
			st := pinned(flow.Station{VLAN: uint16(f.key.Get(flow.VLAN) & flow.TagID), MAC: f.key.Get(flow.DstMAC)})
			if at, known := p.station[st]; known && at > 0 {
				p.offerUnits(m, at)
			}
		}
	}
	p.offerUnits(m, k)
	if k+1 < n {
		p.offers.push(offer{ratio: p.weights[m.place[after]] / float64(n), at: m.place[after], k: int32(k + 1)})
	}
}

func (p *placer) neverAsked(m *member) *device.Refusal {
	if q := p.coverOf(m); q != nil {
		return &device.Refusal{Code: "E_NEVER_ASKED", Reason: fmt.Sprintf("rule %s takes all of its packets", q.rule.Name), Fix: "remove it, or raise its priority"}
	}
	return nil
}

func (p *placer) offerUnits(m *member, k int) {
	for _, u := range p.units(m, k) {
		b := p.bidOf(m, u)
		if b.placed {
			continue
		}
		first := b.offered == 0
		if len(b.flows) > 0 {
			p.asksUpTo(m, u, max(p.mostAsks, p.mostCuts)) // once for both
		}
		p.offerWhole(b)
		if asks, ok := p.asksOf(m, u); first && (u.refusal != nil || !ok || len(asks) > 0) {
			p.offerMore(b)
		}
	}
}

// offerWhole offers all of b, if that can be in the device.
func (p *placer) offerWhole(b *bid) {
	cost, why := p.cost(b)
	if why != nil {
		p.refuse(b.m, why)
		b.offered = cold
		return
	}
	b.offered = ratio(p.gain(b), cost)
	p.offers.push(offer{ratio: b.offered, at: b.m.place[after], b: b})
}

// gain returns what all of b brings that its pieces do not.
func (p *placer) gain(b *bid) float64 {
	sum := b.packets
	if len(b.pieces) > 0 {
		for _, f := range b.flows {
			if f.pieces > 0 {
				sum -= f.packets
			}
		}
	}
	return max(sum, cold)
}

// cost returns how many entries more there are with all of b in the device, or what
// stands in its way.
func (p *placer) cost(b *bid) (int, *device.Refusal) {
	u, m := b.u, b.m
	if u.refusal != nil {
		return 0, u.refusal
	}
	cost := len(u.parts) - len(b.pieces)
	asks, ok := p.asksOf(m, u)
	if !ok {
		return 0, p.hopeless
	}
	lacks := p.lacking[:0]
	for _, q := range asks {
		if p.model.Order != device.Honoured || q.level == m.level {
			return 0, p.orderRefusal(m.rule, q.rule)
		}
		if q.whole {
			continue
		}
		if refusal := p.guardOf(q); refusal != nil {
			return 0, refusal
		}
		if (q.widened != nil || !u.whole) && slices.ContainsFunc(u.parts, func(with part) bool { return q.guards().Covers(&with.Match) }) {
			return 0, &device.Refusal{Code: "E_GUARD_COVERS", Reason: fmt.Sprintf("rule %s is asked before it, in software, and its guard would punt all of this", q.rule.Name),
				Fix: "make " + q.rule.Name + " one that the device can hold, or match fewer packets with it"}
		}
		if q.needed == 0 {
			cost++
			if len(lacks) <= fewGuards {
				lacks = append(lacks, q)
			}
		}
	}
	if u.whole && m.needed > 0 {
		cost--
	}
	if u.station != nil && u.station.needed == 0 {
		cost++
	}
	p.lacking = lacks
	if !b.wants && len(lacks) <= fewGuards {
		b.wants = true
		for _, q := range lacks {
			q.wanted = append(q.wanted, b)
		}
	}
	return cost, nil
}

// fewGuards is how many guards a bid may lack to be told when one of them comes. A
// bid that lacks more is hopeless, and telling all of these costs too much.
const fewGuards = 64

func (p *placer) orderRefusal(r, earlier *flow.Rule) *device.Refusal {
	if p.model.Order != device.Honoured {
		return &device.Refusal{Code: "E_ORDER", Reason: fmt.Sprintf("rule %s is asked before it, and %s may ask entries in any order", earlier.Name, p.model.Name),
			Fix: "make the two rules disjoint, or use a device that honours priority"}
	}
	return &device.Refusal{Code: "E_ORDER", Reason: fmt.Sprintf("rule %s has the same priority and nearly the same ID", earlier.Name),
		Fix: "give " + r.Name + " a lower priority"}
}

// tryWhole places all of b if its offer still stands and there is room.
func (p *placer) tryWhole(b *bid, offered float64) {
	if b.placed || offered != b.offered {
		return // another offer has taken the place of this one
	}
	cost, why := p.cost(b)
	if why != nil {
		p.refuse(b.m, why)
		return
	}
	gain := p.gain(b)
	if now := ratio(gain, cost); now < offered {
		b.offered = now
		p.offers.push(offer{ratio: now, at: b.m.place[after], b: b})
		return
	}
	if cost > p.room() {
		if why := p.displace(b, true, gain, offered, func() (int, *device.Refusal) { return p.cost(b) }); why != nil {
			p.refuse(b.m, why)
			return
		}
	}
	if why := p.placeWhole(b); why != nil {
		p.refuse(b.m, why)
		return
	}
	p.settle(b)
}

// settle lets others know that b was placed: rules that have guards now may take
// their places, and who lacked these guards needs fewer entries.
func (p *placer) settle(b *bid) {
	p.changed = true
	p.news++
	asks, _ := p.asksOf(b.m, b.u)
	for _, q := range asks {
		if q.whole {
			continue
		}
		if q.needed == 1 {
			p.offers.push(offer{ratio: p.atMost(q), at: q.place[after]})
		}
		p.tell(q)
	}
	p.tell(b.m)
}

// tell offers again what lacked q's guard, if it has become a good deal cheaper. Who
// lacked several that came at once is told once.
func (p *placer) tell(q *member) {
	for _, w := range q.wanted {
		if w.placed || w.told == p.news {
			continue
		}
		w.told = p.news
		if cost, why := p.cost(w); why == nil {
			if now := ratio(p.gain(w), cost); now > 1.2*w.offered {
				w.offered = now
				p.offers.push(offer{ratio: now, at: w.m.place[after], b: w})
			}
		}
	}
}

// offerMore offers one more piece of b, if there are flows for it, without making it: it
// takes a hundred times as long, and for most bids the next one is never wanted.
func (p *placer) offerMore(b *bid) {
	left := 0.0
	for _, f := range b.flows {
		if f.pieces == 0 && !f.barren && !f.lost {
			left += f.packets
		}
	}
	if left > 0 {
		p.offers.push(offer{ratio: (cold + left) / float64(1+p.stationCost(b)), at: b.m.place[after], b: b, more: true})
	}
}

// offerPiece offers the piece of b around the hottest flow that is in none, if there
// is one.
func (p *placer) offerPiece(b *bid) {
	for _, f := range b.flows {
		if f.pieces > 0 || f.barren || f.lost {
			continue
		}
		made := b.spare
		if made == nil || made.around != f || p.limits.Masks > 0 { // which masks are there matters too
			made = p.pieceAround(b, f)
		}
		if made != nil {
			made.around, b.spare = f, made
			p.offers.push(offer{ratio: made.brings() / float64(1+p.stationCost(b)), at: b.m.place[after], b: b, p: made})
			return
		}
		f.barren = true
	}
}

// tryPiece places a piece of a bid that is not placed, and offers the next.
func (p *placer) tryPiece(piece *piece, offered float64) {
	b := piece.bid
	if b.placed || p.idle >= idlePieces && p.traffic.Budget > 0 && p.came >= p.traffic.Budget {
		return
	}
	gain, cost := piece.brings(), 1+p.stationCost(b)
	if now := gain / float64(cost); now < offered {
		p.offers.push(offer{ratio: now, at: b.m.place[after], b: b, p: piece})
		return
	}
	if cost > p.room() {
		if why := p.displace(b, false, gain, offered, func() (int, *device.Refusal) { return 1 + p.stationCost(b), nil }); why != nil {
			p.refuse(b.m, why)
			return
		}
	}
	if why := p.placePiece(piece); why != nil {
		p.refuse(b.m, why)
		piece.around.barren = true // for this pass
	} else {
		p.changed, piece.came = true, true
		p.came++
	}
	p.offerMore(b)
}
