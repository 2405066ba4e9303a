package agent

import (
	"cmp"
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// flows are where in its rules a blade's traffic is, so that placement can make pieces.
//
// Problem. A rule that hundreds of others are asked before cannot be in a device whole, but
// a box around its hot flows can. Nobody counts flows: a device counts entries, the flow
// cache those flows that it knows, and software knows them one packet at a time.
//
// Idea. What looks the same to the table is one flow: packets are told apart by the bits
// that the table looks at ([fallback.View]). Its packets are counted where it is answered:
// the flow cache counts each flow; of the frames that software judges samples are looked at
// anyway, and each stands for its share of all; and what a piece in a device counts is
// shared out among the flows known to be in it, as they were before. So a flow keeps its
// heat on its way from software to a device and back.
//
// The cache knows only the bits that the table looks at. A device that matches whole fields
// needs the others too, so a packet of the flow is kept from the samples, if one was seen;
// else no piece is made around it that looks at them, for no packet might be in that.
//
// Cost: memory for [knownFlows], and at each look some 0.1 µs for each that is known and 50 ns
// for each pair of a flow and a piece of its rule, of which at most [sharePairs] are compared.
type flows struct {
	warmth[flow.Key]
	table *flow.Table
	view  flow.Key
	known map[flow.Key]*known // by what the table sees of it
	asked int                 // samples since the last look
	shown uint64              // frames that they stand for
	news  map[flow.Key]uint64 // how many of them were of each flow
}

// known is a flow.
type known struct {
	packet  flow.Key // one of it
	seen    flow.Key // the bits of it that are known; zero if all are
	rule    flow.RuleID
	packets uint64 // counted
}

// knownFlows is how many are known at the most: the hottest.
const knownFlows = 4096

// turn begins to tell flows apart as another table does.
func (f *flows) turn(t *flow.Table) {
	if t == f.table {
		return
	}
	was := *f
	f.table, f.view, f.known, f.news = t, fallback.View(t), map[flow.Key]*known{}, map[flow.Key]uint64{}
	f.asked, f.shown = 0, 0
	if was.table == nil {
		return
	}
	f.seen, f.rates = map[flow.Key]uint64{}, map[flow.Key]float64{}
	for _, g := range slices.SortedFunc(maps.Keys(was.known), byKey) {
		old := was.known[g]
		f.flow(&old.packet, &old.seen, old.rule).packets += old.packets
		now := f.group(&old.packet)
		f.seen[now] += was.seen[g]
		f.rates[now] += was.rates[g]
	}
}

func byKey(a, b flow.Key) int { return slices.Compare(a[:], b[:]) }

// group returns what the table sees of a packet.
func (f *flows) group(k *flow.Key) (g flow.Key) {
	for w := range g {
		g[w] = k[w] & f.view[w]
	}
	return g
}

// flow returns the flow of a packet of which these bits are known, known from now on.
func (f *flows) flow(packet, seen *flow.Key, rule flow.RuleID) *known {
	g := f.group(packet)
	one := f.known[g]
	if one == nil {
		one = &known{packet: *packet, seen: *seen}
		f.known[g] = one
	} else if *seen == (flow.Key{}) {
		one.packet, one.seen = *packet, *seen
	}
	one.rule = rule
	return one
}

// sampled notes a frame that software judged rightly.
func (f *flows) sampled(s *fallback.Sample) {
	if s.Table != f.table {
		return
	}
	f.flow(&s.Key, new(flow.Key), f.table.Rule(s.Rule).ID)
	f.news[f.group(&s.Key)]++
	f.asked++
	f.shown += 1 + s.Skipped
}

// look counts what flows had since the last one.
func (f *flows) look(a *Agent) {
	if a.running == nil {
		return
	}
	f.turn(a.running)
	for g, n := range f.news {
		f.known[g].packets += n * f.shown / uint64(f.asked)
	}
	clear(f.news)
	f.asked, f.shown = 0, 0
	if a.Busiest != nil {
		for _, b := range a.Busiest(knownFlows) {
			f.flow(&b.Key, &f.view, b.Rule).packets += b.Packets
		}
	}
	var answered []answers
	for _, c := range a.devices {
		for i := range c.installed {
			if e := &c.installed[i]; e.Kind == flow.PieceEntry && c.ledger.more[e.ID] > 0 {
				answered = append(answered, answers{e, c.ledger.more[e.ID]})
			}
		}
	}
	of := f.ofRules(sharePairs / max(1, len(answered)))
	for _, p := range answered {
		f.share(p.by, p.packets, of[p.by.Rule])
	}
	packets := make(map[flow.Key]uint64, len(f.known))
	for g, k := range f.known {
		packets[g] = k.packets
	}
	f.update(a.Now(), packets)
	f.forget()
}

// answers are packets that a piece has answered since the last look.
type answers struct {
	by      *flow.Entry
	packets uint64
}

// sharePairs bounds how many pairs of a flow and a piece of its rule one look compares: some
// 50 ms of processor time. Somebody who makes many flows hot makes many pieces, too.
const sharePairs = 1 << 20

// ofRules returns the known flows of each rule, the hottest if there are more than most.
func (f *flows) ofRules(most int) map[flow.RuleID][]*known {
	of := map[flow.RuleID][]*known{}
	for _, k := range f.known {
		of[k.rule] = append(of[k.rule], k)
	}
	for rule, all := range of {
		if len(all) > most {
			slices.SortFunc(all, func(a, b *known) int {
				return cmp.Or(cmp.Compare(f.rates[f.group(&b.packet)], f.rates[f.group(&a.packet)]), byKey(a.packet, b.packet))
			})
			of[rule] = all[:most]
		}
	}
	return of
}

// share shares out what a piece has counted among those flows of its rule that are in it, as
// they were before; to one that is made up if there are none.
func (f *flows) share(e *flow.Entry, packets uint64, of []*known) {
	sum := 0.0
	var inside []*known
	for _, k := range of {
		if e.Match.Matches(&k.packet) {
			inside = append(inside, k)
			sum += f.rates[f.group(&k.packet)]
		}
	}
	if len(inside) == 0 {
		if k, ok := flow.Witness(&e.Match); ok {
			seen := e.Match.Mask
			if !e.Match.SrcPort.Any() {
				seen.Set(flow.SrcPort, flow.SrcPort.Max())
			}
			if !e.Match.DstPort.Any() {
				seen.Set(flow.DstPort, flow.DstPort.Max())
			}
			f.flow(&k, &seen, e.Rule).packets += packets
		}
		return
	}
	for _, k := range inside {
		part := 1 / float64(len(inside))
		if sum > 0 {
			part = f.rates[f.group(&k.packet)] / sum
		}
		k.packets += uint64(part * float64(packets))
	}
}

// forget forgets flows without packets, and the coldest of too many: who comes back begins
// to count anew.
func (f *flows) forget() {
	if len(f.rates) == 0 { // nothing is known of rates yet
		return
	}
	const none = 0.1 // packets a second
	for g := range f.known {
		if f.rates[g] < none {
			f.drop(g)
		}
	}
	if len(f.known) <= knownFlows {
		return
	}
	all := slices.SortedFunc(maps.Keys(f.known), func(a, b flow.Key) int {
		return cmp.Or(cmp.Compare(f.rates[b], f.rates[a]), byKey(a, b))
	})
	for _, g := range all[knownFlows:] {
		f.drop(g)
	}
}

// drop forgets a flow.
func (f *flows) drop(g flow.Key) {
	delete(f.known, g)
	delete(f.seen, g)
}

// hot returns the hot flows that a device could answer.
func (f *flows) hot(c *card) (out []offload.Flow) {
	for g, k := range f.known {
		if level := f.levels[g]; level > 0 && mayAnswer(&c.model, &k.packet) {
			out = append(out, offload.Flow{Key: k.packet, Seen: k.seen, Rule: k.rule, Packets: level})
		}
	}
	slices.SortFunc(out, func(a, b offload.Flow) int { return byKey(a.Key, b.Key) })
	return out
}
