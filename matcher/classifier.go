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
	engine  *engine
	small   *vectors // the same table once more, or nil
	compact bool     // never have small
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
	c.engine = newEngine(t, c.lane, c.small != nil)
	return c
}

// Table returns what c was compiled from.
func (c *Classifier) Table() *flow.Table { return c.table }

// Lane returns the lane c uses.
func (c *Classifier) Lane() Lane { return c.lane }

// Bytes returns the memory that c holds beside the table it was compiled from.
func (c *Classifier) Bytes() int {
	n := 0
	if c.engine != nil {
		n += c.engine.bytes()
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

// Lookup answers every key of b into b.Rules, which must be at least as long as
// b.Keys. It allocates nothing and writes nothing but b.Rules. Batches of 64 and more
// are fastest.
func (c *Classifier) Lookup(b *Batch) {
	answers := b.Rules[:len(b.Keys)]
	if c.lane == Definition {
		for i := range b.Keys {
			answers[i] = int32(c.table.Lookup(&b.Keys[i]))
		}
		return
	}
	for at := 0; at < len(answers); at += kernel.Lanes {
		end := min(at+kernel.Lanes, len(answers))
		if keys, answers := b.Keys[at:end], answers[at:end]; c.small != nil && len(keys) >= smallBatch {
			c.lookupSmall(keys, answers)
		} else {
			c.engine.lookup(keys, answers)
		}
	}
}

func (c *Classifier) lookupSmall(keys []flow.Key, answers []int32) {
	if len(answers) == kernel.Lanes { // the usual batch needs no copy
		c.small.lookup(keys, (*[kernel.Lanes]int32)(answers))
		return
	}
	var best [kernel.Lanes]int32
	c.small.lookup(keys, &best)
	copy(answers, best[:])
}

// LookupOne returns the place of the rule that wins for k, or Table.Len() for the
// default.
func (c *Classifier) LookupOne(k *flow.Key) int {
	if c.lane == Definition {
		return c.table.Lookup(k)
	}
	return int(c.engine.search(c.engine.set.Load(), k))
}
