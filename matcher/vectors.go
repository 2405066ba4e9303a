package matcher

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Small tables as bit vectors.
//
// Problem. In a table of some hundred rules hashing costs 15 to 20 ns for each key,
// most of it in comparing buckets.
//
// Idea. Cut the key into parts of at most 16 bits. The rules that a part of a key
// allows are a set, and there are few different ones: the values of a part fall into
// classes. So the class of every value is kept in an array, and the set of every
// class as a row of bits in table order. The rules that match a key are the
// intersection of the sets of its parts, and the first bit is the winner. To have few
// rows to intersect, parts are put into groups: the classes of the parts of one
// group choose the class of the group from a second array. Source, destination and
// everything else make a group each, more if the array would become too large.
//
// One more bit, behind the last rule, is set in all rows, so that there always is a
// first bit; it means the default. Words of the key that are the same in all rules
// are no parts but are compared.
//
// Invariant: a rule matches a key iff it allows each part of it, because a match is
// one condition for each bit and a range for each port, and a port is never cut.
//
// Eligible are tables of at most maxVectorRules rules with at most kernel.MaxParts
// parts, kernel.MaxGroups groups and vectorBytes of memory. That is also all of the
// cost model: such a table costs 6 to 9 ns for each key whatever the rules are, as long
// as it stays in the second-level cache, which has 1 to 2 MiB on processors that have
// AVX-512; the hash tables cost more than that for every set measured.

const (
	maxVectorRules = 1023
	vectorBytes    = 1400 << 10
	maxCombined    = 1 << 17 // combinations of classes in a group
	maxRanges      = 64      // that one mask may fall into
)

// vectors is a small table as bit vectors.
type vectors struct{ kernel.Vectors }

// row is a set of rules.
type row [16]uint64

func (r *row) flip(i int) { r[i/64] ^= 1 << (i % 64) }

// piece is a part of the key in the making.
type piece struct {
	kernel.Part
	word  int
	size  int // number of values
	table []uint16
	rows  []row
}

// newVectors returns t as bit vectors, or nil if it is not eligible.
func newVectors(t *flow.Table) *vectors {
	if t.Len() == 0 || t.Len() > maxVectorRules {
		return nil
	}
	v := &vectors{}
	v.Lines, v.RowShift = 1, 6
	if t.Len() >= 512 {
		v.Lines, v.RowShift = 2, 7
	}
	var families [3][]piece // source, destination, others
	for w := range kernel.Words {
		used, same := usedBits(t, w)
		if used == 0 {
			continue
		}
		column := 64 * v.Used
		v.Offset[v.Used] = uint32(4 * w)
		v.Used++
		if same && v.Guards < kernel.MaxGuards {
			m := &t.Rule(0).Match
			v.GuardColumn[v.Guards], v.GuardMask[v.Guards], v.GuardValue[v.Guards] = column, word(&m.Mask, w), word(&m.Value, w)
			v.Guards++
			continue
		}
		family := 2
		if 6 <= w && w < 14 {
			family = (w - 6) / 4
		}
		for _, p := range cut(used) {
			p.word, p.Column = w, column
			if !p.classify(t) {
				return nil
			}
			families[family] = append(families[family], p)
		}
	}
	var none row
	none.flip(t.Len())
	rows := v.append(nil, none)
	for _, pieces := range families {
		slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(len(a.rows), len(b.rows)) })
		for len(pieces) > 0 {
			n, product := 1, len(pieces[0].rows)
			for n < len(pieces) && product*len(pieces[n].rows) <= maxCombined {
				product *= len(pieces[n].rows)
				n++
			}
			var ok bool
			if rows, ok = v.group(rows, pieces[:n]); !ok {
				return nil
			}
			pieces = pieces[n:]
		}
	}
	if v.Groups == 0 { // nothing but guards
		v.Group[0] = kernel.Group{Parts: 1, Base: uint32(8 * len(rows))}
		all := none
		all.flip(0)
		rows = v.append(rows, all)
		v.Classes = append(v.Classes, 0)
		v.Groups = 1
	}
	v.Classes = append(v.Classes, 0)
	v.Rows = kernel.AlignedWords(len(rows))
	copy(v.Rows, rows)
	if v.bytes() > vectorBytes {
		return nil
	}
	return v
}

func (v *vectors) bytes() int { return 2*len(v.Classes) + 8*len(v.Rows) }

// append appends the lines of r that v uses.
func (v *vectors) append(rows []uint64, r row) []uint64 { return append(rows, r[:8*v.Lines]...) }

