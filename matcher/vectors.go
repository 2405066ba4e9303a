package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// vectors is a small table as bit vectors: the sets that the classes of a key choose
// are rows of bits in table order, and the first bit that all rows have is the winner.
// One more bit, behind the last rule, is set in all rows, so that there always is a
// first one; it means the default.
type vectors struct {
	kernel.Vectors
	lane    Lane
	classes kernel.Classes
}

// maxVectorRules is the most rules of two lines of 512 bits, with the bit behind them.
const maxVectorRules = 1023

// maxCombined bounds combinations of classes in a group.
const maxCombined = 1 << 17

// classifySmall returns the classes of t, or nil if it has too many rules or classes.
func classifySmall(t *flow.Table) *classifier {
	if t.Len() == 0 || t.Len() > maxVectorRules {
		return nil
	}
	rules := make([]*flow.Match, t.Len())
	for i := range rules {
		rules[i] = &t.Rule(i).Match
	}
	size := 512
	if len(rules) >= size {
		size = 1024
	}
	return classify(rules, size, len(rules), maxCombined)
}

// asVectors returns the rules of c as bit vectors.
func asVectors(c *classifier, lane Lane) *vectors {
	v := &vectors{lane: lane}
	v.Groups = c.Groups
	v.Lines = uint32(len(c.always) / 8)
	var rows []uint64
	c.Row = 64 * v.Lines
	for i, g := range c.groups {
		c.Group[i].Base = uint32(8 * len(rows))
		rows = append(rows, g.sets.bits...)
	}
	c.None = c.Group[0].Base + c.None*c.Row
	v.Rows = kernel.AlignedWords(len(rows))
	copy(v.Rows, rows)
	v.classes = c.Classes
	return v
}

func (v *vectors) bytes() int { return 2*len(v.classes.Tables) + 8*len(v.Rows) }

func (v *vectors) lookup(keys []flow.Key, answers []int32) {
	var chosen kernel.Chosen
	choose(v.lane, &v.classes, keys, &chosen)
	if len(answers) == kernel.Lanes { // the usual batch needs no copy
		and(v.lane, &v.Vectors, &chosen, len(keys), (*[kernel.Lanes]int32)(answers))
		return
	}
	var best [kernel.Lanes]int32
	and(v.lane, &v.Vectors, &chosen, len(keys), &best)
	copy(answers, best[:])
}
