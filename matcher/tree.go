package matcher

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// tree is a part of the key in the making: first the classes of its values, then the
// tables that lead to them.
type tree struct {
	kernel.Part
	word      int
	high, low span // the bits; low may be none
	width     int  // of both
	starts    []uint32
	classes   []uint16 // of the values from each start to the next
	sets      *sets
	free      set                       // what is in the sets of all values
	own       []flip                    // of the other rules, rule by rule
	ownAt     []int32                   // where those of each rule begin
	strides   []int                     // the bits that each level looks at
	uniform   [kernel.MaxLevels][]int32 // for each class a block that has nothing else, and one
	scratch   [kernel.MaxLevels][]uint16
}

// span is adjacent bits of a word.
type span struct{ shift, width int }

// flip is where a rule enters or leaves the sets: first a value, then its place.
type flip struct {
	at   uint64
	rule int32
}

// cut returns ways to cut the bits used of a word into parts, best first: few bits in
// two places make one table; others stay together where the rules' masks allow it, and
// else are cut into halves or bytes. A port is never cut.
func cut(used uint32, w int) [][]*tree {
	pieces := func(size int) (parts []*tree) {
		for at := 0; at < 32; at += size {
			if s := find(used & uint32((1<<size-1)<<at)); s.width > 0 {
				parts = append(parts, &tree{word: w, high: s, width: s.width})
			}
		}
		return parts
	}
	halves := pieces(16)
	if w == kernel.PortWord {
		return [][]*tree{halves}
	}
	var ways [][]*tree
	if len(halves) == 2 && halves[0].width+halves[1].width <= oneTable {
		low, high := halves[0].high, halves[1].high
		ways = [][]*tree{{{word: w, high: high, low: low, width: high.width + low.width}}}
	}
	return append(ways, pieces(32), halves, pieces(8))
}

// find returns the shortest span that has all these bits.
func find(used uint32) span {
	if used == 0 {
		return span{}
	}
	shift := bits.TrailingZeros32(used)
	return span{shift, bits.Len32(used) - shift}
}

// value returns what the part is in a word.
func (p *tree) value(word uint32) uint64 {
	pick := func(r span) uint64 { return uint64(word>>r.shift) & (1<<r.width - 1) }
	return pick(p.high)<<p.low.width | pick(p.low)
}

// portRange returns the range that m has for p, if p is a port that m has one for.
func (p *tree) portRange(m *flow.Match) (r flow.PortRange, ok bool) {
	if p.word != kernel.PortWord {
		return r, false
	}
	r = m.DstPort
	if p.high.shift >= 16 {
		r = m.SrcPort
	}
	return r, !r.Any()
}

// of returns the flips of a rule.
func (p *tree) of(rule int) []flip { return p.own[p.ownAt[rule]:p.ownAt[rule+1]] }

// some appends the flips of the rules of a set, in order.
func (p *tree) some(from set, flips []flip) []flip {
	for w, word := range from {
		for word &^= p.free[w]; word != 0; word &= word - 1 {
			flips = append(flips, p.of(64*w+bits.TrailingZeros64(word))...)
		}
	}
	slices.SortFunc(flips, func(a, b flip) int { return cmp.Compare(a.at, b.at) })
	return flips
}

// sweep finds the classes of the values of p: it goes through them in order and flips
// the rules that begin or end there.
func (c *classifier) sweep(p *tree) bool {
	p.free = slices.Clone(c.always)
	p.ownAt = make([]int32, len(c.rules)+1)
	p.own = make([]flip, 0, 2*len(c.rules))
	for i, m := range c.rules {
		if m != nil && !p.add(i, m) {
			return false
		}
		p.ownAt[i+1] = int32(len(p.own))
	}
	order := make([]uint64, 0, len(p.own)) // value and place in own
	for i, f := range p.own {
		order = append(order, f.at<<orderBits|uint64(i))
	}
	slices.Sort(order)
	p.starts = []uint32{0}
	for _, o := range order {
		if value := o >> orderBits; value < 1<<p.width && uint32(value) != p.starts[len(p.starts)-1] {
			p.starts = append(p.starts, uint32(value))
		}
	}
	if c.spent += p.split(); c.spent > maxTrees {
		return false
	}
	now := slices.Clone(p.free)
	sum := c.sum(now)
	p.sets = newSets(len(now), min(len(p.starts), 4096))
	p.classes = make([]uint16, len(p.starts))
	for i, value := range p.starts {
		for len(order) > 0 && order[0]>>orderBits == uint64(value) {
			f := &p.own[order[0]&(1<<orderBits-1)]
			order = order[1:]
			sum = c.flip(now, sum, f.rule)
			f.at = uint64(i)
		}
		p.classes[i] = uint16(p.sets.of(now, sum))
		if p.sets.len() > kernel.MaxFactor {
			return false
		}
	}
	for _, o := range order { // what ends with the values ends nowhere
		p.own[o&(1<<orderBits-1)].at = uint64(len(p.starts))
	}
	return true
}

