package matcher

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// finals is a small table as the answers to all combinations of the classes of its
// groups: "recursive flow classification". Two groups are combined into the classes of
// pairs, these with the next group, and what the last combination gives is the rule. That
// is less work than intersecting rows, where the pairs have few classes.
type finals struct {
	kernel.Finals
	lane    Lane
	classes kernel.Classes
}

// Limits of finals: of pairs to intersect, which takes time, and of answers, which take
// memory.
const (
	maxPairs   = 1 << 16
	maxAnswers = 1 << 18
)

// asFinals returns n rules as answers, or nil if they are too many.
func asFinals(c *classifier, n int, lane Lane) *finals {
	groups := c.groups
	if len(groups) < 2 {
		return nil
	}
	f := &finals{lane: lane}
	left, last := groups[0].sets, groups[len(groups)-1].sets
	for _, g := range groups[1 : len(groups)-1] {
		var numbers []uint16
		if numbers, left = c.pairs(left, g.sets, maxAnswers/last.len()); left == nil {
			return nil
		}
		f.add(g.sets.len(), numbers)
	}
	if left.len()*last.len() > maxAnswers {
		return nil
	}
	f.add(last.len(), c.answers(left, last, n))
	f.Tables = append(f.Tables, 0)
	c.Row = 1
	f.classes = c.Classes
	return f
}

func (f *finals) add(factor int, numbers []uint16) {
	f.Link[f.Links] = kernel.Link{Start: uint32(len(f.Tables)), Factor: uint32(factor)}
	f.Links++
	f.Tables = append(f.Tables, numbers...)
}

// pairs returns the classes of the combinations of two groups, and their sets; nil if
// they are more than most.
func (c *classifier) pairs(left, right *sets, most int) ([]uint16, *sets) {
	if left.len()*right.len() > maxPairs {
		return nil, nil
	}
	numbers := make([]uint16, 0, left.len()*right.len())
	made := newSets(left.words, left.len())
	for i := range left.len() {
		for j := range right.len() {
			numbers = append(numbers, uint16(c.both(left.at(i), right.at(j), made)))
		}
		if made.len() > most {
			return nil, nil
		}
	}
	return numbers, made
}

// answers returns the first of n rules in both sets, for each combination of one from the left and one from
// the right; n if there is none.
func (c *classifier) answers(left, right *sets, n int) []uint16 {
	out := make([]uint16, 0, left.len()*right.len())
	for i := range left.len() {
		from := left.at(i)
		for j := range right.len() {
			rule := n
			for w, word := range right.at(j) {
				if both := word & from[w]; both != 0 {
					rule = 64*w + bits.TrailingZeros64(both)
					break
				}
			}
			out = append(out, uint16(rule))
		}
	}
	return out
}

func (f *finals) bytes() int { return 2 * (len(f.classes.Tables) + len(f.Tables)) }

func (f *finals) lookup(keys []flow.Key, answers []int32) {
	var chosen kernel.Chosen
	choose(f.lane, &f.classes, keys, &chosen)
	if len(answers) == kernel.Lanes { // the usual batch needs no copy
		final(f.lane, &f.Finals, &chosen, len(keys), (*[kernel.Lanes]int32)(answers))
		return
	}
	var best [kernel.Lanes]int32
	final(f.lane, &f.Finals, &chosen, len(keys), &best)
	copy(answers, best[:])
}
