package matcher

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/epoch"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// How rules are spread over hash tables.
//
// Problem. A rule matches under a mask, and a hash table can only be asked under
// one mask. One table for each mask that occurs ("tuple space search") has short
// buckets, but real rule sets have hundreds of masks, and a lookup has to ask
// nearly all of them.
//
// Idea ("TupleMerge" with wide buckets). A rule may sit in any table whose mask is
// part of its own: it then shares a bucket with rules that differ from it only in
// bits the table does not look at, and the rest is compared after the hash. Comparing
// 16 rules at once costs hardly more than comparing one, so buckets may be wide and
// tables few. Tables are made one by one. Each gets the mask that places most of the
// rules that are left, counting no more than a limit for each bucket (cost.go chooses it);
// rules that do not fit are left for the next table. Port ranges are no mask and are
// always compared after the hash.
//
// The mask is found by climbing (survey.best): from no mask at all, change the
// choice for one field at a time to the one that places most rules, until no change
// helps. Counting is done on a sample, so that the cost hardly depends on the number
// of rules.
//
// A table looks only at words in which its rules differ. Words that are the same in
// all its rules (the eth_type of an IPv4 table) are guards, compared once for each
// key; the rest are columns of its buckets.
//
// Invariants.
//   - Every rule is in exactly one bucket: that of its value under its table's mask.
//   - Rules of a bucket are in table order, so the first that matches is the best.
//   - Tables are in the order of their best rule, so a search stops at the first
//     table whose best rule is no better than what was found.
//   - There are at most maxTables tables. The one with the empty mask is one bucket
//     without a limit: a rule set made to be slow costs a scan, 16 rules a step, not
//     ever more hash tables.

const (
	maxTables = 64
	// tableRules is the most rules a table with a mask has, so that the 24 bits of an
	// offset reach every bucket however many columns there are.
	tableRules = 1 << 20
	// guardFloor is the number of rules from which on a table's guards are worth a
	// column that no hash needs.
	guardFloor = 32
)

// newEngine builds an engine of t with the cheapest of several limits, see cost.go.
func newEngine(t *flow.Table, lane Lane) *engine {
	tried := limits
	switch n := t.Len(); {
	case n < usualLimit || n > pricedRules && lane == PureGo:
		return newEngineWith(usualLimit, t, lane)
	case n > pricedRules:
		tried = largeLimits
	}
	keys := likelyKeys(t, pricedKeys)
	var best *engine
	var lowest float64
	for _, l := range tried {
		e := newEngineWith(l, t, lane)
		if price := e.price(keys); best == nil || price < lowest {
			best, lowest = e, price
		}
	}
	return best
}

// newEngineWith builds an engine of t with at most that many rules in a bucket.
func newEngineWith(limit int, t *flow.Table, lane Lane) *engine {
	e := &engine{lane: lane, base: t, limit: limit, steps: new(atomic.Uint64)}
	e.pages.Store(new([]*page))
	e.changes = changes{order: newOrder(t, e.rule), next: int32(t.Len() + 1), names: newNames(t.Len(), e.rule)}
	e.set.Store(e.tables())
	return e
}

// tables spreads the rules of e over tables whose buckets have at most e.limit rules.
func (e *engine) tables() *tableSet {
	t := e.base
	left := make([]int32, t.Len())
	for i := range left {
		left[i] = int32(i)
	}
	s := newSurvey(t, e.limit)
	var drawers []drawer
	for len(left) > 0 {
		mask := flow.Key{}
		if len(drawers) < maxTables-1 {
			mask = s.best(left)
		}
		var d drawer
		d, left = fill(t, mask, left, e.limit)
		drawers = append(drawers, d)
	}
	slices.SortStableFunc(drawers, func(a, b drawer) int { return cmp.Compare(a.rules[0], b.rules[0]) })
	var used [kernel.Words]bool
	for i := range drawers {
		drawers[i].findGuards(t)
		for w := range used {
			hashed := word(&drawers[i].mask, w)&^word(&drawers[i].guard.Mask, w) != 0
			guarded := word(&drawers[i].guard.Mask, w) != 0 && len(drawers[i].rules) >= guardFloor
			used[w] = used[w] || hashed || guarded
		}
	}
	var words []uint8
	for w, u := range used {
		if u {
			words = append(words, uint8(w))
		}
	}
	tables := make([]*subtable, len(drawers))
	for i := range drawers {
		tables[i] = drawers[i].pack(t, words, &e.epochs)
	}
	return newTableSet(tables, words)
}

// firstPlace returns the place of rule i of n that were put in order at once: they
// leave the same room between each other.
func firstPlace(i, n int) int32 { return int32(i+1) * (kernel.None / int32(n+1)) }

