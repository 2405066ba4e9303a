package matcher

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Tables of some thousand rules as bit vectors in blocks.
//
// Problem. Rows of 10,000 bits are 157 words, and nearly all of the words are zero in at
// least one of a key's rows.
//
// Idea. Rules are cut into at most 32 blocks of 512. Each set has a mask of the blocks
// in which it has rules; the intersection of a key's masks is where to look, which is
// one to three blocks. There the sets' lines of 512 bits are intersected as in a small
// table. Different lines exist once: most sets are alike in most blocks. A batch goes
// from pass to pass: each lane's next block is listed for it, all that is listed is
// tried, until no lane has a block that could have a better rule than it has found.
//
// Which rules share a block decides how many are tried. In table order, the first
// block with a match is mostly the last that is looked at; ordered by addresses, rules
// that a key cannot tell apart are together. Both are tried on a sample of keys, and the
// cheaper one is kept.
//
// Invariants. Rules of a block are in table order, so the first bit is the best of the
// block; blocks are in the order of their best rule, so that a lane is done when its
// next block's best rule is no better than what it has. Line 0 has no rules.

// blockwise is a table as bit vectors in blocks.
type blockwise struct {
	kernel.Blocks
	lane    Lane
	classes kernel.Classes
}

// Limits of what is made of tables that are large.
const (
	maxBlockRules = kernel.MaxBlocks * kernel.BlockRules
	maxLines      = 1 << 16
	// maxBlockCombined bounds combinations of classes in a group.
	maxBlockCombined = 1 << 20
	blockSamples     = 64 // keys that both orders are tried on
	wildBits         = 12 // a rule that looks at less of an address is with those that do too
)

// arrangement is an order of rules in blocks.
type arrangement struct {
	rules []int32 // by place in the blocks; -1 behind the last of a block
	place []int32 // of each rule
}

// chooseBlocks returns the better arrangement of the rules of t, and how many blocks a
// key tries in it, on average over some likely keys.
func chooseBlocks(t *flow.Table) (a *arrangement, tried float64) {
	tries := []*arrangement{arrange(t, nil), arrange(t, byAddress)}
	counts := blocksTried(t, tries, likelyKeys(t, blockSamples))
	best := 0
	if counts[1] < counts[0] {
		best = 1
	}
	return tries[best], float64(counts[best]) / blockSamples
}

// newBlocks returns t in blocks, or nil if there are too many classes or lines.
func newBlocks(t *flow.Table, a *arrangement, lane Lane) *blockwise {
	rules := make([]*flow.Match, len(a.rules))
	for i, rule := range a.rules {
		if rule >= 0 {
			rules[i] = &t.Rule(int(rule)).Match
		}
	}
	c := classify(rules, len(rules), -1, maxBlockCombined)
	if c == nil {
		return nil
	}
	b := &blockwise{lane: lane}
	b.Groups, b.None = c.Groups, uint32(t.Len())
	if !b.addSets(c, len(rules)/kernel.BlockRules) {
		return nil
	}
	b.addPlaces(a)
	c.None = c.Group[0].Base + c.None*c.Row
	b.classes = c.Classes
	return b
}

// byAddress puts rules together that look at the same of the two addresses, and among
// those neighbours.
func byAddress(t *flow.Table, a, b int32) int {
	m, o := &t.Rule(int(a)).Match, &t.Rule(int(b)).Match
	wild := func(m *flow.Match, w int) int {
		if bits.OnesCount64(m.Mask[w])+bits.OnesCount64(m.Mask[w+1]) < wildBits {
			return 1
		}
		return 0
	}
	const src, dst = 3, 5 // words of a key
	first, second := src, dst
	if wild(m, src) != 0 && wild(m, dst) == 0 {
		first, second = dst, src
	}
	return cmp.Or(
		cmp.Compare(2*wild(m, dst)+wild(m, src), 2*wild(o, dst)+wild(o, src)),
		cmp.Compare(m.Value[first], o.Value[first]), cmp.Compare(m.Value[first+1], o.Value[first+1]),
		cmp.Compare(m.Value[second], o.Value[second]), cmp.Compare(m.Value[second+1], o.Value[second+1]),
		cmp.Compare(a, b))
}

// arrange puts the rules of t into blocks by an order, or by their own.
func arrange(t *flow.Table, order func(t *flow.Table, a, b int32) int) *arrangement {
	rules := make([]int32, t.Len())
	for i := range rules {
		rules[i] = int32(i)
	}
	if order != nil {
		slices.SortFunc(rules, func(a, b int32) int { return order(t, a, b) })
	}
	var blocks [][]int32
	for block := range slices.Chunk(rules, kernel.BlockRules) {
		slices.Sort(block)
		blocks = append(blocks, block)
	}
	slices.SortFunc(blocks, func(a, b []int32) int { return cmp.Compare(a[0], b[0]) })
	a := &arrangement{place: make([]int32, t.Len())}
	for _, block := range blocks {
		for i := range kernel.BlockRules {
			if i >= len(block) {
				a.rules = append(a.rules, -1)
				continue
			}
			a.place[block[i]] = int32(len(a.rules))
			a.rules = append(a.rules, block[i])
		}
	}
	return a
}

