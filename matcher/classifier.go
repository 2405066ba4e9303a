package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Classifier answers which rule of one table wins for a key. It is immutable, so
// any number of goroutines may use it at once, and a new table is put in place by
// storing a new Classifier in an atomic pointer.
type Classifier struct {
	lane    Lane
	table   *flow.Table
	tables  []subtable // by best rule
	words   []uint8    // words of a key that tables hash or guard
	offsets []uint32   // their offsets in a key, in bytes
	small   *vectors   // the same table once more, or nil
	compact bool       // never have small
}

// subtable is a hash table of rules under one mask.
type subtable struct {
	kernel.Table
	mask  flow.Key // what it hashes
	guard flow.Key // what it compares before
}

// Compile makes a classifier of t. Cost: 1 to 5 ms for 1,000 rules, 20 to 60 for
// 10,000, 50 to 100 for 100,000.
func Compile(t *flow.Table, opts ...Option) *Classifier {
	c := &Classifier{lane: Lanes()[0], table: t}
	for _, o := range opts {
		o(c)
	}
	if c.lane == Definition {
		return c
	}
	if hasVectors(c.lane) && !c.compact {
		c.small = newVectors(t)
	}
	c.build()
	return c
}

// Table returns what c was compiled from.
func (c *Classifier) Table() *flow.Table { return c.table }

// Lane returns the lane c uses.
func (c *Classifier) Lane() Lane { return c.lane }

// Bytes returns the memory that c holds beside the table it was compiled from.
func (c *Classifier) Bytes() int {
	n := 0
	for i := range c.tables {
		n += 4 * (len(c.tables[i].Heads) + cap(c.tables[i].Arena))
	}
	if c.small != nil {
		n += c.small.bytes()
	}
	return n
}

// Batch is a number of keys and the answers to them.
type Batch struct {
	Keys  []flow.Key
	Rules []int32 // for each key the place of its rule in the table, or Table.Len() for the default
}

// smallBatch is the number of keys below which they are looked up one by one.
const smallBatch = 4

// Lookup answers every key of b into b.Rules, which must be at least as long as
// b.Keys. It allocates nothing and writes nothing but b.Rules. Batches of 64 and more
// are fastest.
func (c *Classifier) Lookup(b *Batch) {
	answers := b.Rules[:len(b.Keys)]
	switch {
	case c.lane == Definition:
		for i := range b.Keys {
			answers[i] = int32(c.table.Lookup(&b.Keys[i]))
		}
	case c.lane == PureGo || len(b.Keys) < smallBatch || len(c.tables) == 0:
		for i := range b.Keys {
			answers[i] = c.search(&b.Keys[i])
		}
	default:
		for at := 0; at < len(answers); at += kernel.Lanes {
			end := min(at+kernel.Lanes, len(answers))
			switch keys, answers := b.Keys[at:end], answers[at:end]; {
			case c.small != nil:
				c.lookupSmall(keys, answers)
			case len(c.words) <= fewColumns:
				c.lookupFew(keys, answers)
			default:
				c.lookupMany(keys, answers)
			}
		}
	}
}

// fewColumns is as many as IPv4 rules need. Go clears arrays before use, so it pays
// to have no more than needed.
const fewColumns = 5

func (c *Classifier) lookupSmall(keys []flow.Key, answers []int32) {
	if len(answers) == kernel.Lanes { // the usual batch needs no copy
		c.small.lookup(keys, (*[kernel.Lanes]int32)(answers))
		return
	}
	var best [kernel.Lanes]int32
	c.small.lookup(keys, &best)
	copy(answers, best[:])
}

func (c *Classifier) lookupFew(keys []flow.Key, answers []int32) {
	var columns [fewColumns]kernel.Column
	c.lookupBatch(keys, answers, columns[:])
}

func (c *Classifier) lookupMany(keys []flow.Key, answers []int32) {
	var columns [kernel.Words]kernel.Column
	c.lookupBatch(keys, answers, columns[:])
}

// lookupBatch answers at most kernel.Lanes keys, table by table.
func (c *Classifier) lookupBatch(keys []flow.Key, answers []int32, columns []kernel.Column) {
	var best [kernel.Lanes]int32
	var found kernel.Found
	c.spread(keys, columns, &best)
	for i := range c.tables {
		t := &c.tables[i].Table
		n := c.probe(t, columns, &best, len(keys), &found)
		if n < 0 {
			break
		}
		c.scan(t, keys, &best, &found, n)
	}
	copy(answers, best[:])
}

// LookupOne returns the place of the rule that wins for k, or Table.Len() for the
// default.
func (c *Classifier) LookupOne(k *flow.Key) int {
	if c.lane == Definition {
		return c.table.Lookup(k)
	}
	return int(c.search(k))
}

// search answers one key in plain Go.
func (c *Classifier) search(k *flow.Key) int32 {
	best := int32(c.table.Len())
	for i := range c.tables {
		t := &c.tables[i]
		if t.Best >= best {
			break
		}
		if head := t.Find(k); head != 0 {
			best = t.Search(head, k, best)
		}
	}
	return best
}
