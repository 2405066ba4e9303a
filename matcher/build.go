package matcher

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// How rules are spread over hash tables.
//
// Problem. A rule matches under a mask, and a hash table can only be asked under
// one mask. One table for each mask that occurs ("tuple space search") has short
// buckets, but real rule sets have hundreds of masks, and a lookup has to ask
// nearly all of them.
//
// Idea ("TupleMerge"). A rule may sit in any table whose mask is part of its own: it
// then shares a bucket with rules that differ from it only in bits the table does
// not look at, and the rest is compared after the hash. So rules are put, best
// first, into the table with the most mask bits that still has room in the bucket
// concerned; if there is none, a new table is made, as coarse as possible: addresses
// cut to whole bytes and short of the last one, ports and the like ignored. A rule
// whose coarse table exists and is full there gets a finer one, at last one with its
// own mask. Port ranges are no mask and are always compared after the hash. A rule
// with an empty mask belongs to the table with an empty mask, which is one bucket:
// a linear scan of the few wide rules.
//
// Invariants.
//   - Every rule is in exactly one bucket: that of its value under its table's mask.
//   - Rows of a bucket are in table order, so the first that matches is the best.
//   - Tables are in the order of their best rule, so a search stops at the first
//     table whose best rule is no better than what was found.
//   - A bucket holds at most bucketLimit rows, unless no finer mask is left for a
//     rule or maxTables is reached: a rule set made to be slow costs a scan, not
//     ever more hash tables.
//
// Numbers, in million lookups a second of thread CPU time on one core of a
// Sapphire Rapids class machine, uniform traffic, 10,000 generated rules (seed 1) and
// the published sets acl1, fw1 and ipc1 of that size:
//
//	                      acl    fw   ipc  segment   acl1   fw1  ipc1
//	one table per mask   0.84  0.69  0.17     25.5   1.35  0.50  0.18
//	merged, limit 8       5.2   4.0  10.9     14.5    4.7  14.3   2.4
//	merged, limit 16     11.3   5.9  11.3     11.2    6.3  13.7   3.4
//	merged, limit 32     11.3   6.9  11.1     10.4    5.3  12.1   4.4

const (
	bucketLimit = 16 // rows
	maxTables   = 64
)

// finest is the last of the levels a rule's own mask is coarsened by.
const finest = 2

// coarsen returns the part of a mask that a new table of this level looks at.
func coarsen(mask flow.Key, level int) flow.Key {
	if level == finest {
		return mask
	}
	for _, f := range []flow.Field{flow.EthType, flow.SrcPort, flow.DstPort, flow.Proto, flow.TOS, flow.TTL, flow.Flags, flow.TCPFlags, flow.CTState} {
		mask.Set(f, 0)
	}
	if level > 0 {
		return mask
	}
	for _, f := range []flow.Field{flow.SrcHi, flow.DstHi, flow.SrcLo, flow.DstLo} {
		host := bits.TrailingZeros64(mask.Get(f))
		host = (host + 7) &^ 7
		if f == flow.SrcLo || f == flow.DstLo {
			host = max(host, 8)
		}
		mask.Set(f, mask.Get(f)>>host<<host)
	}
	return mask
}

// builder is a classifier in the making.
type builder struct {
	tables []*drawer
}

// drawer is a subtable in the making.
type drawer struct {
	subtable
	full    flow.Key // the mask of all its words
	ones    int      // bits in it
	buckets map[uint32][]int32
}

// add puts the i-th rule, which matches m, into a table. Rules come best first.
func (b *builder) add(i int, m *flow.Match) {
	d := b.room(m)
	h := d.hash(&m.Value)
	d.buckets[h] = append(d.buckets[h], int32(i))
}

// room returns the table that m should go to, making it if need be.
func (b *builder) room(m *flow.Match) *drawer {
	var best, last *drawer // with room; whether or not
	for _, d := range b.tables {
		if !within(&d.full, &m.Mask) {
			continue
		}
		if last == nil || d.ones > last.ones {
			last = d
		}
		if (best == nil || d.ones > best.ones) && len(d.buckets[d.hash(&m.Value)]) < bucketLimit {
			best = d
		}
	}
	if best != nil {
		return best
	}
	for level := 0; level <= finest && len(b.tables) < maxTables; level++ {
		mask := coarsen(m.Mask, level)
		if !slices.ContainsFunc(b.tables, func(d *drawer) bool { return d.full == mask }) {
			return b.open(mask)
		}
	}
	if last == nil {
		return b.open(flow.Key{})
	}
	return last
}

// open makes a new table.
func (b *builder) open(mask flow.Key) *drawer {
	d := &drawer{full: mask, buckets: map[uint32][]int32{}}
	for w, m := range mask {
		if m != 0 {
			d.columns = append(d.columns, column{uint8(w), m})
			d.ones += bits.OnesCount64(m)
		}
	}
	b.tables = append(b.tables, d)
	return d
}

// within reports whether every bit of a is set in b.
func within(a, b *flow.Key) bool {
	var out uint64
	for w := range a {
		out |= a[w] &^ b[w]
	}
	return out == 0
}

// pack writes what was built into the arrays that lookups read.
func (b *builder) pack(c *Classifier, t *flow.Table) {
	for _, d := range b.tables {
		size := 2
		for size < 2*len(d.buckets) {
			size *= 2
		}
		d.slots = make([]slot, size)
		d.shift = uint8(32 - bits.Len(uint(size-1)))
		d.best = int32(t.Len())
		hashes := make([]uint32, 0, len(d.buckets))
		for h, rules := range d.buckets {
			hashes = append(hashes, h)
			d.best = min(d.best, rules[0])
		}
		slices.Sort(hashes) // so that equal tables make equal classifiers
		for _, h := range hashes {
			i := h >> d.shift
			for d.slots[i&uint32(size-1)].count != 0 {
				i++
			}
			d.slots[i&uint32(size-1)] = slot{hash: h, start: uint32(len(c.rule)), count: uint32(len(d.buckets[h]))}
			for _, r := range d.buckets[h] {
				c.addRow(r, &t.Rule(int(r)).Match)
			}
		}
		c.tables = append(c.tables, d.subtable)
	}
	slices.SortFunc(c.tables, func(a, b subtable) int { return cmp.Compare(a.best, b.best) })
}
