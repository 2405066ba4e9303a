package matcher

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

const (
	// growHeads is the number of heads up to which a table doubles them when it gets
	// full. That is a copy, of some 50 µs at the end; larger tables wait for a new engine.
	growHeads = 2048
	firstLog  = 6 // of the number of heads of a new table
	// spareParts is the least number of parts of arena that a table has room for.
	spareParts = 8
	// portsIn is the 64-bit word of a key whose lower half is kernel.PortWord.
	portsIn = kernel.PortWord / 2
)

// takes reports whether the buckets of t can hold a rule with this match: it pins what
// t hashes, agrees with what t compares before, and asks for nothing that t has no
// column for.
func (t *subtable) takes(m *flow.Match) bool {
	ports := ternary(m, kernel.PortWord)
	asked := m.Mask
	asked[portsIn] = asked[portsIn]&^math.MaxUint32 | uint64(ports)
	for w := range asked {
		differ := (m.Mask[w] ^ t.guard.Mask[w]) | (m.Value[w] ^ t.guard.Value[w])
		if t.mask[w]&^m.Mask[w]|differ&t.guarded[w]|asked[w]&^t.covered[w] != 0 {
			return false
		}
	}
	guarded := t.guarded[portsIn]&math.MaxUint32 != 0
	whole := ports != word(&m.Mask, kernel.PortWord) && !guarded
	return t.Ranges != 0 || m.SrcPort.Any() && m.DstPort.Any() && !whole
}

// setColumns sets the words that the buckets of t compare.
func (t *subtable) setColumns(words []int) {
	if len(words) == 0 {
		words = []int{0} // the kernels want one; its masks are zero
	}
	t.covered = t.guarded
	for i, w := range words {
		t.ColumnWord[i], t.ColumnOffset[i] = uint8(w), uint32(4*w)
		t.covered[w/2] |= math.MaxUint32 << (w % 2 * 32)
	}
	t.Ternary = uint32(len(words))
}

// bucket is one bucket of a table, to be replaced by another.
type bucket struct {
	table *subtable
	hash  uint32
	head  uint32 // 0 if there are no rules
	words []uint32
}

// bucketOf returns the bucket of t that m belongs to.
func (t *subtable) bucketOf(m *flow.Match) bucket {
	b := bucket{table: t, hash: t.Hash(&m.Value)}
	b.head = t.Heads[b.hash>>t.Shift]
	if b.head != 0 {
		b.words = t.Bucket(b.head)
	}
	return b
}

func (b *bucket) size() int {
	if b.head == 0 {
		return 0
	}
	return int(b.words[0])
}

// row returns where rule i of a bucket is: its words are every m-th of those returned.
func (t *subtable) row(bucket []uint32, i int) (words []uint32, m int) {
	first := i / kernel.Chunk * kernel.Chunk
	return bucket[1+first*t.RuleWords()+i-first:], min(kernel.Chunk, int(bucket[0])-first)
}

// newBucket returns memory for a bucket of n rules.
func (t *subtable) newBucket(n int) (offset uint32, words []uint32) {
	offset, part := t.arena.take(unitsFor(1 + n*t.RuleWords()))
	if part != nil {
		t.Arena[t.arena.parts-1] = part // nobody looks there before the bucket is in place
	}
	words = t.Bucket(offset)
	words[0] = uint32(n)
	return offset, words
}

// copyRows copies n rules of b, from i on, to those of a bucket from j on.
func (b *bucket) copyRows(words []uint32, j, i, n int) {
	w := b.table.RuleWords()
	for ; n > 0; i, j, n = i+1, j+1, n-1 {
		from, m := b.table.row(b.words, i)
		to, k := b.table.row(words, j)
		for c := range w {
			to[c*k] = from[c*m]
		}
	}
}

// with replaces b by a bucket with one rule more.
func (b *bucket) with(m *flow.Match, place, n int32) {
	size, at := b.size(), 0
	for ; at < size; at++ {
		if row, _ := b.table.row(b.words, at); int32(row[0]) > place {
			break
		}
	}
	offset, words := b.table.newBucket(size + 1)
	b.copyRows(words, 0, 0, at)
	b.copyRows(words, at+1, at, size-at)
	row, step := b.table.row(words, at)
	b.table.write(row, step, place, n, m)
	if size == 0 {
		b.table.keys++
		b.replace(kernel.Head(offset, kernel.Tag(b.hash)))
		return
	}
	b.replace(kernel.Head(offset, b.head>>24, kernel.Tag(b.hash)))
}

// without replaces b by a bucket without rule i.
func (b *bucket) without(i int) {
	size := b.size()
	if size == 1 {
		b.table.keys--
		b.replace(0)
		return
	}
	offset, words := b.table.newBucket(size - 1)
	b.copyRows(words, 0, 0, i)
	b.copyRows(words, i, i+1, size-1-i)
	b.replace(kernel.Head(offset, b.head>>24))
}

// moved replaces b by a bucket in which rule i has another place, between the same
// rules.
func (b *bucket) moved(i int, place int32) {
	size := b.size()
	offset, words := b.table.newBucket(size)
	copy(words, b.words[:1+size*b.table.RuleWords()])
	row, _ := b.table.row(words, i)
	row[0] = uint32(place)
	b.replace(kernel.Head(offset, b.head>>24))
}