// word returns a 32-bit word of a key.
func word(k *flow.Key, w int) uint32 { return kernel.Word(k, uint8(w)) }

// drawer is a subtable in the making.
type drawer struct {
	mask  flow.Key
	rules []int32    // best first, never empty
	guard flow.Match // what all its rules have in common
}

// fill puts what fits of left into a new drawer under mask and returns the others.
func fill(t *flow.Table, mask flow.Key, left []int32, limit int) (d drawer, rest []int32) {
	d.mask = mask
	if mask == (flow.Key{}) {
		d.rules = left
		return d, nil
	}
	// How many rules each bucket has, by a hash of its value. Values with the same
	// hash share a count, which costs room in a bucket and changes nothing.
	size := 1 << bits.Len(uint(2*len(left)))
	keys, counts := make([]uint64, size), make([]uint8, size)
	for _, i := range left {
		m := &t.Rule(int(i)).Match
		if !within(&mask, &m.Mask) {
			rest = append(rest, i)
			continue
		}
		h := digest(&m.Value, &mask)
		at := h & uint64(size-1)
		for counts[at] != 0 && keys[at] != h {
			at = (at + 1) & uint64(size-1)
		}
		if int(counts[at]) == limit || len(d.rules) == tableRules {
			rest = append(rest, i)
			continue
		}
		keys[at] = h
		counts[at]++
		d.rules = append(d.rules, i)
	}
	return d, rest
}

// digest hashes k under mask to 64 bits.
func digest(k, mask *flow.Key) uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	for w, m := range mask {
		if m != 0 {
			hi, lo := bits.Mul64(h^k[w]&m, 0xd6e8feb86659fd93)
			h = hi ^ lo
		}
	}
	return h
}

// within reports whether every bit of a is set in b.
func within(a, b *flow.Key) bool {
	var out uint64
	for w := range a {
		out |= a[w] &^ b[w]
	}
	return out == 0
}

// findGuards finds the 32-bit words in which all rules have the same value and mask.
func (d *drawer) findGuards(t *flow.Table) {
	first := &t.Rule(int(d.rules[0])).Match
	var differ flow.Key
	for _, i := range d.rules {
		m := &t.Rule(int(i)).Match
		for w := range differ {
			differ[w] |= (m.Value[w] ^ first.Value[w]) | (m.Mask[w] ^ first.Mask[w])
		}
	}
	for w := range differ {
		for _, half := range []uint64{0xffffffff, 0xffffffff << 32} {
			if differ[w]&half == 0 {
				d.guard.Mask[w] |= first.Mask[w] & half
				d.guard.Value[w] |= first.Value[w] & half
			}
		}
	}
}

// pack makes a table of d; words are those that have columns in a batch.
func (d *drawer) pack(t *flow.Table, words []uint8, epochs *epoch.Domain) *subtable {
	s := &subtable{mask: d.mask, arena: newArena(epochs), Table: kernel.Table{Best: firstPlace(int(d.rules[0]), t.Len())}}
	for at, w := range words {
		column := uint32(at * 4 * kernel.Lanes)
		if m := word(&d.guard.Mask, int(w)); m != 0 {
			s.GuardColumn[s.Guards], s.GuardWord[s.Guards] = column, w
			s.GuardMask[s.Guards], s.GuardValue[s.Guards] = m, word(&d.guard.Value, int(w))
			shift := w % 2 * 32
			s.guard.Mask[w/2] |= uint64(m) << shift
			s.guard.Value[w/2] |= uint64(word(&d.guard.Value, int(w))) << shift
			s.guarded[w/2] |= math.MaxUint32 << shift
			s.Guards++
		}
		if m := word(&d.mask, int(w)) &^ word(&s.guard.Mask, int(w)); m != 0 {
			s.HashColumn[s.Hashed], s.HashWord[s.Hashed], s.HashMask[s.Hashed] = column, w, m
			s.Hashed++
		}
	}
	d.columns(t, s)

	order := make([]uint64, len(d.rules)) // hash and rule
	for i, r := range d.rules {
		order[i] = uint64(s.Hash(&t.Rule(int(r)).Match.Value))<<32 | uint64(r)
	}
	slices.Sort(order)
	values := 1
	for i := 1; i < len(order); i++ {
		if order[i]>>32 != order[i-1]>>32 {
			values++
		}
	}
	lg := max(4, bits.Len(uint(3*values/2))) // 1.5 to 3 heads for each value
	s.Shift = uint32(32 - lg)
	s.Heads = make([]uint32, 1<<lg)
	arena := make([]uint32, kernel.Unit, kernel.Unit+len(order)*s.RuleWords()+values*(kernel.Unit/2+1)+kernel.Pad+kernel.Unit)
	for len(order) > 0 {
		slot := order[0] >> (32 + s.Shift)
		n := 1
		for n < len(order) && order[n]>>(32+s.Shift) == slot {
			n++
		}
		arena, s.Heads[slot] = s.add(arena, t, order[:n])
		order = order[n:]
		s.keys++
	}
	s.setArena(append(arena, make([]uint32, kernel.Pad)...))
	return s
}

