package capacity

import (
	"cmp"
	"slices"
)

// node is one scope while figures are computed: the fleet's children are chassis, and
// so on down to ports.
type node struct {
	level    Level
	name     string
	in       string
	slot     int
	slots    int
	faulty   bool
	silent   bool
	children []*node

	cells       [len(dimensions)]cell
	provisioned int64
	ceilings    int64 // of ports whose speed is known
	fit         fit
}

// cell is one dimension of one node. known and unknown split its parts by whether
// their total is known.
type cell struct {
	total, faulty  int64
	known, unknown load
	series         Series // as recorded, or the sum of the parts'
	reserve        int64  // for the loss of a failure domain inside
}

// load is what parts carry, all of them added up.
type load struct {
	parts      int
	allocated  int64
	allocates  bool // the dimension has an allocation: the software budget has none
	used, peak int64
	measured   int // parts of which used and peak are known
}

func (l *load) add(o load) {
	l.parts += o.parts
	l.allocated += o.allocated
	l.allocates = l.allocates || o.allocates
	l.used += o.used
	l.peak += o.peak
	l.measured += o.measured
}

// demand returns what would have to find another place if the parts were lost: what
// they were given, or what they use if that is more. An idle VF has to move too.
func (l *load) demand() int64 { return max(l.allocated, l.peak) }

func index(d Dimension) int { return slices.Index(dimensions[:], d) }

func (n *node) cell(d Dimension) *cell { return &n.cells[index(d)] }

// newTree lays an input out as nodes, with extra vNICs of profile p on the PFs that
// extra names. A new vNIC counts as using all it is guaranteed, so that what remains
// falls by the need in both formulas.
func newTree(in Input, extra map[string]int64, p Profile) *node {
	first, last := in.window()
	t := laying{first: first, last: last, survive: in.Policy.Survive, extra: extra, profile: p}
	fleet := &node{level: FleetLevel, name: cmp.Or(in.Name, "fleet")}
	for _, c := range in.Chassis {
		fleet.children = append(fleet.children, t.chassis(c, fleet.name))
	}
	t.sum(fleet, in.Demand)
	return fleet
}

// laying is what stays the same while a tree is laid out.
type laying struct {
	first, last Date
	survive     Level
	extra       map[string]int64
	profile     Profile
}

func (t *laying) chassis(c Chassis, in string) *node {
	n := &node{level: ChassisLevel, name: c.Name, in: in, slots: c.Slots}
	for _, b := range c.Blades {
		n.children = append(n.children, t.blade(b, c.Name))
		n.slots = max(n.slots, b.Slot)
	}
	t.sum(n, c.Demand)
	return n
}

func (t *laying) blade(b Blade, in string) *node {
	n := &node{level: BladeLevel, name: b.Name, in: in, slot: b.Slot, faulty: b.Faulty, silent: b.Silent}
	vnics := int64(0)
	for _, p := range b.PFs {
		pf := t.pf(p, b)
		n.children = append(n.children, pf)
		vnics += t.extra[pf.name]
	}
	t.sum(n, b.Demand)
	budget := b.Software.PacketsPerCore * b.Software.Cores
	t.leaf(n, Software, budget, budget > 0, 0, nil, b.Software.Used, b.Demand[Software], vnics)
	return n
}

func (t *laying) pf(p PF, b Blade) *node {
	n := &node{level: PFLevel, name: b.Name + "/" + p.Name, in: b.Name, faulty: p.Faulty || b.Faulty, silent: b.Silent}
	vnics := t.extra[n.name]
	n.children = []*node{t.port(p, n, vnics)}
	t.sum(n, nil)
	n.provisioned = max(p.VFs.Provisioned, p.VFs.Bound+vnics)
	t.leaf(n, Slots, p.VFs.Total, true, p.VFs.Faulty, &p.VFs.Bound, p.VFs.Active, p.Demand[Slots], vnics)
	known := p.Table.Source == Declared || p.Table.Source == Learned
	t.leaf(n, Entries, p.Table.Limit, known, 0, &p.Table.Asked, p.Table.Used, p.Demand[Entries], vnics)
	return n
}

func (t *laying) port(p PF, pf *node, vnics int64) *node {
	n := &node{level: PortLevel, name: pf.name, in: pf.name, faulty: pf.faulty || p.Port.Faulty, silent: pf.silent}
	if p.Port.Name != "" {
		n.name = pf.in + "/" + p.Port.Name
	}
	guaranteed := int64(p.Port.Guaranteed)
	t.leaf(n, Bandwidth, int64(p.Port.Speed), p.Port.Speed > 0, 0, &guaranteed, p.Port.Used, p.Port.Demand, vnics)
	if p.Port.Speed > 0 {
		n.ceilings = int64(p.Port.Maximum) + vnics*int64(cmp.Or(t.profile.Maximum, p.Port.Speed))
	}
	return n
}

