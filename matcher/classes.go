package matcher

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// How a key chooses sets of rules.
//
// Problem. The rules that match a key are the intersection of the sets that the parts
// of the key allow. There are few different sets, so they can be numbered; but a table
// of the class of every value of 16 bits has 128 KiB, an address needs two of them and
// an array over their combinations, and a gather from the second level of the cache
// costs three times one from the first.
//
// Idea. The values of a part fall into classes: those that allow the same rules. A part
// is up to 32 adjacent bits, an address or a port, and a tree of tables leads to its
// class: each level looks at 6 to 14 bits more, and equal tables exist once. Rules have
// their edges in few places, so that the trees of a thousand rules take some 100 to
// 300 KiB of which few lines are ever touched, and an address takes three gathers instead
// of five. Where a part's masks are not prefixes, its halves are parts. The classes of
// the parts of a group (source, destination, everything else) then choose the class of
// the group from an array over their combinations.
//
// Everything is counted in flips: going through the values of a part in order, a rule's
// bit flips where one of its ranges begins or ends. A set is recognised by its words
// times random numbers, summed up, which a flip changes in one operation; sets that
// agree in it are compared. To combine the classes of a group so far with one more
// part, the part's flips are gone through once for each class, but only those of rules
// in it, or its sets where they are fewer.
//
// Words of the key that are the same in all rules are no parts but guards: a key that
// differs in one gets the first group's class of no rule.
//
// Invariant: a rule matches a key iff it is in the sets of all groups, because a match
// is one condition for each bit and a range for each port, and a port is never cut.

const (
	maxClasses = 1 << 16   // of a group: their numbers have 16 bits
	maxUnset   = 7         // bits inside of a mask that are not set: each doubles the ranges it falls into
	oneTable   = 12        // bits of a part that is one table though its bits are in two places
	largeTree  = 256 << 10 // bytes from which on a tree has one level more and is smaller
	maxTrees   = 2 << 20   // bytes of all trees
	flipCost   = 8         // of a rule that flips, in words of sets
	orderBits  = 24        // of the number of a flip
)

// classifier finds the classes of some rules.
type classifier struct {
	kernel.Classes
	rules  []*flow.Match // nil where there is none
	always set           // what every set has besides rules
	marks  []uint64      // random numbers, one for each word of a set
	now    set           // scratch
	spent  int           // bytes of trees
	groups []*group
}

// group is a group of parts and the sets they choose.
type group struct {
	parts []*tree
	cross []uint16 // of their combinations; nil if there is one part
	sets  *sets
}

