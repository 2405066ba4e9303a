package verify

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// A bdd holds sets of bit strings as reduced ordered binary decision diagrams (Bryant,
// "Graph-Based Algorithms for Boolean Function Manipulation", 1986). Every set has one
// diagram, so two sets are equal if their numbers are. Nothing is ever freed: a bdd lives
// as long as the questions about one table.
type bdd struct {
	vertices []vertex
	unique   map[vertex]diagram
	cache    []result
}

// A diagram is a set: the number of its vertex.
type diagram int32

const nothing, everything diagram = 0, 1

// A vertex says: where bit level is 0 the rest is in low, where it is 1 in high.
type vertex struct {
	level     int32
	low, high diagram
}

// A result is what and or or made of two sets; the newest one of each place is kept.
type result struct {
	a, b, is diagram
	or       bool
}

// newBDD returns the sets of strings of so many bits.
func newBDD(levels int) *bdd {
	end := vertex{level: int32(levels)}
	return &bdd{vertices: []vertex{end, end}, unique: map[vertex]diagram{}, cache: make([]result, 1<<18)}
}

// make returns the diagram that begins with a vertex.
func (b *bdd) make(n vertex) diagram {
	if n.low == n.high {
		return n.low
	}
	s, some := b.unique[n]
	if !some {
		s = diagram(len(b.vertices))
		b.vertices = append(b.vertices, n)
		b.unique[n] = s
	}
	return s
}

// variable returns the strings whose bit is 1.
func (b *bdd) variable(bit int) diagram {
	return b.make(vertex{int32(bit), nothing, everything})
}

// and returns what is in all sets.
func (b *bdd) and(all ...diagram) diagram {
	out := everything
	for _, s := range all {
		out = b.apply(false, out, s)
	}
	return out
}

// or returns what is in one of the sets.
func (b *bdd) or(all ...diagram) diagram {
	out := nothing
	for _, s := range all {
		out = b.apply(true, out, s)
	}
	return out
}

// apply intersects or unites two sets.
func (b *bdd) apply(or bool, x, y diagram) diagram {
	neutral, absorbing := everything, nothing
	if or {
		neutral, absorbing = absorbing, neutral
	}
	switch {
	case x == absorbing || y == absorbing:
		return absorbing
	case x == neutral || x == y:
		return y
	case y == neutral:
		return x
	case x > y:
		x, y = y, x
	}
	place := (uint32(x)*0x9e3779b1 ^ uint32(y)*0x85ebca6b) >> 14
	if r := b.cache[place]; r.a == x && r.b == y && r.or == or {
		return r.is
	}
	p, q := b.vertices[x], b.vertices[y]
	top := min(p.level, q.level)
	if p.level > top {
		p.low, p.high = x, x
	}
	if q.level > top {
		q.low, q.high = y, y
	}
	out := b.make(vertex{top, b.apply(or, p.low, q.low), b.apply(or, p.high, q.high)})
	b.cache[place] = result{x, y, out, or}
	return out
}

// not returns what is not in s.
func (b *bdd) not(s diagram) diagram {
	done := map[diagram]diagram{nothing: everything, everything: nothing}
	var walk func(diagram) diagram
	walk = func(s diagram) diagram {
		out, some := done[s]
		if !some {
			n := b.vertices[s]
			out = b.make(vertex{n.level, walk(n.low), walk(n.high)})
			done[s] = out
		}
		return out
	}
	return walk(s)
}

// TestBDD compares random formulas with their tables of truth.
func TestBDD(t *testing.T) {
	const levels = 6
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for range 20 {
		b := newBDD(levels)
		known := map[diagram]uint64{nothing: 0, everything: ^uint64(0)} // bit n: string n is in the set
		all := []diagram{nothing, everything}
		add := func(s diagram, truth uint64) {
			if have, some := known[s]; some && have != truth {
				t.Fatalf("diagram %d is %x, not %x", s, have, truth)
			}
			known[s] = truth
			all = append(all, s)
		}
		for bit := range levels {
			var truth uint64
			for n := range 1 << levels {
				truth |= uint64(n>>bit&1) << n
			}
			add(b.variable(bit), truth)
		}
		for range 300 {
			x, y := all[rng.IntN(len(all))], all[rng.IntN(len(all))]
			switch rng.IntN(3) {
			case 0:
				add(b.and(x, y), known[x]&known[y])
			case 1:
				add(b.or(x, y), known[x]|known[y])
			default:
				add(b.not(x), ^known[x])
			}
		}
		one := map[uint64]diagram{}
		for s, truth := range known {
			if other, some := one[truth]; some {
				t.Fatalf("diagrams %d and %d are both %x", s, other, truth)
			}
			one[truth] = s
		}
	}
}