// add adds the flips of a rule, unless they are too many.
func (p *tree) add(rule int, m *flow.Match) bool {
	if r, ok := p.portRange(m); ok {
		p.own = append(p.own, flip{uint64(r.Lo), int32(rule)}, flip{uint64(r.Hi) + 1, int32(rule)})
		return true
	}
	value, mask := p.value(word(&m.Value, p.word)), p.value(word(&m.Mask, p.word))
	if mask == 0 {
		p.free.flip(rule)
		return true
	}
	width := uint64(1) << bits.TrailingZeros64(mask) // of each range the mask falls into
	unset := (1<<p.width - 1) &^ mask &^ (width - 1)
	if bits.OnesCount64(unset) > maxUnset || len(p.own) > 1<<orderBits-2<<maxUnset {
		return false
	}
	for sub := unset; ; sub = (sub - 1) & unset {
		p.own = append(p.own, flip{value | sub, int32(rule)}, flip{(value | sub) + width, int32(rule)})
		if sub == 0 {
			return true
		}
	}
}

// layOut appends the table of the first level to rest and the others to blocks.
func (p *tree) layOut(rest []uint16, b *blocks) []uint16 {
	rotate := func(by int) uint32 { return uint32(by) % 32 }
	p.Base = uint32(2 * len(rest))
	if p.low.width != 0 {
		p.Rotate[0], p.Mask[0] = rotate(p.high.shift-p.low.width-1), (1<<p.high.width-1)<<(p.low.width+1)
		p.Rotate[1], p.Mask[1] = rotate(p.low.shift-1), (1<<p.low.width-1)<<1
	} else {
		below := p.width
		for level, stride := range p.strides {
			below -= stride
			p.Rotate[level], p.Mask[level] = rotate(p.high.shift+below-1), (1<<stride-1)<<1
		}
	}
	p.Levels = uint32(len(p.strides))
	for level, stride := range p.strides {
		p.uniform[level] = make([]int32, p.sets.len())
		p.scratch[level] = make([]uint16, 1<<stride)
	}
	return append(rest, p.table(0, 0, b)...)
}

// split chooses the levels of p and returns the bytes they will have at most.
func (p *tree) split() int {
	choices := [][]int{{p.width - 18, 9, 9}, {p.width - 18, 6, 6, 6}}
	switch {
	case p.low.width != 0 || p.width <= 9:
		choices = [][]int{{p.width}}
	case p.width <= 18:
		choices = [][]int{{p.width - 6, 6}}
	}
	for _, p.strides = range choices {
		if p.bytes() <= largeTree {
			break
		}
	}
	return p.bytes()
}

// bytes returns the bytes of the tables of p, if none are equal, without those for
// single classes.
func (p *tree) bytes() int {
	sum, below := 0, p.width
	for level, stride := range p.strides {
		tables := 1
		if level > 0 { // one for each place where classes differ inside of what one element above stands for
			tables = 0
			last := uint64(1 << 32)
			for _, start := range p.starts {
				if at := uint64(start) >> below; start&(1<<below-1) != 0 && at != last {
					tables++
					last = at
				}
			}
		}
		sum += tables * 2 << stride
		below -= stride
	}
	return sum
}

// table returns the table of a level for the values from one on, until the next call
// for that level.
func (p *tree) table(level int, from uint64, b *blocks) []uint16 {
	below := 0
	for _, stride := range p.strides[level+1:] {
		below += stride
	}
	out := p.scratch[level]
	i, _ := slices.BinarySearch(p.starts, uint32(from))
	for at := 0; at < len(out); {
		value := from + uint64(at)<<below
		for i < len(p.starts) && uint64(p.starts[i]) <= value {
			i++
		}
		n := len(out) - at // elements before the next start
		if i < len(p.starts) {
			n = min(n, int((uint64(p.starts[i])-value)>>below))
		}
		if n == 0 {
			out[at] = b.number(p.table(level+1, value, b))
			at++
			continue
		}
		fillWith(out[at:at+n], p.same(level+1, p.classes[i-1], b))
		at += n
	}
	return out
}

func fillWith(out []uint16, element uint16) {
	for i := range out {
		out[i] = element
	}
}

// same returns what an element is if all values below have one class: the block of the next level with
// nothing else, or the class.
func (p *tree) same(level int, class uint16, b *blocks) uint16 {
	if level == len(p.strides) {
		return class
	}
	known := &p.uniform[level][class]
	if *known == 0 {
		element := p.same(level+1, class, b)
		at := len(b.elements)
		*known = int32(b.add(1<<p.strides[level])) + 1
		fillWith(b.elements[at:], element)
	}
	return uint16(*known - 1)
}

// blocks is the elements of blocks, numbered by where they start.
type blocks struct {
	elements []uint16
	numbers  map[uint64]uint16 // by a hash
}

const inBlock = kernel.Block / 2 // elements

// number returns the number of a block, of an equal one if there is one.
func (b *blocks) number(content []uint16) uint16 {
	h := uint64(len(content))
	for i := 0; i+4 <= len(content); i += 4 {
		four := uint64(content[i]) | uint64(content[i+1])<<16 | uint64(content[i+2])<<32 | uint64(content[i+3])<<48
		h = (h ^ four ^ h>>32) * 0xd6e8feb86659fd93
	}
	n, ok := b.numbers[h]
	if at := int(n) * inBlock; ok && at+len(content) <= len(b.elements) && slices.Equal(b.elements[at:at+len(content)], content) {
		return n
	}
	if b.numbers == nil {
		b.numbers = map[uint64]uint16{}
	}
	at := len(b.elements)
	n = b.add(len(content))
	copy(b.elements[at:], content)
	b.numbers[h] = n
	return n
}

// add makes room for some elements.
func (b *blocks) add(elements int) uint16 {
	n := uint16(len(b.elements) / inBlock)
	elements = max(elements, inBlock)
	b.elements = slices.Grow(b.elements, elements)[:len(b.elements)+elements]
	return n
}