// replace puts another head in the place of that of b.
func (b *bucket) replace(head uint32) {
	t := b.table
	atomic.StoreUint32(&t.Heads[b.hash>>t.Shift], head)
	if b.head != 0 {
		t.arena.retire(kernel.Offset(b.head), unitsFor(1+b.size()*t.RuleWords()))
	}
}

// roomy returns t, or what it was exchanged for, with room for another part of arena.
func (e *engine) roomy(t *subtable) *subtable {
	if t.arena.untidy() {
		d := e.tidied(t)
		e.exchange(t, d)
		return d
	}
	if t.arena.parts < len(t.Arena) {
		return t
	}
	r := *t // with heads of its own: those of t must not lead to where its readers cannot follow
	r.Heads = slices.Clone(t.Heads)
	r.Arena = slices.Grow(slices.Clone(t.Arena), len(t.Arena)/2+spareParts)[:len(t.Arena)+len(t.Arena)/2+spareParts]
	e.exchange(t, &r)
	return &r
}

// tidied returns t with an arena that has nothing spare.
func (e *engine) tidied(t *subtable) *subtable {
	d := *t
	d.arena = newArena(&e.epochs)
	d.Heads = make([]uint32, len(t.Heads))
	words := make([]uint32, kernel.Unit, (t.arena.units-t.arena.spare+1)*kernel.Unit+kernel.Pad)
	for slot, head := range t.Heads {
		if head == 0 {
			continue
		}
		d.Heads[slot] = kernel.Head(uint32(len(words)/kernel.Unit), head>>24)
		bucket := t.Bucket(head)
		n := 1 + int(bucket[0])*t.RuleWords()
		words = append(words, bucket[:n]...)
		words = append(words, make([]uint32, unitsFor(n)*kernel.Unit-n)...)
	}
	d.setArena(append(words, make([]uint32, kernel.Pad)...))
	return &d
}

// doubled returns t with twice as many heads.
func (e *engine) doubled(t *subtable) *subtable {
	d := *t
	d.arena = newArena(&e.epochs)
	d.Shift--
	d.Heads = make([]uint32, 2*len(t.Heads))
	d.Arena = make([][]uint32, 2*len(t.Arena)+spareParts)
	d.keys = 0
	for slot, head := range t.Heads {
		if head == 0 {
			continue
		}
		b := bucket{table: t, head: head, words: t.Bucket(head)}
		var rows [2][]int
		var tags [2][]uint32
		for i := range b.size() {
			row, m := t.row(b.words, i)
			hash := t.Hash(&e.rule(int32(row[m])).Match.Value)
			half := hash >> d.Shift & 1
			rows[half], tags[half] = append(rows[half], i), append(tags[half], kernel.Tag(hash))
		}
		for half := range rows {
			if len(rows[half]) == 0 {
				continue
			}
			if d.arena.parts == len(d.Arena) { // nobody looks there yet
				d.Arena = append(d.Arena, make([][]uint32, spareParts)...)
			}
			offset, words := d.newBucket(len(rows[half]))
			for j, i := range rows[half] {
				b.copyRows(words, j, i, 1)
			}
			d.Heads[2*slot+half] = kernel.Head(offset, tags[half]...)
			d.keys++
		}
	}
	return &d
}

// another returns a new table for a rule that no table of set has room for, and the words
// that a set with it has columns for. Its buckets have columns for all that rules so far
// look at.
func (e *engine) another(set *tableSet, m *flow.Match) (*subtable, []uint8) {
	t := &subtable{mask: sharedMask(&m.Mask), arena: newArena(&e.epochs)}
	t.Shift, t.Heads = 32-firstLog, make([]uint32, 1<<firstLog)
	t.Arena = make([][]uint32, spareParts)
	words := slices.Clone(set.words)
	for w := range uint8(kernel.Words) {
		mask := word(&t.mask, int(w))
		if mask == 0 {
			continue
		}
		at := slices.Index(words, w)
		if at < 0 {
			at = len(words)
			words = append(words, w)
		}
		t.HashColumn[t.Hashed], t.HashWord[t.Hashed], t.HashMask[t.Hashed] = uint32(at*4*kernel.Lanes), w, mask
		t.Hashed++
	}
	var ones [kernel.Words]int
	var columns []int
	for w := range ones {
		ones[w] = bits.OnesCount32(ternary(m, w))
		used := slices.ContainsFunc(set.tables, func(o *subtable) bool { return word(&o.covered, w) != 0 })
		if ones[w] > 0 || used && w != kernel.PortWord {
			columns = append(columns, w)
		}
	}
	slices.SortStableFunc(columns, func(a, b int) int { return cmp.Compare(ones[b], ones[a]) })
	t.Ranges = 1
	t.setColumns(columns)
	return t, words
}

// sharedMask returns a mask for a table that holds a rule with this mask and others like
// it: of the addresses the upper bits, and the rest only if these are few.
func sharedMask(mask *flow.Key) (shared flow.Key) {
	ones := 0
	rest := *mask
	for _, hi := range []int{3, 5} {
		rest[hi], rest[hi+1] = 0, 0
		for _, p := range slices.Backward(prefixes(hi)) {
			if within(&p, mask) {
				shared[hi], shared[hi+1] = p[hi], p[hi+1]
				ones += bits.OnesCount64(p[hi]) + bits.OnesCount64(p[hi+1])
				break
			}
		}
	}
	if ones >= 16 {
		return shared
	}
	for w := range shared {
		shared[w] |= rest[w]
	}
	return shared
}