// columns chooses the words that the buckets of d compare, those with most bits
// first, because the lanes that compare one by one stop at the first difference.
func (d *drawer) columns(t *flow.Table, s *subtable) {
	var ones [kernel.Words]int
	for _, i := range d.rules {
		m := &t.Rule(int(i)).Match
		for w := range ones {
			ones[w] += bits.OnesCount32(ternary(m, w) &^ word(&s.guard.Mask, w))
		}
		exact := ternary(m, kernel.PortWord) != word(&m.Mask, kernel.PortWord) && word(&s.guard.Mask, kernel.PortWord) == 0
		if exact || !m.SrcPort.Any() || !m.DstPort.Any() {
			s.Ranges = 1
		}
	}
	var words []int
	for w, n := range ones {
		if n > 0 {
			words = append(words, w)
		}
	}
	slices.SortStableFunc(words, func(a, b int) int { return cmp.Compare(ones[b], ones[a]) })
	s.setColumns(words)
}

// ternary returns the bits of a word that a rule compares by mask. A port that is
// compared whole is a range.
func ternary(m *flow.Match, w int) uint32 {
	mask := word(&m.Mask, w)
	if w == kernel.PortWord {
		if mask>>16 == 0xffff {
			mask &= 0xffff
		}
		if mask&0xffff == 0xffff {
			mask &^= 0xffff
		}
	}
	return mask
}

// add appends a bucket of the rules in order, which are hash and rule, to an arena and
// returns its head.
func (s *subtable) add(arena []uint32, t *flow.Table, order []uint64) ([]uint32, uint32) {
	for len(arena)%kernel.Unit != 0 {
		arena = append(arena, 0)
	}
	tags := make([]uint32, 0, 64)
	rules := make([]int32, 0, 64)
	for _, o := range order {
		tags = append(tags, kernel.Tag(uint32(o>>32)))
		rules = append(rules, int32(uint32(o)))
	}
	slices.Sort(rules)
	head := kernel.Head(uint32(len(arena)/kernel.Unit), tags...)
	arena = append(arena, uint32(len(rules)))
	for chunk := range slices.Chunk(rules, kernel.Chunk) {
		at := len(arena)
		arena = append(arena, make([]uint32, len(chunk)*s.RuleWords())...)
		for i, r := range chunk {
			s.write(arena[at+i:], len(chunk), firstPlace(int(r), t.Len()), r, &t.Rule(int(r)).Match)
		}
	}
	return arena, head
}

// write writes the words of a rule to every m-th word of row.
func (s *subtable) write(row []uint32, m int, place, rule int32, match *flow.Match) {
	row[0], row[m] = uint32(place), uint32(rule)
	row = row[2*m:]
	for _, w := range s.ColumnWord[:s.Ternary] {
		mask := ternary(match, int(w))
		row[0], row[m] = word(&match.Value, int(w))&mask, mask
		row = row[min(2*m, len(row)):]
	}
	if s.Ranges != 0 {
		row[0], row[m] = ports(match)
	}
}

// setArena makes words, cut into parts, the arena of s.
func (s *subtable) setArena(words []uint32) {
	const size = kernel.ArenaUnits * kernel.Unit
	s.arena.units = len(words) / kernel.Unit
	s.arena.parts = (len(words) + size - 1) / size
	s.Arena = make([][]uint32, s.arena.parts+s.arena.parts/2+spareParts)
	for i := range s.arena.parts {
		s.Arena[i] = words[i*size:]
	}
}

// ports returns the lowest ports of m and the widths of the ranges, source port in
// the upper half. Ports under a mask are any port here.
func ports(m *flow.Match) (low, width uint32) {
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		r := m.SrcPort
		if f == flow.DstPort {
			r = m.DstPort
		}
		switch {
		case m.Mask.Get(f) == f.Max():
			r = flow.PortRange{Lo: uint16(m.Value.Get(f)), Hi: uint16(m.Value.Get(f))}
		case r.Any():
			r = flow.PortRange{Hi: 0xffff}
		}
		low = low<<16 | uint32(r.Lo)
		width = width<<16 | uint32(r.Hi-r.Lo)
	}
	return low, width
}
