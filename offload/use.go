package offload

import (
	"fmt"
	"math"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// tally is what an entry takes of a device besides room: a mask in a set of masks, a
// priority, a counter. Masks, sets and priorities are known by numbers, so that
// counting them is counting in lists.
type tally struct {
	mask, set, level int32
	counts           bool
}

// setMask is a mask in its set, see [device.Model.MasksPer].
type setMask struct {
	set  int32
	mask device.Mask
}

// tallyOf returns what e takes.
func (p *Planner) tallyOf(e *flow.Entry) tally {
	set := number(p.sets, p.model.MaskSet(&e.Match))
	if p.spare != nil {
		p.spare[number(p.masks, setMask{set, p.exact})] = true
	}
	return tally{mask: number(p.masks, setMask{set, device.MaskOf(&e.Match)}), set: set, level: number(p.levels, e.Priority), counts: !e.Punt()}
}

// number returns the number of x, a new one if it has none.
func number[T comparable](numbers map[T]int32, x T) int32 {
	n, known := numbers[x]
	if !known {
		n = int32(len(numbers))
		numbers[x] = n
	}
	return n
}

// use is what entries take of a device together.
type use struct {
	limits  *device.Model
	spare   map[int32]bool // masks of which one in each set is always to be had, see Planner.reserve
	masks   []int32        // by mask: entries
	inSet   []int32        // by set: distinct masks, spare ones left out
	levels  []int32        // by priority: entries
	entries int
	counted int

	distinct, priorities int
	crowded              int // sets with more masks than there may be
}

// clone returns a copy that can be changed.
func (u use) clone() use {
	u.masks, u.inSet, u.levels = slices.Clone(u.masks), slices.Clone(u.inSet), slices.Clone(u.levels)
	return u
}

// over returns why there is more than the device holds, room for entries left aside;
// nil if there is not.
func (u *use) over() *device.Refusal {
	m := u.limits
	switch {
	case u.crowded > 0:
		return &device.Refusal{Code: CodeMask, Reason: fmt.Sprintf("makes one mask more than the %d that %s has", m.Masks, m.Name),
			Fix: "match the same fields as hotter rules do"}
	case m.Priorities > 0 && u.priorities > m.Priorities:
		return &device.Refusal{Code: "E_PRIORITIES_FULL", Reason: fmt.Sprintf("makes %d distinct priorities, %s has %d", u.priorities, m.Name, m.Priorities),
			Fix: "give rules that do not overlap the same priority"}
	case m.Counted > 0 && u.counted > m.Counted:
		return &device.Refusal{Code: "E_COUNTERS_FULL", Reason: fmt.Sprintf("makes %d entries that count, %s has %d counters", u.counted, m.Name, m.Counted),
			Fix: "use a device with more counters"}
	}
	return nil
}

// most returns how many masks a set may have, spare ones left out.
func (u *use) most() int32 {
	switch {
	case u.limits.Masks == 0:
		return math.MaxInt32
	case u.spare != nil:
		return int32(u.limits.Masks) - 1
	}
	return int32(u.limits.Masks)
}

// add counts an entry that comes (by 1) or goes (by -1).
func (u *use) add(t tally, by int) {
	u.entries += by
	if t.counts {
		u.counted += by
	}
	u.priorities += step(&u.levels, t.level, by)
	change := step(&u.masks, t.mask, by)
	u.distinct += change
	if change == 0 || u.spare[t.mask] {
		return
	}
	was := at(u.inSet, t.set)
	step(&u.inSet, t.set, change)
	switch most := u.most(); {
	case change > 0 && was == most:
		u.crowded++
	case change < 0 && was == most+1:
		u.crowded--
	}
}

// step adds by to list[i]; it returns 1 if that was zero, -1 if it is now, else 0.
func step(list *[]int32, i int32, by int) int {
	if short := int(i) + 1 - len(*list); short > 0 {
		*list = append(*list, make([]int32, short)...)
	}
	was := (*list)[i]
	(*list)[i] += int32(by)
	switch {
	case was == 0:
		return 1
	case (*list)[i] == 0:
		return -1
	}
	return 0
}

func at(list []int32, i int32) int32 {
	if int(i) < len(list) {
		return list[i]
	}
	return 0
}
