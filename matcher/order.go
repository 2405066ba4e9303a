package matcher

import (
	"math"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// Places of rules that come and go.
//
// Problem. Buckets compare places, so every rule has a number that is lower than those
// of all rules behind it in [flow.Rule.Before]. A rule that is inserted needs one
// between its neighbours', and some day there is none left.
//
// Idea. The first rules leave equal room between each other: 20,000 places for each of
// 100,000 rules. An inserted rule halves the room it finds, or, as rules often come in
// their order, takes only a small part of it if it is right behind, or before, the one
// that came last, and that one was too. Where there is no room, the smallest neighbourhood is spread anew in which rules
// get an eighth of the room that all rules have on average (order.spread): rules
// that come in their order move 1.6 others each. Moved rules keep their order
// after every single move, so that a search that sees some of them moved still is right.
//
// Rules are kept in runs of some dozens, found by binary search. What a search costs is
// the cache lines it touches, so the ranks by which runs are found are together, and a run has of each rank only
// how far its upper half is above that of the lowest: 12 bytes a rule. Where these do not tell, because
// they are equal or too far, the rules do. A run of rules that were there from the beginning is only
// made when somebody looks into it: the first update of a large table costs no more than the others.

const (
	runRules = 64
	// runMore is what a run has room for when it is made, or is full, beside what it has.
	runMore = 8
	// far is how far above the lowest of a run a rank is that is too far to tell how far.
	far = math.MaxUint32
	// below is how far below the lowest the next lowest of a run may be.
	below = 1 << 16
	// alongShare is the part of the room that a rule takes beside the one before it.
	alongShare = 32
)

// order is the rules of an engine in their order, with their places.
type order struct {
	base   *flow.Table
	rule   func(n int32) *flow.Rule
	firsts []rank // by run: no rule before it is in the run
	runs   []run
	n      int   // number of rules
	last   int32 // place that was given last
	along  int   // 1 if it was right behind the one given before, -1 if right before
}

// run is neighbours in the order: those from its first rank up to that of the next run.
type run struct {
	rules    []ordered
	least    uint64 // no upper half of a rank is lower
	from, to int32  // the rules of base that it still has to be made of, if any
}

// ordered is a rule in an order.
type ordered struct {
	above       uint32 // upper half of its rank, above the run's least; at most far
	rule, place int32
}

// rank orders rules like [flow.Rule.Before].
type rank struct {
	upper uint64
	id    flow.RuleID
}

func rankOf(r *flow.Rule) rank {
	return rank{uint64(r.Tier)<<32 | uint64(flow.MaxPriority-r.Priority), r.ID}
}

func (a rank) before(b rank) bool { return a.upper < b.upper || a.upper == b.upper && a.id < b.id }

// newOrder returns the order of the rules of a table.
func newOrder(base *flow.Table, rule func(n int32) *flow.Rule) *order {
	n := base.Len()/runRules + 1
	o := &order{base: base, rule: rule, n: base.Len(), firsts: make([]rank, 0, n), runs: make([]run, 0, n), last: -1}
	for from := 0; from < max(1, base.Len()); from += runRules {
		first := rank{}
		if from > 0 {
			first = rankOf(base.Rule(from))
		}
		o.firsts = append(o.firsts, first)
		o.runs = append(o.runs, run{from: int32(from), to: int32(min(from+runRules, base.Len()))})
	}
	return o
}

// spot is a place between the rules of an order: before rule at of a run.
type spot struct{ run, at int }

// open returns the rules of a run.
func (o *order) open(i int) []ordered {
	r := &o.runs[i]
	if r.from < r.to {
		r.rules = make([]ordered, 0, int(r.to-r.from)+runMore)
		r.least = rankOf(o.base.Rule(int(r.from))).upper
		for at := int(r.from); at < int(r.to); at++ {
			r.rules = append(r.rules, ordered{r.above(rankOf(o.base.Rule(at)).upper), int32(at), firstPlace(at, o.base.Len())})
		}
		r.from = r.to
	}
	return r.rules
}

// above returns how far the upper half of a rank is above the least of r.
func (r *run) above(upper uint64) uint32 { return uint32(min(upper-r.least, far)) }

// isBefore reports whether a rule of r is before k.
func (o *order) isBefore(r *run, rule ordered, k rank) bool {
	if upper := r.least + uint64(rule.above); rule.above < far && upper != k.upper {
		return upper < k.upper
	}
	return rankOf(o.rule(rule.rule)).before(k)
}

// find returns the spot where a rule of this rank is or would be.
func (o *order) find(k rank) spot {
	low, high := 1, len(o.firsts) // the first run behind k is one of these
	for low < high {
		if mid := (low + high) / 2; k.before(o.firsts[mid]) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	i := low - 1
	rules := o.open(i)
	low, high = 0, len(rules)
	for low < high {
		if mid := (low + high) / 2; o.isBefore(&o.runs[i], rules[mid], k) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return spot{i, low}
}

// before returns the rule before a spot and its own spot; ok is false at the beginning.
func (o *order) before(s spot) (r *ordered, at spot, ok bool) {
	for s.at == 0 {
		if s.run == 0 {
			return nil, s, false
		}
		s.run--
		s.at = len(o.open(s.run))
	}
	s.at--
	return &o.runs[s.run].rules[s.at], s, true
}

// behind returns the rule at a spot, which may be in the next run, and the spot behind
// it; ok is false at the end.
func (o *order) behind(s spot) (r *ordered, next spot, ok bool) {
	for s.at == len(o.open(s.run)) {
		if s.run == len(o.runs)-1 {
			return nil, s, false
		}
		s = spot{s.run + 1, 0}
	}
	return &o.runs[s.run].rules[s.at], spot{s.run, s.at + 1}, true
}

// room returns the places of the rules before and behind a spot; those between them are
// free.
func (o *order) room(s spot) (low, high int32) {
	low, high = 0, kernel.None
	if r, _, ok := o.before(s); ok {
		low = r.place
	}
	if r, _, ok := o.behind(s); ok {
		high = r.place
	}
	return low, high
}

// choose returns a place between low and high, which are not neighbours.
func (o *order) choose(low, high int32) int32 {
	was := o.along
	switch o.last {
	case low:
		o.along = 1
	case high:
		o.along = -1
	default:
		o.along = 0
	}
	step := (high - low) / 2
	if o.along != 0 && o.along == was {
		step = max(1, (high-low)/alongShare)
	}
	if o.along < 0 {
		return high - step
	}
	return low + step
}

// put adds a rule at a spot, which is that of its rank.
func (o *order) put(s spot, upper uint64, rule, place int32) {
	to := &o.runs[s.run]
	to.lower(upper)
	if len(to.rules) == cap(to.rules) {
		to.rules = append(make([]ordered, 0, len(to.rules)+runMore), to.rules...)
	}
	to.rules = slices.Insert(to.rules, s.at, ordered{to.above(upper), rule, place})
	o.last = place
	o.n++
	if n := len(to.rules); n == 2*runRules {
		behind := run{rules: append(make([]ordered, 0, runRules+runMore), to.rules[n/2:]...), least: to.least}
		to.rules = append(make([]ordered, 0, runRules+runMore), to.rules[:n/2]...)
		o.firsts = slices.Insert(o.firsts, s.run+1, rankOf(o.rule(behind.rules[0].rule)))
		o.runs = slices.Insert(o.runs, s.run+1, behind)
	}
}

// lower makes the least of r no more than the upper half of a rank.
func (r *run) lower(upper uint64) {
	if len(r.rules) == 0 {
		r.least = upper
	}
	if upper >= r.least {
		return
	}
	least := upper - min(upper, below)
	for i := range r.rules {
		r.rules[i].above = uint32(min(uint64(r.rules[i].above)+r.least-least, far))
	}
	r.least = least
}

// remove takes out the rule at a spot.
func (o *order) remove(s spot) {
	from := &o.runs[s.run]
	from.rules = slices.Delete(from.rules, s.at, s.at+1)
	o.n--
}

// move is a new place for a rule.
type move struct {
	rule  *ordered
	place int32
}

// spread returns moves that make room at a spot, to be made in this order.
func (o *order) spread(s spot) []move {
	plenty := kernel.None / (o.n + 1) / 8
	for n := 4; ; n *= 2 {
		rules, low, high, gap := o.around(s, n)
		room := int(high-low) / (2*len(rules) + 2) // half of it for what will come at the spot
		if whole := low == 0 && high == kernel.None; room < plenty && !whole {
			continue
		}
		if room < 2 {
			panic("matcher: a thousand million rules")
		}
		var up, down []move
		for i, r := range rules {
			if i >= gap {
				i += len(rules)
			}
			switch place := low + int32((i+1)*room); {
			case place > r.place:
				up = append(up, move{r, place})
			case place < r.place:
				down = append(down, move{r, place})
			}
		}
		slices.Reverse(up) // nobody moves to where another one still is
		return append(up, down...)
	}
}

// around returns about n rules around a spot, half of them before it, the places next
// to them, and how many are before the spot.
func (o *order) around(s spot, n int) (rules []*ordered, low, high int32, gap int) {
	high = kernel.None
	at := s
	for len(rules) < n/2 {
		r, before, ok := o.before(at)
		if !ok {
			break
		}
		rules, at = append(rules, r), before
	}
	if r, _, ok := o.before(at); ok {
		low = r.place
	}
	slices.Reverse(rules)
	gap = len(rules)
	for at = s; len(rules) < n; {
		r, next, ok := o.behind(at)
		if !ok {
			return rules, low, high, gap
		}
		rules, at = append(rules, r), next
	}
	if r, _, ok := o.behind(at); ok {
		high = r.place
	}
	return rules, low, high, gap
}

// bytes returns the memory of o.
func (o *order) bytes() int {
	n := 16*cap(o.firsts) + 40*cap(o.runs)
	for _, r := range o.runs {
		n += 12 * cap(r.rules)
	}
	return n
}
