package fallback

import (
	"context"
	"time"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// The datapath in front of itself.
//
// With a [flowcache.Cache] the kernel answers the frames of flows that a worker has
// judged before. A worker installs what it has found out after its batch has left, with
// the epoch of the program it judged by.
//
// One instant of change. Swap first makes the cache forget, then stores the new program.
// Between the two no frame is answered by the cache, and all by the old program; after,
// all by the new one. What an old batch installs late carries the old epoch and is never
// answered. When Swap returns, a grace period has passed as well, and no frame that was
// answered before is still on its way.
//
// The first table is the other way round. Until it is there the cache answers by the table
// of the owner before, if it was adopted, and sends nobody up; so the program is stored
// first, and then the cache begins with it. If the table is the one that the owner before
// had, the cache goes on with all that it knows, as it does when a table comes again
// under another number.
//
// What is cached is what the cache can do: dropped frames, frames that leave by one port
// with at most one change to their tag, frames for the kernel. Copies, other changes and
// meters stay here, and so does every odd frame.

// generation is a program and the epoch of the cache that began with it.
type generation struct {
	*program
	epoch uint64 // valid iff the datapath has a cache
}

// replace makes g the current generation, in one instant, and returns the one before.
func (d *Datapath) replace(g *generation) (before *generation, err error) {
	before = d.program.Load()
	if d.cache == nil {
		d.program.Store(g)
		return before, nil
	}
	if g.epoch, err = d.cache.Prepare(View(g.table), d.digest(g.table)); err != nil {
		return before, err
	}
	if before == nil {
		d.program.Store(g)
		d.cache.Begin(g.epoch)
	} else {
		d.cache.Begin(g.epoch)
		d.program.Store(g)
	}
	return before, nil
}

// tidyEvery is how often the cache's evicted places are freed.
const tidyEvery = 20 * time.Millisecond

// tidy keeps places free until ctx is done.
func (d *Datapath) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.cache.Tidy(); err != nil {
				return err
			}
		}
	}
}

// Busiest returns the flows that the cache has answered since it was asked last, the
// busiest first, at most n; none without a cache. See [flowcache.Cache.Busiest].
func (d *Datapath) Busiest(n int) []flowcache.Busy {
	if d.cache == nil {
		return nil
	}
	return d.cache.Busiest(n)
}

// Forget frees what the cache has for rules that are in no table any more, if there are many.
// kept is what the caller has kept, where it outlives this process, of what
// [Datapath.Cached] said: see [flowcache.Cache.Forget].
func (d *Datapath) Forget(kept map[flow.RuleID]flow.Counter) (forgotten []flow.RuleID) {
	d.swapping.Lock() // while one table follows another, both count
	defer d.swapping.Unlock()
	t := d.Table()
	if d.cache == nil || t == nil {
		return nil
	}
	return d.cache.Forget(kept, func(id flow.RuleID) bool { _, found := t.Index(id); return found })
}

// View returns the bits of a key that decide what t does with a packet: those that a rule
// looks at, those that its switch looks at, the tags that actions change, and the port.
// Packets that agree in them are one flow to t.
func View(t *flow.Table) flow.Key {
	view := seen(t)
	all := func(f flow.Field) { view.Set(f, f.Max()) }
	all(flow.InPort)
	all(flow.VLAN)
	all(flow.CVLAN)
	for i := range t.Len() + 1 {
		if t.Rule(i).Actions.Terminal().Op == flow.Normal {
			all(flow.DstMAC)
			break
		}
	}
	return view
}

// seen returns the bits of a key that rules of t look at: all that agree in them meet the
// same rule.
func seen(t *flow.Table) (seen flow.Key) {
	for i := range t.Len() {
		m := &t.Rule(i).Match
		for w, mask := range m.Mask {
			seen[w] |= mask
		}
		if !m.SrcPort.Any() {
			seen.Set(flow.SrcPort, flow.SrcPort.Max())
		}
		if !m.DstPort.Any() {
			seen.Set(flow.DstPort, flow.DstPort.Max())
		}
	}
	return seen
}