// leaf fills in a dimension at the node where it really is. What is used now is
// measured, or the latest day's p95; the peak is the largest of that and the window.
func (t *laying) leaf(n *node, d Dimension, total int64, known bool, faulty int64, allocated, used *int64, s Series, vnics int64) {
	c := n.cell(d)
	c.series = t.inWindow(s)
	more := vnics * t.profile.need(d)
	l := load{parts: 1}
	if allocated != nil {
		l.allocates, l.allocated = true, *allocated+more
	}
	if used != nil {
		l.measured, l.used, l.peak = 1, *used, *used
	}
	l.record(c.series)
	if l.measured > 0 {
		l.used += more
		l.peak += more
	}
	if !known {
		c.unknown = l
		return
	}
	c.known, c.total, c.faulty = l, total, faulty
	if n.faulty {
		c.faulty = total
	}
}

// record takes over what a series says: its largest day is a peak, and its latest day
// is what is used if nothing else says so.
func (l *load) record(s Series) {
	if len(s) == 0 {
		return
	}
	if l.measured == 0 {
		l.used = s[len(s)-1].P95
	}
	l.measured = l.parts
	for _, day := range s {
		l.peak = max(l.peak, day.P95)
	}
}

func (t *laying) inWindow(s Series) Series {
	from, _ := slices.BinarySearchFunc(s, t.first, func(d Day, first Date) int { return cmp.Compare(d.Date, first) })
	to, found := slices.BinarySearchFunc(s, t.last, func(d Day, last Date) int { return cmp.Compare(d.Date, last) })
	if found {
		to++
	}
	return s[from:max(from, to)]
}

// sum adds up the children of n. A series recorded for n itself is truer than the sum
// of its parts, whose peaks need not coincide, and replaces it where every part's
// total is known.
func (t *laying) sum(n *node, recorded Demand) {
	for i, d := range dimensions {
		c := &n.cells[i]
		var parts []Series
		domain := int64(0)
		for _, child := range n.children {
			cc := &child.cells[i]
			c.total += cc.total
			c.faulty += cc.faulty
			c.known.add(cc.known)
			c.unknown.add(cc.unknown)
			parts = append(parts, cc.series)
			domain = max(domain, cc.reserve)
			if child.level == t.survive {
				lost := cc.known
				lost.add(cc.unknown)
				domain = max(domain, lost.demand())
			}
		}
		c.reserve = domain
		c.series = addDays(parts)
		if own := t.inWindow(recorded[d]); len(own) > 0 && c.known.parts > 0 && c.unknown.parts == 0 {
			more := t.moreIn(n, d)
			c.series = own
			c.known.measured, c.known.used, c.known.peak = 0, 0, 0
			c.known.record(own)
			c.known.used += more
			c.known.peak += more
		}
	}
	for _, child := range n.children {
		n.provisioned += child.provisioned
		n.ceilings += child.ceilings
	}
}

// moreIn returns what the extra vNICs inside n need.
func (t *laying) moreIn(n *node, d Dimension) int64 {
	if n.level == PFLevel {
		return t.extra[n.name] * t.profile.need(d)
	}
	more := int64(0)
	for _, child := range n.children {
		more += t.moreIn(child, d)
	}
	return more
}

// addDays adds series up day by day; a sum is as well sampled as its poorest part.
func addDays(parts []Series) Series {
	byDate := map[Date]Day{}
	for _, s := range parts {
		for _, day := range s {
			if sum, found := byDate[day.Date]; found {
				day = Day{day.Date, min(sum.Samples, day.Samples), sum.P95 + day.P95, sum.Max + day.Max}
			}
			byDate[day.Date] = day
		}
	}
	days := make(Series, 0, len(byDate))
	for _, day := range byDate {
		days = append(days, day)
	}
	slices.SortFunc(days, func(a, b Day) int { return cmp.Compare(a.Date, b.Date) })
	return days
}

// walk calls f for n and everything below it, level by level.
func (n *node) walk(f func(*node)) {
	for level := []*node{n}; len(level) > 0; {
		var next []*node
		for _, m := range level {
			f(m)
			next = append(next, m.children...)
		}
		level = next
	}
}