// usedBits returns the bits of a word that rules look at, and whether all rules
// want the same of it.
func usedBits(t *flow.Table, w int) (used uint32, same bool) {
	same = true
	first := &t.Rule(0).Match
	for i := range t.Len() {
		m := &t.Rule(i).Match
		used |= word(&m.Mask, w)
		same = same && word(&m.Mask, w) == word(&first.Mask, w) && word(&m.Value, w) == word(&first.Value, w)
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

// cut returns the parts of a word of which these bits are used: one for each half,
// or one for both where they fit.
func cut(used uint32) []piece {
	run := func(used uint32) (shift, width int) {
		if used == 0 {
			return 0, 0
		}
		shift = bits.TrailingZeros32(used)
		return shift, bits.Len32(used) - shift
	}
	highAt, high := run(used >> 16 << 16)
	lowAt, low := run(used & 0xffff)
	mask := func(width int) uint32 { return 1<<width - 1 }
	if high+low <= 16 {
		p := piece{size: 1 << (high + low)}
		p.HighShift, p.HighMask = uint32(max(0, highAt-low)), mask(high)<<low
		p.LowShift, p.LowMask = uint32(lowAt), mask(low)
		return []piece{p}
	}
	upper, lower := piece{size: 1 << high}, piece{size: 1 << low}
	upper.HighShift, upper.HighMask = uint32(highAt), mask(high)
	lower.LowShift, lower.LowMask = uint32(lowAt), mask(low)
	return []piece{upper, lower}
}

// classify finds the classes of the values of p: it goes through the values in
// order and flips the rules that begin or end there.
func (p *piece) classify(t *flow.Table) bool {
	var set row
	set.flip(t.Len())
	var flips []uint32 // value and rule
	for i := range t.Len() {
		m := &t.Rule(i).Match
		if r, ok := p.portRange(m); ok {
			flips = append(flips, uint32(r.Lo)<<10|uint32(i), (uint32(r.Hi)+1)<<10|uint32(i))
			continue
		}
		value, mask := p.Value(word(&m.Value, p.word)), p.Value(word(&m.Mask, p.word))
		if mask == 0 {
			set.flip(i)
			continue
		}
		width := uint32(1) << bits.TrailingZeros32(mask) // of each range the mask falls into
		free := uint32(p.size-1) &^ mask &^ (width - 1)
		if 1<<bits.OnesCount32(free) > maxRanges {
			return false
		}
		for sub := free; ; sub = (sub - 1) & free {
			flips = append(flips, (value|sub)<<10|uint32(i), ((value|sub)+width)<<10|uint32(i))
			if sub == 0 {
				break
			}
		}
	}
	slices.Sort(flips)
	p.table = make([]uint16, p.size)
	c := newClasses()
	at := 0
	for _, f := range flips {
		if to := int(f >> 10); to > at {
			class := uint16(c.of(&set))
			for ; at < to; at++ {
				p.table[at] = class
			}
		}
		set.flip(int(f & 1023))
	}
	class := uint16(c.of(&set))
	for ; at < p.size; at++ {
		p.table[at] = class
	}
	p.rows = c.rows
	return true
}

// portRange returns the range that m has for p, if p is a port that m has one for.
func (p *piece) portRange(m *flow.Match) (r flow.PortRange, ok bool) {
	if p.word != kernel.PortWord {
		return r, false
	}
	r = m.DstPort
	if p.HighMask != 0 {
		r = m.SrcPort
	}
	return r, !r.Any()
}

// group makes one group of pieces and appends its rows.
func (v *vectors) group(rows []uint64, pieces []piece) ([]uint64, bool) {
	parts := 0
	for _, g := range v.Group[:v.Groups] {
		parts += int(g.Parts)
	}
	if v.Groups == kernel.MaxGroups || parts+len(pieces) > kernel.MaxParts {
		return nil, false
	}
	combined := make([]uint16, len(pieces[0].rows))
	for i := range combined {
		combined[i] = uint16(i)
	}
	sets := pieces[0].rows
	for _, p := range pieces[1:] {
		c := newClasses()
		n := len(p.rows)
		cross := make([]uint16, len(sets)*n)
		for i := range sets {
			for j := range p.rows {
				set := sets[i]
				for w := range set {
					set[w] &= p.rows[j][w]
				}
				cross[i*n+j] = uint16(c.of(&set))
			}
		}
		if len(c.rows) > 1<<16 {
			return nil, false
		}
		next := make([]uint16, 0, len(combined)*n)
		for _, i := range combined {
			next = append(next, cross[int(i)*n:][:n]...)
		}
		combined, sets = next, c.rows
	}
	factor := uint32(len(combined))
	for i, p := range pieces {
		factor /= uint32(len(p.rows))
		p.Table, p.Factor = uint32(len(v.Classes)), factor
		v.Classes = append(v.Classes, p.table...)
		v.Part[parts+i] = p.Part
	}
	v.Group[v.Groups] = kernel.Group{Parts: uint32(len(pieces)), Cross: uint32(len(v.Classes)), Base: uint32(8 * len(rows))}
	v.Groups++
	if len(pieces) > 1 {
		v.Classes = append(v.Classes, combined...)
	}
	for _, s := range sets {
		rows = v.append(rows, s)
	}
	return rows, true
}

// classes numbers different sets.
type classes struct {
	rows  []row
	first map[uint64]int32 // the class that has this hash
	next  []int32          // another one with the same hash, or -1
}

func newClasses() *classes { return &classes{first: map[uint64]int32{}} }

// of returns the class of a set, a new one if there is none.
func (c *classes) of(set *row) int {
	h := uint64(0x9e3779b97f4a7c15)
	for _, w := range set {
		hi, lo := bits.Mul64(h^w, 0xd6e8feb86659fd93)
		h = hi ^ lo
	}
	first, ok := c.first[h]
	if !ok {
		first = -1
	}
	for i := first; i >= 0; i = c.next[i] {
		if c.rows[i] == *set {
			return int(i)
		}
	}
	c.first[h] = int32(len(c.rows))
	c.rows = append(c.rows, *set)
	c.next = append(c.next, first)
	return len(c.rows) - 1
}