// learn installs what the batch has found out.
func (w *worker) learn(g *generation) {
	w.flows = w.flows[:0]
	for i, rule := range w.batch.Rules[:len(w.batch.Keys)] {
		k := &w.batch.Keys[i]
		if v, ok := w.verdict(g.program, rule, k); ok {
			w.flows = append(w.flows, flowcache.Flow{Key: k, Verdict: v, Rule: g.table.Rule(int(rule)).ID})
		}
	}
	w.d.cache.Install(g.epoch, w.flows)
}

// verdict returns what the rule at a place does with all frames of this key, as far as
// the cache can do that.
func (w *worker) verdict(p *program, rule int32, k *flow.Key) (v flowcache.Verdict, ok bool) {
	if k.Get(flow.Flags)&flow.FlagOdd != 0 {
		return v, false // the cache parses no odd frames
	}
	outer, inner := uint16(k.Get(flow.VLAN)), uint16(k.Get(flow.CVLAN))
	sent := false
	for _, s := range p.code[p.entry[rule]:] {
		switch s.op {
		case drop:
			if !sent {
				v = flowcache.Verdict{Op: flowcache.Drop}
			}
			return v, true
		case done:
			return v, sent
		case send:
			if sent || !w.d.has(s.port) {
				return v, false
			}
			v.Op, v.Port, sent = flowcache.Forward, s.port, true
		case normal:
			if sent {
				return v, false
			}
			vlan := outer & flow.TagID // 0 without a tag
			w.ports = p.table.Switch().Deliver(w.ports[:0], vlan, k.Get(flow.DstMAC), w.port)
			switch {
			case len(w.ports) == 0:
				return flowcache.Verdict{Op: flowcache.Drop}, true
			case len(w.ports) == 1 && w.d.has(w.ports[0]):
				v.Op, v.Port = flowcache.Forward, w.ports[0]
				return v, true
			}
			return v, false
		case pass:
			return flowcache.Verdict{Op: flowcache.Pass}, !sent && v.Edit == flowcache.Keep && w.d.kernel != nil
		case push:
			if sent {
				return v, false
			}
			if inner != 0 || v.Edit != flowcache.Keep {
				return v, false
			}
			v.Edit, v.Tag, v.Proto = flowcache.Push, s.tag, s.proto
			outer, inner = s.tag|flow.TagPresent, outer
		case pop:
			if outer == 0 {
				continue
			}
			if sent || v.Edit != flowcache.Keep {
				return v, false
			}
			v.Edit = flowcache.Pop
			outer, inner = inner, 0
		case set:
			if outer == 0 {
				continue
			}
			if sent || v.Edit != flowcache.Keep {
				return v, false
			}
			v.Edit, v.Tag = flowcache.SetID, s.tag
			outer = outer&^flow.TagID | s.tag
		default:
			return v, false
		}
	}
	return v, false
}

// has reports whether a port has a link.
func (d *Datapath) has(port flow.Port) bool {
	return int(port) < len(d.links) && len(d.links[port]) > 0
}

// CacheStats is what a datapath's flow cache has done.
type CacheStats struct {
	flowcache.Stats
	Ports map[flow.Port]CachePort
}

// CachePort is what the flow cache says of one port.
type CachePort struct {
	Mode flowcache.Mode
	flowcache.PortStats
}

// cacheStats asks the cache.
func (d *Datapath) cacheStats() *CacheStats {
	if d.cache == nil {
		return nil
	}
	s := &CacheStats{Stats: d.cache.Stats(), Ports: map[flow.Port]CachePort{}}
	for _, w := range d.workers {
		if mode, stats, ok := d.cache.Port(w.port); ok {
			s.Ports[w.port] = CachePort{mode, stats}
		}
	}
	return s
}
