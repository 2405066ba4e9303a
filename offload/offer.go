package offload

import "cmp"

// offer is a bid, or a piece of it, at the packets it brings for each entry.
type offer struct {
	ratio float64
	at    int32  // the rule's place
	k     int32  // of which units to look at the bids; valid iff b is nil
	b     *bid   // nil if they were not looked at yet
	p     *piece // nil for the whole bid
	more  bool   // of b: a piece that is not made yet, at what it brings at the most
}

// better orders offers, the best first.
func (o *offer) better(than *offer) bool {
	if o.ratio != than.ratio {
		return o.ratio > than.ratio
	}
	if o.at != than.at {
		return o.at < than.at
	}
	return cmp.Or(cmp.Compare(o.nr(), than.nr()), cmp.Compare(o.kind(), than.kind())) < 0
}

func (o *offer) nr() int {
	if o.b == nil {
		return int(o.k) << 16
	}
	return o.b.u.nr
}

func (o *offer) kind() int {
	switch {
	case o.b == nil:
		return 0
	case o.more:
		return 3
	case o.p == nil:
		return 1
	}
	return 2
}

// offers is a heap, the best on top. That of package container/heap allocates for each
// offer that comes or goes.
type offers []offer

// order makes a heap of what is there.
func (o offers) order() {
	for i := len(o)/2 - 1; i >= 0; i-- {
		o.sink(i)
	}
}

// sink brings the i-th below what is better.
func (o offers) sink(i int) {
	for {
		best := i
		for _, kid := range [2]int{2*i + 1, 2*i + 2} {
			if kid < len(o) && o[kid].better(&o[best]) {
				best = kid
			}
		}
		if best == i {
			return
		}
		o[i], o[best] = o[best], o[i]
		i = best
	}
}

func (o *offers) push(x offer) {
	*o = append(*o, x)
	heap := *o
	for i := len(heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !heap[i].better(&heap[up]) {
			return
		}
		heap[i], heap[up] = heap[up], heap[i]
		i = up
	}
}

// pop takes off the best.
func (o *offers) pop() offer {
	heap := *o
	best, last := heap[0], len(heap)-1
	heap[0] = heap[last]
	*o = heap[:last]
	o.sink(0)
	return best
}
