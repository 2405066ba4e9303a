package offload

import (
	"reflect"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Planner plans for one device, generation after generation. Its plans are those of
// [NewPlan], to the last entry; it only finds them sooner, because it remembers what
// it found out about the rules that did not change: which of them overlap, what
// guards they need, their entries with their cookies, and that what it planned last
// is sound. Tables are compared by rule, so it is of no matter who made them or what
// generation they say they are.
//
// Use one for each device and call it with the table that is in force and the one
// that is wanted, as they follow each other. Whatever else it is given it plans as
// well, at the price of NewPlan: another model, or tables it has not seen. It is for
// one goroutine at a time. The zero value is ready for use.
//
// Cost, where little changes: about 1 µs for each rule and each entry, and for each
// rule that changed about as much as there are rules that overlap it.
// BenchmarkPlanner has the figures.
type Planner struct {
	// Fast has entries of rules of which nothing but the actions changes stay in the device
	// until software has swapped, and all that relies on them. It is weaker than what is done
	// otherwise: for a moment a device judges such packets by the table before and software
	// by the one after.
	Fast bool

	table   *flow.Table  // the one wanted last; nil before the first plan
	model   device.Model // without its limits of number, which change nothing of what is kept
	members []*member    // the rules of table in order, the default last
	was     []*member    // those of the table before it
	gone    []*member    // what is only in that one
	fresh   []*member    // what is only in table
	buried  int          // rules in the index that are in neither
	index   *index

	stations []flow.Station
	station  map[flow.Match]int // where a station is, by what it pins
	ports    []flow.Port
	pinned   [2]map[flow.Match]flow.Port // by side: the stations' ports by what they pin

	byStation map[flow.Match]*slot // guards of stations
	masks     map[setMask]int32    // numbers
	sets      map[flow.Key]int32
	levels    map[uint64]int32
	exact     device.Mask    // of a key in all that the table looks at; valid iff spare is not nil
	spare     map[int32]bool // the numbers of exact in each set, see reserve
	kept      int            // length of all lists of earlier rules that are kept
	scratch   []int32        // of asksOf
	nearby    []*member      // of asksNear
	between   []*flow.Match  // of together
	alone     flow.Key       // the bits that an entry can match without others, those of ports left out
	mostAsks  int            // how many earlier rules a unit may ask, see crowded
	mostCuts  int            // how many of them a box is cut from one by one, see few

	sorted []*slot // what the last plan places, highest first
	placed map[flow.EntryID]*slot
	proved []*flow.Entry              // the same: sound together for table
	stays  map[flow.RuleID]*flow.Rule // of the last plan, see stayable
}

// Plan returns what NewPlan returns for the same arguments, where t says no more than
// a Heat does and p is not Fast.
func (p *Planner) Plan(old, want *flow.Table, installed []flow.Entry, m device.Model, t Traffic) Plan {
	return p.plan(input{old: old, want: want, installed: installed, model: m, traffic: t, fast: p.Fast})
}

// learn makes the planner one that knows old and want.
func (p *Planner) learn(in *input) {
	m := in.model
	m.Entries, m.Masks, m.Priorities, m.Evidence = 0, 0, 0, nil
	crammed := p.buried+len(p.levels)/2 > 2*len(p.members)+4096
	if p.table != in.old || crammed || !reflect.DeepEqual(p.model, m) {
		*p = Planner{Fast: p.Fast, model: m}
		p.begin(in.old)
	}
	p.turn(in.want)
}

// begin learns the first table.
func (p *Planner) begin(t *flow.Table) {
	p.table, p.mostCuts = t, few
	for w := range p.alone {
		for bit := uint64(1); bit != 0; bit <<= 1 {
			if p.model.Along(w, bit, false) == bit && (w != portWord || bit&portBits == 0) {
				p.alone[w] |= bit
			}
		}
	}
	p.masks, p.sets, p.levels = map[setMask]int32{}, map[flow.Key]int32{}, map[uint64]int32{}
	p.members = make([]*member, t.Len()+1)
	made := make([]member, len(p.members))
	for i := range p.members {
		made[i].rule, made[i].level, made[i].place = t.Rule(i), guardLevel(t.Rule(i)), [2]int32{int32(i), int32(i)}
		p.members[i] = &made[i]
	}
	p.index = newIndex(p.members, 1)
	p.connect(t)
}

// connect learns t's switch and ports.
func (p *Planner) connect(t *flow.Table) {
	p.stations, p.ports, p.byStation = stations(t.Switch()), ports(t), map[flow.Match]*slot{}
	p.pinned[after], p.station = map[flow.Match]flow.Port{}, map[flow.Match]int{}
	for i, st := range p.stations {
		p.pinned[after][pinned(st)], p.station[pinned(st)] = st.Port, i
	}
}

// turn takes the planner from the last table to t: that one becomes the table before.
func (p *Planner) turn(t *flow.Table) {
	for _, m := range p.gone {
		m.place[before] = -1
	}
	p.buried += len(p.gone)
	p.gone, p.fresh, p.was, p.pinned[before] = nil, nil, p.members, p.pinned[after]
	for i, m := range p.members {
		m.place[before] = int32(i)
	}
	if t == p.table {
		return
	}
	p.members = make([]*member, 0, t.Len()+1)
	p.compare(t)
	for i, m := range p.members {
		m.place[after] = int32(i)
	}
	if !slices.Equal(stations(t.Switch()), p.stations) || !slices.Equal(ports(t), p.ports) {
		p.connect(t)
		p.proved, p.kept = nil, 0
		for _, m := range p.members {
			m.ways = nil
		}
	}
	p.table = t
	for _, m := range p.gone {
		p.withdraw(m)
	}
	p.index.add(p.fresh)
	for _, m := range p.fresh {
		p.introduce(m)
	}
}

// compare goes through the table before and t, both in the order in which rules are
// asked, and fills members, gone and fresh.
func (p *Planner) compare(t *flow.Table) {
	i := 0
	leave := func() {
		m := p.was[i]
		r := *m.rule // its table may go
		m.rule, m.place[after] = &r, -1
		p.gone = append(p.gone, m)
		i++
	}
	for j := range t.Len() + 1 {
		r := t.Rule(j)
		for i < len(p.was) && p.was[i].rule.ID != r.ID && p.was[i].rule.Before(r) < 0 {
			leave()
		}
		if i < len(p.was) && same(p.was[i].rule, r) {
			m := p.was[i]
			m.rule = r
			p.members = append(p.members, m)
			i++
			continue
		}
		if i < len(p.was) && p.was[i].rule.ID == r.ID {
			leave()
		}
		m := &member{rule: r, level: guardLevel(r), place: [2]int32{-1, -1}}
		p.members, p.fresh = append(p.members, m), append(p.fresh, m)
	}
	for i < len(p.was) {
		leave()
	}
}

// all yields the units of m that are known.
func (m *member) all(yield func(*unit) bool) {
	for _, units := range m.ways {
		for _, u := range units {
			if !yield(u) {
				return
			}
		}
	}
}

// same reports whether nothing that a plan depends on differs between a and b.
func same(a, b *flow.Rule) bool {
	return a.ID == b.ID && a.Priority == b.Priority && a.Tier == b.Tier && a.Match == b.Match && a.Name == b.Name && a.Actions.Equal(b.Actions)
}

// withdraw makes later rules forget one that has gone.
func (p *Planner) withdraw(m *member) {
	for u := range m.all {
		p.kept -= len(u.asks)
	}
	p.index.each(&m.rule.Match, after, int32(len(p.members)), func(q *member) bool {
		if q.place[before] < m.place[before] {
			return true
		}
		if q.cover == m {
			q.covered, q.cover = false, nil
		}
		for u := range q.all {
			u.crowded = 0
			if i, there := slices.BinarySearchFunc(u.asks, m, wasInOrder); there {
				u.asks = slices.Delete(u.asks, i, i+1)
				p.kept--
			}
		}
		return true
	})
}

// introduce tells later rules of a new one.
func (p *Planner) introduce(m *member) {
	p.index.each(&m.rule.Match, after, int32(len(p.members)), func(q *member) bool {
		if q.place[after] <= m.place[after] {
			return true
		}
		if q.covered && (q.cover == nil || q.cover.place[after] > m.place[after]) && m.rule.Match.Covers(&q.rule.Match) {
			q.cover = m
		}
		for u := range q.all {
			if !u.asked || !slices.ContainsFunc(p.partsOf(u), func(with *part) bool { return m.rule.Match.Overlaps(&with.Match) && p.matters(m, with) }) {
				continue
			}
			if i, there := slices.BinarySearchFunc(u.asks, m, inOrder); !there {
				u.asks = slices.Insert(u.asks, i, m)
				p.kept++
			}
		}
		return true
	})
}
