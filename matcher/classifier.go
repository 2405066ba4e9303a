package matcher

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Classifier answers which rule of a table wins for a key. Any number of goroutines
// may look keys up while others change rules with [Classifier.Insert] and
// [Classifier.Delete]; lookups take no locks and wait for nobody.
//
// A change of one rule is atomic: a lookup that begins after Insert or Delete has
// returned sees it, and one that runs meanwhile answers each key as it is before or
// after, never by half a change. Changes that must be seen together, such as a new
// generation of a table, are a new Classifier, put in place by storing it in an
// atomic pointer.
type Classifier struct {
	lane    Lane
	compact bool // no accelerator

	// version goes up by one at the beginning of each step of an update and by one at
	// its end.
	version atomic.Uint64
	engine  atomic.Pointer[engine] // always current; nil in the lane definition
	fast    atomic.Pointer[fast]   // right as long as the version is its own
	table   atomic.Pointer[dated]  // the last one asked for

	mu      sync.Mutex    // held while changing
	tending bool          // guarded by mu
	changed uint64        // number of updates, guarded by mu
	rest    time.Duration // see tend; only the goroutine that tends uses it
}

// fast is an accelerator, and what it was built from.
type fast struct {
	accelerator
	dated
}

// dated is the table of a version.
type dated struct {
	table   *flow.Table
	version uint64
}

// Compile makes a classifier of t. Cost: 1 to 5 ms for 1,000 rules, 20 to 60 for
// 10,000, 50 to 100 for 100,000.
func Compile(t *flow.Table, opts ...Option) *Classifier {
	c := &Classifier{lane: Lanes()[0]}
	for _, o := range opts {
		o(c)
	}
	c.table.Store(&dated{t, 0})
	if c.lane == Definition {
		return c
	}
	if !c.compact {
		if a := newAccelerator(t, c.lane, secondLevelCache()); a != nil {
			c.fast.Store(&fast{a, dated{t, 0}})
		}
	}
	var e *engine
	if c.fast.Load() != nil { // then the engine is hardly asked
		e = newEngineWith(usualLimit, t, c.lane)
	} else {
		e = newEngine(t, c.lane)
	}
	e.steps = &c.version
	c.engine.Store(e)
	return c
}

// Lane returns the lane c uses.
func (c *Classifier) Lane() Lane { return c.lane }

// Bytes returns the memory that c holds beside its rules.
func (c *Classifier) Bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	if e := c.engine.Load(); e != nil {
		n += e.bytes()
	}
	if f := c.fast.Load(); f != nil {
		n += f.bytes()
	}
	return n
}

// Batch is a number of keys and the answers to them. It belongs to one goroutine.
type Batch struct {
	Keys []flow.Key
	// Rules is, for each key, the number of its rule. In a classifier whose rules never
	// changed that is the rule's place in the table, or Table.Len() for the default;
	// after changes, [Batch.Rule] knows what a number means.
	Rules []int32

	table  *flow.Table // that Rules are places in
	engine *engine     // or, if it is not nil, that has given the numbers
	stride int         // keys to look up at once; 0 is as many as can be
}

// Rule returns the rule that was the answer to key i; the default has ID
// [flow.DefaultRule]. It is right until the next lookup with b, whatever happens to the
// rule, and must not be changed.
func (b *Batch) Rule(i int) *flow.Rule {
	if b.engine != nil {
		return b.engine.rule(b.Rules[i])
	}
	return b.table.Rule(int(b.Rules[i]))
}

// Lookup answers every key of b into b.Rules, which must be at least as long as
// b.Keys. It allocates nothing. Batches of 64 and more are fastest.
func (c *Classifier) Lookup(b *Batch) {
	answers := b.Rules[:len(b.Keys)]
	if c.lane == Definition {
		b.table, b.engine = c.Table(), nil
		for i := range b.Keys {
			answers[i] = int32(b.table.Lookup(&b.Keys[i]))
		}
		return
	}
	if f := c.current(); f != nil && len(answers) >= smallBatch {
		b.table, b.engine = f.table, nil
		f.lookupAll(b.Keys, answers)
		return
	}
	for {
		e := c.engine.Load()
		if b.table, b.engine = nil, e; c.lookupAll(e, b, answers) {
			return
		}
	}
}

// current returns the accelerator if it is not behind.
func (c *Classifier) current() *fast {
	if f := c.fast.Load(); f != nil && f.version == c.version.Load() {
		return f
	}
	return nil
}

func (f *fast) lookupAll(keys []flow.Key, answers []int32) {
	for at := 0; at < len(answers); at += kernel.Lanes {
		end := min(at+kernel.Lanes, len(answers))
		f.lookup(keys[at:end], answers[at:end])
	}
}

// lookupAll has e answer the keys of b, a stride at once, and those again, in smaller strides,
// during which more than one step was made. It returns false if there is another engine now.
func (c *Classifier) lookupAll(e *engine, b *Batch, answers []int32) bool {
	keys, tried := b.Keys, 0
	start := c.version.Load()
	if b.stride == 0 {
		b.stride = kernel.Lanes
	}
	for most := b.stride; len(keys) > 0; {
		n := min(most, len(keys))
		before := c.version.Load()
		if c.engine.Load() != e {
			return false
		}
		reader := e.epochs.Enter(&answers[0])
		e.lookup(keys[:n], answers[:n])
		reader.Leave()
		tried += n
		if steps(before, c.version.Load()) > 1 {
			most = max(1, n/2)
			continue
		}
		keys, answers = keys[n:], answers[n:]
		most = min(2*most, b.stride)
	}
	b.stride = nextStride(b.stride, tried, steps(start, c.version.Load()))
	return true
}

// nextStride returns how many keys should be answered at once by who answered so many at
// once before, and saw so many steps while it tried that many keys: half of those between two steps. A
// stride grows slowly, for steps come in bursts, and a stride too long costs as much
// as one that is four times too short: 100,000 updates a second left 0.58 of the
// speed of 100,000 rules of the family fw as long as all batches began with strides of
// kernel.Lanes keys, of which every third was looked up in vain, and leave 0.9 now.
func nextStride(stride, tried int, steps uint64) int {
	next := min(stride+stride/4+1, kernel.Lanes)
	if steps == 0 {
		return next
	}
	return min(next, max(leastStride, tried/int(2*steps)))
}

// leastStride is the number of keys below which a key costs notably more.
const leastStride = 32

// steps returns the number of steps that may have been made between two versions, those
// that had begun before or not ended after counting too.
func steps(before, after uint64) uint64 { return (after+1)/2 - before/2 }

// LookupOne returns the rule that wins for k; the default has ID [flow.DefaultRule].
func (c *Classifier) LookupOne(k *flow.Key) *flow.Rule {
	if c.lane == Definition {
		t := c.Table()
		return t.Rule(t.Lookup(k))
	}
	var own int32
	for {
		before := c.version.Load()
		e := c.engine.Load()
		reader := e.epochs.Enter(&own)
		n := e.search(e.set.Load(), k)
		reader.Leave()
		if steps(before, c.version.Load()) <= 1 {
			return e.rule(n)
		}
	}
}