// blocksTried returns how many blocks are tried for keys in each of some arrangements:
// those in which for each group some rule allows the key, as far as they begin with a
// rule no worse than the one that wins.
func blocksTried(t *flow.Table, tries []*arrangement, keys []flow.Key) []int {
	type masks [3]uint32 // for each group, blocks with a rule that allows the key
	found := make([]masks, len(keys)*len(tries))
	winners := make([]int, len(keys))
	for i := range winners {
		winners[i] = t.Len()
	}
	for r := range t.Len() {
		m := &t.Rule(r).Match
		for i := range keys {
			source, destination, others := allows(m, &keys[i])
			for a, try := range tries {
				block, f := try.place[r]/kernel.BlockRules, &found[i*len(tries)+a]
				f[0] |= source << block
				f[1] |= destination << block
				f[2] |= others << block
			}
			if source&destination&others != 0 {
				winners[i] = min(winners[i], r)
			}
		}
	}
	tried := make([]int, len(tries))
	for i, f := range found {
		try := tries[i%len(tries)]
		for mask := f[0] & f[1] & f[2]; mask != 0; mask &= mask - 1 {
			if int(try.rules[bits.TrailingZeros32(mask)*kernel.BlockRules]) <= winners[i/len(tries)] {
				tried[i%len(tries)]++
			}
		}
	}
	return tried
}

// allows returns 1 or 0 for whether m allows the source of k, the destination, and the
// rest.
func allows(m *flow.Match, k *flow.Key) (source, destination, others uint32) {
	differ := func(w int) uint64 { return (k[w] ^ m.Value[w]) & m.Mask[w] }
	if differ(3)|differ(4) == 0 {
		source = 1
	}
	if differ(5)|differ(6) == 0 {
		destination = 1
	}
	if differ(0)|differ(1)|differ(2)|differ(7) != 0 {
		return source, destination, 0
	}
	src, dst := uint16(k[2]>>16), uint16(k[2])
	if !m.SrcPort.Any() && (src < m.SrcPort.Lo || src > m.SrcPort.Hi) || !m.DstPort.Any() && (dst < m.DstPort.Lo || dst > m.DstPort.Hi) {
		return source, destination, 0
	}
	return source, destination, 1
}

// addSets adds the rows and lines of all sets.
func (b *blockwise) addSets(c *classifier, blocks int) bool {
	const words = kernel.BlockRules / 64
	lines := newSets(words, 4096)
	lines.of(make(set, words), 0) // line 0
	c.Row = uint32(2 * (kernel.MaskElements + blocks))
	for i, g := range c.groups {
		c.Group[i].Base = uint32(2 * len(b.Rows))
		for s := range g.sets.len() {
			all, mask := g.sets.at(s), uint32(0)
			at := len(b.Rows)
			b.Rows = append(b.Rows, 0, 0)
			for block := range blocks {
				line := all[words*block:][:words]
				sum, some := uint64(0), uint64(0)
				for w, word := range line {
					sum += word * c.marks[w]
					some |= word
				}
				number := 0
				if some != 0 {
					mask |= 1 << block
					number = lines.of(line, sum)
				}
				b.Rows = append(b.Rows, uint16(number))
			}
			b.Rows[at], b.Rows[at+1] = uint16(mask), uint16(mask>>16)
			if lines.len() > maxLines {
				return false
			}
		}
	}
	b.Lines = kernel.AlignedWords(len(lines.bits))
	copy(b.Lines, lines.bits)
	return true
}

// addPlaces adds the places of the rules.
func (b *blockwise) addPlaces(a *arrangement) {
	for i := range b.First {
		b.First[i] = math.MaxInt32
	}
	for block := range len(a.rules) / kernel.BlockRules {
		rules := a.rules[kernel.BlockRules*block:][:kernel.BlockRules]
		b.First[block] = uint32(rules[0])
		b.Places = append(b.Places, rules...)
		for range kernel.PlacesPad {
			b.Places = append(b.Places, math.MaxInt32)
		}
	}
}

func (b *blockwise) bytes() int {
	return 2*len(b.classes.Tables) + 2*len(b.Rows) + 8*len(b.Lines) + 4*len(b.Places)
}

func (b *blockwise) lookup(keys []flow.Key, answers []int32) {
	var chosen kernel.Chosen
	choose(b.lane, &b.classes, keys, &chosen)
	if len(answers) == kernel.Lanes { // the usual batch needs no copy
		b.search(&chosen, len(keys), (*[kernel.Lanes]int32)(answers))
		return
	}
	var best [kernel.Lanes]int32
	b.search(&chosen, len(keys), &best)
	copy(answers, best[:])
}

// search finds the best rule of the first n lanes.
func (b *blockwise) search(chosen *kernel.Chosen, n int, best *[kernel.Lanes]int32) {
	var masks kernel.Column
	var list kernel.Candidates
	masksOf(b.lane, &b.Blocks, chosen, n, &masks, best)
	for {
		found := pass(b.lane, &b.Blocks, n, &masks, best, &list)
		if found == 0 {
			return
		}
		try(b.lane, &b.Blocks, chosen, &list, found, best)
	}
}
