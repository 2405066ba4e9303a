package matcher

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/epoch"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// engine is a table as hash tables, see the essays in build.go and update.go.
type engine struct {
	lane    Lane
	base    *flow.Table // what it was built from: rule i has number i, the default the next
	limit   int         // rules in a bucket
	set     atomic.Pointer[tableSet]
	pages   atomic.Pointer[[]*page]
	epochs  epoch.Domain
	steps   *atomic.Uint64 // goes up by one at the beginning of a step and by one at the end
	changes changes        // the writer's
	health  health
}

// tableSet is the hash tables of an engine; all but their buckets is immutable.
type tableSet struct {
	tables  []*subtable // by best rule
	words   []uint8     // words of a key that tables hash or guard
	offsets []uint32    // their offsets in a key, in bytes
}

// subtable is a hash table of rules under one mask.
type subtable struct {
	kernel.Table
	mask    flow.Key   // what it hashes
	guard   flow.Match // what it compares before
	guarded flow.Key   // the 32-bit words that guard is about
	covered flow.Key   // these, and those that buckets have columns for
	keys    int        // heads in use
	arena   *arena
}

// bytes returns the memory of e beside its rules.
func (e *engine) bytes() int {
	n := epoch.Bytes
	for _, t := range e.set.Load().tables {
		n += 4*len(t.Heads) + t.arena.bytes() + 24*len(t.Arena)
	}
	c := &e.changes
	return n + c.order.bytes() + 8*pageRules*len(*e.pages.Load()) + 4*pieceChanges*len(c.log.pieces) + c.names.bytes() + 8*len(c.gone)
}

// fewColumns is as many as IPv4 rules need. Go clears arrays before use, so it pays
// to have no more than needed.
const fewColumns = 5

// lookup answers at most kernel.Lanes keys with numbers of rules.
func (e *engine) lookup(keys []flow.Key, answers []int32) {
	s := e.set.Load()
	switch {
	case e.lane == PureGo || len(keys) < smallBatch || len(s.tables) == 0:
		for i := range keys {
			answers[i] = e.search(s, &keys[i])
		}
	case len(s.words) <= fewColumns:
		e.lookupFew(s, keys, answers)
	default:
		e.lookupMany(s, keys, answers)
	}
}

// smallBatch is the number of keys below which they are looked up one by one.
const smallBatch = 4

func (e *engine) lookupFew(s *tableSet, keys []flow.Key, answers []int32) {
	var columns [fewColumns]kernel.Column
	e.lookupBatch(s, keys, answers, columns[:])
}

func (e *engine) lookupMany(s *tableSet, keys []flow.Key, answers []int32) {
	var columns [kernel.Words]kernel.Column
	e.lookupBatch(s, keys, answers, columns[:])
}

// lookupBatch goes table by table.
func (e *engine) lookupBatch(s *tableSet, keys []flow.Key, answers []int32, columns []kernel.Column) {
	var best kernel.Best
	var found kernel.Found
	e.spread(s, keys, columns, &best)
	for _, t := range s.tables {
		n := e.probe(&t.Table, columns, &best, len(keys), &found)
		if n < 0 {
			break
		}
		e.scan(&t.Table, keys, &best, &found, n)
	}
	copy(answers, best.Rule[:])
}

// search answers one key in plain Go.
func (e *engine) search(s *tableSet, k *flow.Key) int32 {
	place, rule := int32(kernel.None), int32(e.base.Len())
	for _, t := range s.tables {
		if atomic.LoadInt32(&t.Best) >= place {
			break
		}
		if head := t.Find(k); head != 0 {
			place, rule = t.Search(head, k, place, rule)
		}
	}
	return rule
}

// newTableSet returns a set of tables, which it sorts; words are those that they number.
func newTableSet(tables []*subtable, words []uint8) *tableSet {
	slices.SortStableFunc(tables, func(a, b *subtable) int { return cmp.Compare(a.Best, b.Best) })
	s := &tableSet{tables: tables, words: words}
	for _, w := range words {
		s.offsets = append(s.offsets, 4*uint32(w))
	}
	return s
}
