package matcher

import (
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// What happens behind updates.
//
// Problem. Every update makes the accelerator wrong, and many make the engine slow and
// large: tables made for single rules, buckets with too many of them, memory that no bucket fits
// into. Building either anew takes milliseconds.
//
// Idea. The engine is right after every update, so nothing is urgent. After an update a
// goroutine tends the classifier until nothing is left to do. It looks at the engine
// now and then and builds a new one if looking up costs more than slowerBy times what it
// did after building, if more memory is spare than used, or if it remembers a change for
// every second rule. And when there was no update for restFactor times what building the
// accelerator takes, it builds one, after a new engine if that has changes worth it;
// under a steady stream of updates it never does, and the engine answers alone.
//
// A new engine is built from the table as it was, then the changes made meanwhile are
// repeated in it, the last few while the writer waits, and it takes the place of the
// old one. That is a step like others.

const (
	slowerBy   = 1.3
	restFactor = 10
	shortRest  = time.Millisecond
	longRest   = 500 * time.Millisecond

	// maxFast is the most rules for which building an accelerator is tried.
	maxFast = 16 << 10
	// fewChanges is as many as are repeated while the writer waits: some 30 µs.
	fewChanges = 32
	// checkEvery is the least number of updates after which the engine is looked at.
	checkEvery = 1024
)

// health is what the goroutine that tends knows of an engine.
type health struct {
	usual   float64 // price of a key after building; 0 if not known
	checked uint64  // number of updates when it was looked at
}

// tend does what has to be done behind updates. It returns when there is nothing left.
func (c *Classifier) tend() {
	for {
		c.mu.Lock()
		changed, e := c.changed, c.engine.Load()
		c.mu.Unlock()
		h := &e.health
		if h.usual == 0 {
			h.usual, h.checked = e.price(e.sampleKeys(pricedKeys)), changed
		}
		if changed >= h.checked+max(checkEvery, uint64(e.base.Len())/8) {
			h.checked = changed
			if c.tired(e) {
				c.renew(e)
				continue
			}
		}
		c.rest = max(c.rest, shortRest)
		time.Sleep(c.rest)
		if log, quiet := c.quiet(e, changed); !quiet {
			continue
		} else if log > max(fewChanges, e.base.Len()/8) {
			c.renew(e)
		}
		if !c.compact {
			start := time.Now()
			c.accelerate()
			c.rest = min(restFactor*time.Since(start), longRest)
		}
		c.mu.Lock()
		done := c.changed == changed
		c.tending = !done
		c.mu.Unlock()
		if done {
			return
		}
	}
}

// quiet returns how many changes e has, and whether there were no more updates than
// that.
func (c *Classifier) quiet(e *engine, changed uint64) (log int, quiet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.changes.log.n, c.changed == changed
}

// accelerate builds an accelerator of the current table. If the table changes meanwhile,
// nobody will ask it.
func (c *Classifier) accelerate() {
	d := c.dated()
	if d.table.Len() > maxFast {
		return
	}
	if v := newAccelerator(d.table, c.lane, secondLevelCache()); v != nil {
		c.fast.Store(&fast{v, *d})
	}
}

// tired reports whether e should be replaced although there are updates.
func (c *Classifier) tired(e *engine) bool {
	c.mu.Lock()
	changes, spare, units := e.changes.log.n, 0, 0
	for _, t := range e.set.Load().tables {
		spare += t.arena.spare
		units += t.arena.units
	}
	c.mu.Unlock()
	return changes > max(checkEvery, e.base.Len()/2) || spare > max(units/2, 1<<12) || e.price(e.sampleKeys(pricedKeys)) > slowerBy*e.health.usual
}

// renew puts a new engine in the place of e.
func (c *Classifier) renew(e *engine) {
	c.mu.Lock()
	log := e.changes.log
	c.mu.Unlock()
	t := e.edited(log)
	var next *engine
	if n := e.base.Len(); t.Len() > n/2 && t.Len() < 2*n { // the limit will still be good
		next = newEngineWith(e.limit, t, c.lane)
	} else {
		next = newEngine(t, c.lane)
	}
	for round := 0; ; round++ {
		done := log.n
		c.mu.Lock()
		log = e.changes.log
		// A writer as fast as this would never be caught up with, so after some rounds it
		// has to wait.
		if log.n-done <= fewChanges || round == 10 {
			e.since(log, done, next.make)
			next.steps = &c.version
			c.version.Add(1)
			c.engine.Store(next)
			c.version.Add(1)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		e.since(log, done, next.make)
	}
}

// make makes a change.
func (e *engine) make(ch change) {
	if !ch.gone {
		e.insert(ch.rule)
	} else if n, ok := e.find(ch.rule.ID); ok {
		e.remove(n)
	}
}

// edited returns the table after changes.
func (e *engine) edited(log history) *flow.Table {
	if log.n == 0 {
		return e.base
	}
	last := make(map[flow.RuleID]*flow.Rule, log.n)
	e.since(log, 0, func(ch change) { last[ch.rule.ID] = ch.now() })
	return e.base.Edited(last)
}
