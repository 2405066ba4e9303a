package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
)

// Classifier answers which rule of one table wins for a key. It is immutable, so
// any number of goroutines may use it at once, and a new table is put in place by
// storing a new Classifier in an atomic pointer.
type Classifier struct {
	lane   Lane
	table  *flow.Table
	tables []subtable // by best rule

	// Rules are rows. A row has, for each word that any rule looks at, the
	// wanted value and the mask, and before them one word of port ranges.
	words  []uint8
	stride int
	rows   []uint64
	rule   []int32 // the place in the table of each row
}

// Compile makes a classifier of t. Cost: 0.2 to 0.5 µs for each rule.
func Compile(t *flow.Table, opts ...Option) *Classifier {
	c := &Classifier{lane: Lanes()[0], table: t}
	for _, o := range opts {
		o(c)
	}
	if c.lane == Definition {
		return c
	}
	var used flow.Key
	for i := range t.Len() {
		for w, m := range t.Rule(i).Match.Mask {
			used[w] |= m
		}
	}
	for w, m := range used {
		if m != 0 {
			c.words = append(c.words, uint8(w))
		}
	}
	c.stride = 1 + 2*len(c.words)
	var b builder
	for i := range t.Len() {
		b.add(i, &t.Rule(i).Match)
	}
	b.pack(c, t)
	return c
}

// Table returns what c was compiled from.
func (c *Classifier) Table() *flow.Table { return c.table }

// Lane returns the lane c uses.
func (c *Classifier) Lane() Lane { return c.lane }

// Batch is a number of keys and the answers to them.
type Batch struct {
	Keys  []flow.Key
	Rules []int32 // for each key the place of its rule in the table, or Table.Len() for the default
}

// Lookup answers every key of b into b.Rules, which must be at least as long as
// b.Keys. It allocates nothing and writes nothing but b.Rules.
func (c *Classifier) Lookup(b *Batch) {
	answers := b.Rules[:len(b.Keys)]
	if c.lane == Definition {
		for i := range b.Keys {
			answers[i] = int32(c.table.Lookup(&b.Keys[i]))
		}
		return
	}
	for i := range b.Keys {
		answers[i] = c.search(&b.Keys[i])
	}
}

// LookupOne returns the place of the rule that wins for k, or Table.Len() for the
// default.
func (c *Classifier) LookupOne(k *flow.Key) int {
	if c.lane == Definition {
		return c.table.Lookup(k)
	}
	return int(c.search(k))
}

func (c *Classifier) search(k *flow.Key) int32 {
	best := int32(c.table.Len())
	for i := range c.tables {
		t := &c.tables[i]
		if t.best >= best {
			break
		}
		if s := t.find(k); s.count != 0 {
			best = c.scan(s, k, best)
		}
	}
	return best
}

// scan returns the first rule of a bucket that matches k if it is better than
// best, and best otherwise.
func (c *Classifier) scan(s slot, k *flow.Key, best int32) int32 {
	src, dst := uint16(k[2]>>16), uint16(k[2])
	rows := c.rows[int(s.start)*c.stride:]
	for _, rule := range c.rule[s.start : s.start+s.count] {
		if rule >= best {
			break
		}
		row := rows[:c.stride]
		rows = rows[c.stride:]
		var diff uint64
		for i, w := range c.words {
			diff |= (k[w%flow.Words] ^ row[2*i+1]) & row[2*i+2]
		}
		if diff == 0 && spans(row[0]).hold(src, dst) {
			return rule
		}
	}
	return best
}

func (c *Classifier) addRow(rule int32, m *flow.Match) {
	c.rule = append(c.rule, rule)
	c.rows = append(c.rows, uint64(newSpans(m)))
	for _, w := range c.words {
		c.rows = append(c.rows, m.Value[w], m.Mask[w])
	}
}

// spans is the port ranges of a rule: lowest and width of each, 16 bits apiece.
type spans uint64

func newSpans(m *flow.Match) spans {
	pack := func(r flow.PortRange) uint64 {
		if r.Any() {
			return 0xffff << 16
		}
		return uint64(r.Lo) | uint64(r.Hi-r.Lo)<<16
	}
	return spans(pack(m.SrcPort) | pack(m.DstPort)<<32)
}

func (s spans) hold(src, dst uint16) bool {
	return src-uint16(s) <= uint16(s>>16) && dst-uint16(s>>32) <= uint16(s>>48)
}