// classify finds the classes of rules, whose sets have that many bits; a bit that all
// sets have is given by its place, or -1. Classes of a group have at most that many
// combinations. It returns nil if there are too many of anything.
func classify(rules []*flow.Match, size, everywhere, combined int) *classifier {
	c := &classifier{rules: rules, always: make(set, (size+63)/64), marks: make([]uint64, (size+63)/64),
		now: make(set, (size+63)/64)}
	for i := range c.marks {
		hi, lo := bits.Mul64(uint64(i)+0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
		hi, lo = bits.Mul64(hi^lo, 0x9e3779b97f4a7c15)
		c.marks[i] = (hi ^ lo) | 1
	}
	if everywhere >= 0 {
		c.always.flip(everywhere)
	}
	var families [3][]*tree // source, destination, others
	var words []int
	for w := range kernel.Words {
		used, same := usedBits(rules, w)
		if used == 0 {
			continue
		}
		if same {
			m := first(rules)
			c.GuardMask[w], c.GuardValue[w] = word(&m.Mask, w), word(&m.Value, w)
			continue
		}
		family := 2
		if 6 <= w && w < 14 {
			family = (w - 6) / 4
		}
		parts := c.parts(used, w)
		if parts == nil {
			return nil
		}
		for _, p := range parts {
			p.Column = uint32(4 * kernel.Lanes * len(words))
		}
		families[family] = append(families[family], parts...)
		words = append(words, w)
	}
	if len(words) == 0 { // nothing but guards
		words = []int{0}
		p := &tree{}
		c.sweep(p)
		families[0] = []*tree{p}
	}
	for _, parts := range families {
		slices.SortStableFunc(parts, func(a, b *tree) int { return cmp.Compare(b.sets.len(), a.sets.len()) })
		for len(parts) > 0 {
			n, product := 1, parts[0].sets.len()
			for n < len(parts) && product*parts[n].sets.len() <= combined && product/parts[0].sets.len()*parts[n].sets.len() <= kernel.MaxFactor {
				product *= parts[n].sets.len()
				n++
			}
			g := c.combine(parts[:n])
			if g == nil {
				return nil
			}
			c.groups = append(c.groups, g)
			parts = parts[n:]
		}
	}
	c.None = uint32(c.groups[0].sets.of(c.always, c.sum(c.always)))
	c.Look(words)
	if !c.layOut() {
		return nil
	}
	return c
}

// parts returns the parts of a word that rules look at these bits of.
func (c *classifier) parts(used uint32, w int) []*tree {
	for _, parts := range cut(used, w) {
		before := c.spent
		if !slices.ContainsFunc(parts, func(p *tree) bool { return !c.sweep(p) }) {
			return parts
		}
		if c.spent > maxTrees {
			return nil
		}
		c.spent = before
	}
	return nil
}

// first returns a rule.
func first(rules []*flow.Match) *flow.Match {
	return rules[slices.IndexFunc(rules, func(m *flow.Match) bool { return m != nil })]
}

// usedBits returns the bits of a word that rules look at, and whether all rules
// want the same of it.
func usedBits(rules []*flow.Match, w int) (used uint32, same bool) {
	same = true
	one := first(rules)
	for _, m := range rules {
		if m == nil {
			continue
		}
		used |= word(&m.Mask, w)
		same = same && word(&m.Mask, w) == word(&one.Mask, w) && word(&m.Value, w) == word(&one.Value, w)
		if w == kernel.PortWord {
			if !m.SrcPort.Any() {
				used, same = used|0xffff<<16, false
			}
			if !m.DstPort.Any() {
				used, same = used|0xffff, false
			}
		}
	}
	return used, same
}

// sum returns the sum of a set: each word times its random number. It can be kept up to date
// flip by flip.
func (c *classifier) sum(s set) uint64 {
	var sum uint64
	for w, word := range s {
		sum += word * c.marks[w]
	}
	return sum
}

// flip flips a rule in a set and returns the set's new sum.
func (c *classifier) flip(s set, sum uint64, rule int32) uint64 {
	w, bit := rule/64, uint64(1)<<(rule%64)
	s[w] ^= bit
	if s[w]&bit == 0 {
		return sum - bit*c.marks[w]
	}
	return sum + bit*c.marks[w]
}

// combine makes a group of parts.
func (c *classifier) combine(parts []*tree) *group {
	g := &group{parts: parts, sets: parts[0].sets}
	for i, p := range parts[1:] {
		cross, made := c.cross(g.sets, p)
		if cross == nil {
			return nil
		}
		if i == 0 {
			g.cross = cross
		} else {
			n := p.sets.len()
			next := make([]uint16, 0, len(g.cross)*n)
			for _, class := range g.cross {
				next = append(next, cross[int(class)*n:][:n]...)
			}
			g.cross = next
		}
		g.sets = made
	}
	return g
}

// cross returns the classes of the combinations of a set in left and a class of p, and
// the sets of those classes.
func (c *classifier) cross(left *sets, p *tree) ([]uint16, *sets) {
	n := p.sets.len()
	cross := make([]uint16, left.len()*n)
	made := newSets(left.words, left.len())
	now := c.now
	var flips []flip
	for i := range left.len() {
		from, row := left.at(i), cross[i*n:][:n]
		count := 0 // of rules that p tells apart
		for w, free := range p.free {
			count += bits.OnesCount64(from[w] &^ free)
		}
		if n*len(now) < flipCost*count {
			for j := range row {
				row[j] = uint16(c.both(from, p.sets.at(j), made))
			}
		} else {
			flips = p.some(from, flips[:0])
			for w := range now {
				now[w] = from[w] & p.free[w]
			}
			c.walk(now, flips, p, made, row)
		}
		if made.len() > maxClasses {
			return nil, nil
		}
	}
	return cross, made
}

// both returns the number of the intersection of two sets.
func (c *classifier) both(a, b set, made *sets) int {
	sum := uint64(0)
	for w, word := range a {
		c.now[w] = word & b[w]
		sum += c.now[w] * c.marks[w]
	}
	return made.of(c.now, sum)
}

// walk goes through the values of p in order, a set being that of the values before
// the first, and notes the class of the set for each class of p.
func (c *classifier) walk(now set, flips []flip, p *tree, made *sets, row []uint16) {
	sum := c.sum(now)
	for at := 0; at < len(p.classes); {
		for len(flips) > 0 && int(flips[0].at) == at {
			sum = c.flip(now, sum, flips[0].rule)
			flips = flips[1:]
		}
		to := len(p.classes)
		if len(flips) > 0 {
			to = int(flips[0].at)
		}
		class := uint16(made.of(now, sum))
		for _, j := range p.classes[at:to] {
			row[j] = class
		}
		at = to
	}
}

// layOut writes the tables of all parts and groups.
func (c *classifier) layOut() bool {
	b := &blocks{elements: make([]uint16, 0, 1<<17)}
	var rest []uint16 // what follows the blocks
	parts := 0
	for _, g := range c.groups {
		parts += len(g.parts)
	}
	if len(c.groups) > kernel.MaxGroups || parts > kernel.MaxParts {
		return false
	}
	at := 0
	for i, g := range c.groups {
		factor := uint32(max(1, len(g.cross)))
		for _, p := range g.parts {
			p.Factor = 1
			if g.cross != nil {
				factor /= uint32(p.sets.len())
				p.Factor = factor
			}
			rest = p.layOut(rest, b)
			c.Part[at] = p.Part
			at++
		}
		c.Group[i] = kernel.Group{Parts: uint32(len(g.parts)), Cross: uint32(2 * len(rest))}
		rest = append(rest, g.cross...)
	}
	c.Groups = uint32(len(c.groups))
	if len(b.elements) > inBlock<<16 {
		return false
	}
	c.Tables = kernel.AlignedElements(len(b.elements) + len(rest) + 1)
	copy(c.Tables[copy(c.Tables, b.elements):], rest)
	behind := uint32(2 * len(b.elements))
	for i := range c.Part[:parts] {
		c.Part[i].Base += behind
	}
	for i := range c.groups {
		c.Group[i].Cross += behind
	}
	return true
}
