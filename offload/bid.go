package offload

import (
	"cmp"
	"container/heap"
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
	offered float64  // the ratio of the last offer of all of it
	wants   bool     // it is in wanted of the rules whose guards it lacks
}

// piece is a box in a unit.
type piece struct {
	*bid
	slot   *slot
	around *hot // nil if it was there already
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

// offer is a bid, or a piece of it, at the packets it brings for each entry.
type offer struct {
	ratio float64
	m     *member
	k     int    // of which units to look at the bids; valid iff b is nil
	b     *bid   // nil if they were not looked at yet
	p     *piece // nil for the whole bid
}

// offers is a heap, the best on top.
type offers []offer

func (o offers) Len() int      { return len(o) }
func (o offers) Swap(i, j int) { o[i], o[j] = o[j], o[i] }
func (o offers) Less(i, j int) bool {
	a, b := &o[i], &o[j]
	if a.ratio != b.ratio {
		return a.ratio > b.ratio
	}
	return cmp.Or(inOrder(a.m, b.m), cmp.Compare(a.nr(), b.nr()), cmp.Compare(a.kind(), b.kind())) < 0
}

func (o *offer) nr() int {
	if o.b == nil {
		return o.k << 16
	}
	return o.b.u.nr
}

func (o *offer) kind() int {
	switch {
	case o.b == nil:
		return 0
	case o.p == nil:
		return 1
	}
	return 2
}

// Push and Pop are for package heap.
func (o *offers) Push(x any) { *o = append(*o, x.(offer)) }
func (o *offers) Pop() any {
	last := len(*o) - 1
	x := (*o)[last]
	*o = (*o)[:last]
	return x
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
	if p.flows != nil {
		b.flows = p.flows[at]
	}
	if n := p.ways(m); n > 1 || !u.whole {
		all, sum := 0.0, 0.0
		b.flows = nil
		if p.flows != nil {
			for _, f := range p.flows[at] {
				all += f.packets
				if u.match.Matches(f.key) {
					sum += f.packets
					b.flows = append(b.flows, f)
				}
			}
		}
		b.packets = max(cold, sum+(p.weights[at]-all)/float64(n))
	}
	u.bid = b
	p.bids = append(p.bids, b)
	return b
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
	p.changed, p.ranked, p.offers = false, false, p.offers[:0]
	clear(p.refusals)
	for _, m := range p.members {
		m.wanted = nil
		if !m.whole {
			p.offers = append(p.offers, offer{ratio: p.atMost(m), m: m})
		}
	}
	for _, b := range p.bids {
		b.offered, b.wants = 0, false
		for _, f := range b.flows {
			f.barren = false
		}
	}
	heap.Init(&p.offers)
	for len(p.offers) > 0 {
		if p.room() == 0 && !p.displaces(p.offers[0].ratio) {
			break
		}
		o := heap.Pop(&p.offers).(offer)
		switch {
		case o.b == nil:
			p.look(o.m, o.k)
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
	if k == 0 && n > 1 && p.flows != nil {
		for _, f := range p.flows[m.place[after]] {
			st := pinned(flow.Station{VLAN: uint16(f.key.Get(flow.VLAN) & flow.TagID), MAC: f.key.Get(flow.DstMAC)})
			if at, known := p.station[st]; known && at > 0 {
				p.offerUnits(m, at)
			}
		}
	}
	p.offerUnits(m, k)
	if k+1 < n {
		heap.Push(&p.offers, offer{ratio: p.weights[m.place[after]] / float64(n), m: m, k: k + 1})
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
		p.offerWhole(b)
		if asks, ok := p.asksOf(m, u); first && (u.refusal != nil || !ok || len(asks) > 0) {
			p.offerPiece(b)
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
	heap.Push(&p.offers, offer{ratio: b.offered, m: b.m, b: b})
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
	var lacks []*member
	for _, q := range asks {
		if p.model.Order != device.Honoured || q.level == m.level {
			return 0, p.orderRefusal(m.rule, q.rule)
		}
		if q.whole {
			continue
		}
		guard, refusal := p.guardOf(q)
		if refusal != nil {
			return 0, refusal
		}
		if (q.wider || !u.whole) && slices.ContainsFunc(u.parts, func(with part) bool { return guard.Covers(&with.Match) }) {
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
		heap.Push(&p.offers, offer{ratio: now, m: b.m, b: b})
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

// settle lets others know that b was placed: rules that have guards now may take
// their places, and who lacked these guards needs fewer entries.
func (p *placer) settle(b *bid) {
	p.changed = true
	asks, _ := p.asksOf(b.m, b.u)
	for _, q := range asks {
		if q.whole {
			continue
		}
		if q.needed == 1 {
			heap.Push(&p.offers, offer{ratio: p.atMost(q), m: q})
		}
		p.tell(q)
	}
	p.tell(b.m)
}

// tell offers again what lacked q's guard, if it has become a good deal cheaper.
func (p *placer) tell(q *member) {
	for _, w := range q.wanted {
		if w.placed {
			continue
		}
		if cost, why := p.cost(w); why == nil {
			if now := ratio(p.gain(w), cost); now > 1.2*w.offered {
				w.offered = now
				heap.Push(&p.offers, offer{ratio: now, m: w.m, b: w})
			}
		}
	}
}

// offerPiece offers the piece of b around the hottest flow that is in none, if there
// is one.
func (p *placer) offerPiece(b *bid) {
	for _, f := range b.flows {
		if f.pieces > 0 || f.barren {
			continue
		}
		if made := p.pieceAround(b, f); made != nil {
			made.around = f
			heap.Push(&p.offers, offer{ratio: made.brings() / float64(1+p.stationCost(b)), m: b.m, b: b, p: made})
			return
		}
		f.barren = true
	}
}

func (p *placer) stationCost(b *bid) int {
	if b.u.station != nil && b.u.station.needed == 0 {
		return 1
	}
	return 0
}

// tryPiece places a piece of a bid that is not placed, and offers the next.
func (p *placer) tryPiece(piece *piece, offered float64) {
	b := piece.bid
	if b.placed {
		return
	}
	gain, cost := piece.brings(), 1+p.stationCost(b)
	if now := gain / float64(cost); now < offered {
		heap.Push(&p.offers, offer{ratio: now, m: b.m, b: b, p: piece})
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
		p.changed = true
	}
	p.offerPiece(b)
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
	p.drop(gone.slot)
	p.require(b, nil, -1)
	b.pieces = slices.DeleteFunc(b.pieces, func(o *piece) bool { return o == gone })
	for _, f := range gone.held {
		f.pieces--
	}
}

// pieceAround returns a piece of b around flow f, or nil if there is none.
func (p *placer) pieceAround(b *bid, f *hot) *piece {
	box, ok := p.boxOf(b.m, b.u, f.key, b.flows)
	if !ok || p.model.Admit(&box, b.u.actions, flow.PieceEntry) != nil {
		return nil
	}
	if p.limits.Masks > 0 {
		box = p.fitMask(box, f.key, b.flows)
	}
	return p.pieceOf(b, box, nil)
}

// pieceOf makes a piece of a box.
func (p *placer) pieceOf(b *bid, box flow.Match, s *slot) *piece {
	if s == nil {
		s = p.seal(flow.Entry{Kind: flow.PieceEntry, Rule: b.m.rule.ID, Priority: pieceLevel, Match: box, Actions: b.u.actions})
	}
	made := &piece{bid: b, slot: s}
	for _, f := range b.flows {
		if box.Matches(f.key) {
			made.held = append(made.held, f)
		}
	}
	return made
}

// fitMask returns box, or, if that would take one mask too many, the part of it
// around k under one of the masks that are there which has the most packets: the
// spare one at least.
func (p *placer) fitMask(box flow.Match, k *flow.Key, flows []*hot) flow.Match {
	t := p.tallyOf(&flow.Entry{Match: box})
	if at(p.use.masks, t.mask) > 0 || p.spare[t.mask] || at(p.use.inSet, t.set) < p.use.most() {
		return box
	}
	best, most, bestMask := box, -1.0, flow.Key{}
	for sm, number := range p.masks {
		if sm.set != t.set || sm.mask.Src || sm.mask.Dst || at(p.use.masks, number) == 0 && !p.spare[number] {
			continue
		}
		under := masked(k, &sm.mask.Key)
		if !box.Covers(&under) || p.model.Admit(&under, nil, flow.PieceEntry) != nil {
			continue
		}
		sum := 0.0
		for _, f := range flows {
			if under.Matches(f.key) {
				sum += f.packets
			}
		}
		if sum > most || sum == most && slices.Compare(sm.mask.Key[:], bestMask[:]) < 0 {
			best, most, bestMask = under, sum, sm.mask.Key
		}
	}
	return best
}

// masked returns the match of k under a mask.
func masked(k, mask *flow.Key) flow.Match {
	var m flow.Match
	for w := range k {
		m.Value[w], m.Mask[w] = k[w]&mask[w], mask[w]
	}
	for _, f := range [...]flow.Field{flow.SrcPort, flow.DstPort} {
		if bits := uint16(mask.Get(f)); bits != 0 {
			m.SetPortMask(f, uint16(k.Get(f)), bits)
		}
	}
	return m
}

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
		if _, none := p.guardOf(l.b.m); none != nil {
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
			if slices.ContainsFunc(u.parts, func(with part) bool { return with.Match == e.Match }) {
				asks, ok := p.asksOf(m, u)
				if piece := ok && len(asks) == 0 && !u.whole; piece != (e.Kind == flow.PieceEntry) {
					continue
				}
				if have[u]++; have[u] < len(u.parts) {
					break
				}
				if cost, why := p.cost(b); why == nil && cost <= p.room() {
					p.placeWhole(b)
				}
				break
			}
			if e.Kind == flow.PieceEntry && p.model.Admit(&e.Match, e.Actions, e.Kind) == nil && 1+p.stationCost(b) <= p.room() {
				s := p.Planner.placed[e.ID]
				if s != nil && !s.Equal(e) {
					s = nil
				}
				p.placePiece(p.pieceOf(b, e.Match, s))
				break
			}
		}
	}
}
