package matcher

import (
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Explain returns the rule that wins for k, as [Classifier.LookupOne] does, and
// the bits of k that decided it: every key that equals k under mask has the same
// winner. (OVS calls the pair a megaflow.) Masks are rounded to whole
// fields and, in addresses, to whole bytes of a prefix, so that they are few; not every bit need be
// necessary.
//
// Idea: collect whatever the search looked at. A table that was asked contributes
// its mask, whether or not it had a bucket. A better rule in a bucket that does not
// match contributes one bit or port prefix that shows it, for free if mask shows it
// already. The winner contributes its own mask, and for a port range the shortest
// prefix of the key's port that lies inside. Another key with the same bits takes
// the same way through the tables to the same rule.
//
// Cost: about two lookups.
func (c *Classifier) Explain(k flow.Key) (rule *flow.Rule, mask flow.Key) {
	x := explanation{key: &k}
	if c.lane == Definition {
		t := c.Table()
		i := t.Lookup(&k)
		x.accept(&t.Rule(i).Match)
		for j := range i {
			x.refute(&t.Rule(j).Match)
		}
		return t.Rule(i), rounded(x.mask)
	}
	for {
		before := c.version.Load()
		x.mask = flow.Key{}
		rule = c.engine.Load().explain(&x)
		if steps(before, c.version.Load()) <= 1 {
			return rule, rounded(x.mask)
		}
	}
}

// explain grows the mask of x and returns the winner for its key.
func (e *engine) explain(x *explanation) *flow.Rule {
	var own int32
	reader := e.epochs.Enter(&own)
	defer reader.Leave()
	place, best := int32(kernel.None), int32(e.base.Len())
	for _, t := range e.set.Load().tables {
		if atomic.LoadInt32(&t.Best) >= place {
			break
		}
		for w := range x.mask {
			x.mask[w] |= t.mask[w] | t.guard.Mask[w]
		}
		head := t.Find(x.key)
		if head == 0 {
			continue
		}
		t.Rules(head, func(p, r int32) bool {
			if p >= place {
				return false
			}
			m := &e.rule(r).Match
			if m.Matches(x.key) {
				place, best = p, r
				x.accept(m)
				return false
			}
			x.refute(m)
			return true
		})
	}
	return e.rule(best)
}

// rounded makes a mask of whole fields, and of addresses whole bytes from the first on:
// looking at more is always right, and few different masks arise, so that whoever keeps
// answers by mask needs few tables.
func rounded(mask flow.Key) flow.Key {
	for f := range flow.NumFields {
		if m := mask.Get(f); m != 0 && (f < flow.SrcHi || f > flow.DstLo) {
			mask.Set(f, f.Max())
		}
	}
	for _, hi := range []int{3, 5} {
		switch upper, lower := mask[hi], mask[hi+1]; {
		case lower > math.MaxUint32: // more than an IPv4 address
			mask[hi], mask[hi+1] = ^uint64(0), wholeBytes(lower)
		case upper != 0 && lower != 0:
			mask[hi], mask[hi+1] = ^uint64(0), wholeBytes(lower)
		case upper != 0:
			mask[hi] = wholeBytes(upper)
		default:
			mask[hi+1] = wholeBytes(lower) & math.MaxUint32
		}
	}
	return mask
}

// wholeBytes returns the mask of all bytes from the highest down to the lowest that m
// looks at.
func wholeBytes(m uint64) uint64 {
	if m == 0 {
		return 0
	}
	return ^uint64(0) << (bits.TrailingZeros64(m) &^ 7)
}

// explanation grows the mask under which a key stays what it is.
type explanation struct {
	key  *flow.Key
	mask flow.Key
}

// accept makes every key that equals e.key under e.mask match m, which e.key does.
func (e *explanation) accept(m *flow.Match) {
	for w := range e.mask {
		e.mask[w] |= m.Mask[w]
	}
	for _, p := range portRanges(m) {
		if p.Any() {
			continue
		}
		port := uint16(e.key.Get(p.field))
		host := uint16(0xffff) // the widest block around port inside the range
		for port&^host < p.Lo || port|host > p.Hi {
			host >>= 1
		}
		e.need(p.field, ^host)
	}
}

// refute makes no key that equals e.key under e.mask match m, which e.key does not.
func (e *explanation) refute(m *flow.Match) {
	word, bit := -1, uint64(0)
	for w := range e.mask {
		diff := (e.key[w] ^ m.Value[w]) & m.Mask[w]
		if diff&e.mask[w] != 0 {
			return
		}
		if diff != 0 && word < 0 {
			word, bit = w, 1<<(bits.Len64(diff)-1)
		}
	}
	if word >= 0 {
		e.mask[word] |= bit
		return
	}
	for _, p := range portRanges(m) {
		port := uint16(e.key.Get(p.field))
		if p.Any() || p.Lo <= port && port <= p.Hi {
			continue
		}
		host := uint16(0xffff) // the widest block around port outside the range
		for port&^host <= p.Hi && port|host >= p.Lo {
			host >>= 1
		}
		e.need(p.field, ^host)
		return
	}
}

func (e *explanation) need(f flow.Field, mask uint16) {
	e.mask.Set(f, e.mask.Get(f)|uint64(mask))
}

type portRange struct {
	field flow.Field
	flow.PortRange
}

func portRanges(m *flow.Match) [2]portRange {
	return [2]portRange{{flow.SrcPort, m.SrcPort}, {flow.DstPort, m.DstPort}}
}
