package offload

import (
	"cmp"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Heat is how many packets each rule has seen of late: what placement maximises.
// The default counts under [flow.DefaultRule]. Nil makes all rules alike: those that
// need fewer entries are placed first, and among these the earlier ones.
type Heat map[flow.RuleID]uint64

// Flow is packets of one key that were seen of late. Flows are how a planner knows
// where in a rule the traffic is.
type Flow struct {
	Key     flow.Key
	Rule    flow.RuleID // that answered them; if another rule does now, the flow is of no use
	Packets uint64
	Seen    flow.Key // the bits of Key that are known, the others being zero; if none is set, all are
}

// sees reports whether all that a match looks at is known of f's packets. One that looks at
// more need not match any of them.
func (f *Flow) sees(m *flow.Match) bool {
	if f.Seen == (flow.Key{}) {
		return true
	}
	for w := range m.Mask {
		if m.Mask[w]&^f.Seen[w] != 0 {
			return false
		}
	}
	return (m.SrcPort.Any() || f.Seen.Get(flow.SrcPort) == flow.SrcPort.Max()) && (m.DstPort.Any() || f.Seen.Get(flow.DstPort) == flow.DstPort.Max())
}

// Traffic is what placement goes by.
type Traffic struct {
	Rules Heat
	// Flows are the hottest ones, in any order. They may be a part of what Rules
	// counts, or all. Without them there are no pieces of rules.
	Flows []Flow

	// Budget is how many entries may be taken out to make room for hotter ones; zero
	// is any number. Entries that have to go do not count. In a device of which nobody
	// knows how much it holds it is also how many pieces may come, and how many may go,
	// once thousands are idle there.
	Budget int
	// Young are entries that are not taken out to make room: they have not been there
	// for long.
	Young map[flow.EntryID]bool
}

// hot is a flow as placement sees it.
type hot struct {
	of      *Flow
	key     *flow.Key // of it
	packets float64
	pieces  int32 // how many of those placed hold it
	barren  bool  // no piece can hold it
	lost    bool  // because another rule answers it now
}

// cold stands for no packets: a rule without traffic is worth a little, so that room
// which nobody else wants is not wasted.
const cold = 1e-6

// Margin is how much hotter something has to be, for each entry it takes, to displace
// what is there: what the two gain and lose in turn is no reason to move them. With
// smoothed rates it makes a tenth of the changes at the same hit rate
// (TestChurn).
const Margin = 2

// weigh fills weights with what each rule is worth, by place in the wanted table, and
// flows with the hot ones.
func (p *placer) weigh(t *Traffic) {
	p.weights = make([]float64, len(p.members))
	if t.Rules == nil && len(t.Flows) == 0 {
		for i := range p.weights {
			p.weights[i] = 1
		}
		return
	}
	for i, m := range p.members {
		p.weights[i] = cold + float64(t.Rules[m.rule.ID])
	}
	if len(t.Flows) == 0 {
		return
	}
	// Flows of one rule beside each other, in the order in which they came.
	n := len(p.members)
	of, first := make([]int32, len(t.Flows)), make([]int32, n+1)
	at, ok := 0, false
	for i := range t.Flows {
		f := &t.Flows[i]
		if i == 0 || f.Rule != t.Flows[i-1].Rule { // those of one rule often come together
			at, ok = p.table.Index(f.Rule)
		}
		if !ok || !p.members[at].rule.Match.Matches(&f.Key) {
			of[i] = -1
			continue
		}
		of[i] = int32(at)
		first[at+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}
	next := slices.Clone(first)
	p.flows, p.first = make([]hot, first[n]), first
	for i, at := range of {
		if at >= 0 {
			f := &t.Flows[i]
			p.flows[next[at]] = hot{of: f, key: &f.Key, packets: float64(f.Packets)}
			next[at]++
		}
	}
	for i := range n {
		sum := 0.0
		for j := first[i]; j < first[i+1]; j++ {
			sum += p.flows[j].packets
		}
		p.weights[i] = max(p.weights[i], sum)
	}
}

// flowsOf returns the hot flows of m's rule, hottest first.
func (p *placer) flowsOf(m *member) []hot {
	if p.first == nil {
		return nil
	}
	at := m.place[after]
	flows := p.flows[p.first[at]:p.first[at+1]]
	if !slices.IsSortedFunc(flows, hotter) { // as is, before somebody has asked
		slices.SortFunc(flows, hotter)
	}
	return flows
}

// hotter orders flows by packets, and those alike by key.
func hotter(a, b hot) int {
	return cmp.Or(cmp.Compare(b.packets, a.packets), slices.Compare(a.key[:], b.key[:]))
}
