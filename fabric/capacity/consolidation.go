package capacity

import (
	"cmp"
	"slices"
)

// idleBelow is the share of usable under which a blade does little, in percent.
const idleBelow = 20

// consolidate finds the blades whose every measured dimension is used below 20 %, and
// how many of them could be emptied: the least allocated first, as long as what the
// emptied ones carry fits into what remains on all others together. Whether every
// single vNIC finds its place is for the placement to say; this is the upper bound.
func consolidate(fleet *node, p Policy) Consolidation {
	c := Consolidation{Below: []Idle{}, Freed: []Freed{}}
	var blades, idle []*node
	busiest := map[*node]Idle{}
	fleet.walk(func(n *node) {
		if n.level != BladeLevel {
			return
		}
		blades = append(blades, n)
		if worst, measured := n.busiest(p); measured {
			c.Blades++
			if worst.Percent < idleBelow {
				idle = append(idle, n)
				busiest[n] = worst
			}
		}
	})
	if c.Blades > 0 {
		c.Percent = *percent(int64(len(idle)), int64(c.Blades))
	}
	order := slices.Clone(idle)
	slices.SortStableFunc(order, func(a, b *node) int {
		return cmp.Compare(a.cell(Slots).known.allocated, b.cell(Slots).known.allocated)
	})
	emptied := emptiable(blades, order, p)
	c.Emptied = len(emptied)
	for _, n := range idle {
		i := busiest[n]
		i.Emptied = slices.Contains(emptied, n)
		c.Below = append(c.Below, i)
	}
	for _, d := range dimensions {
		freed := int64(0)
		for _, n := range emptied {
			freed += n.cell(d).total
		}
		if freed > 0 {
			c.Freed = append(c.Freed, Freed{d, d.Unit(), freed})
		}
	}
	return c
}

// busiest returns the dimension of which a blade uses the largest share; measured is
// false if nothing is known of it. A blade that is faulty or silent is not idle.
func (n *node) busiest(p Policy) (worst Idle, measured bool) {
	if n.faulty || n.silent {
		return Idle{}, false
	}
	for _, d := range dimensions {
		f, ok := n.figure(d, p)
		if ok && f.UsedPercent != nil && (!measured || *f.UsedPercent > worst.Percent) {
			worst, measured = Idle{Blade: n.name, Percent: *f.UsedPercent, Dimension: d}, true
		}
	}
	return worst, measured
}

// emptiable returns the longest head of order whose load fits into the rest of blades.
func emptiable(blades, order []*node, p Policy) []*node {
	var room, load [len(dimensions)]int64
	for _, n := range blades {
		for i, d := range dimensions {
			left, _ := n.free(d, p)
			room[i] += left
		}
	}
	for k, n := range order {
		for i, d := range dimensions {
			left, _ := n.free(d, p)
			room[i] -= left
			load[i] += n.cells[i].known.demand() + n.cells[i].unknown.demand()
			if load[i] > room[i] {
				return order[:k]
			}
		}
	}
	return order
}
