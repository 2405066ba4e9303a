package agent

import (
	"maps"
	"math"
	"math/bits"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// warmth smooths packet counters, of rules or flows, into the heat that placement goes by.
//
// Problem: raw rates are noisy, and every change of rank moves entries. Idea: an
// exponential average with the time constant below, rounded down to a power of two,
// so that one displaces another only when it is about twice as hot; and a level
// is left only when the rate is well outside of it, so that a rate at a boundary
// does not flap. consistency.md section 1 measured the idea: averages with a margin
// of two moved 28 entries an epoch, raw rates 799, at the same hit rate. Rules of one
// level keep the order of the table.
type warmth[K comparable] struct {
	at     time.Time
	seen   map[K]uint64  // packets at the last reading
	rates  map[K]float64 // smoothed, packets per second
	levels map[K]uint64  // the rates as placement sees them
}

// constant is the time after which a rate that stops has fallen to 37 %.
const constant = 10 * time.Second

// update takes the packets of each up to now. What is not in packets has gone, and its heat
// with it. The first reading says nothing of rates.
func (w *warmth[K]) update(now time.Time, packets map[K]uint64) {
	elapsed := now.Sub(w.at).Seconds()
	if w.seen != nil && elapsed > 0 {
		old := math.Exp(-elapsed / constant.Seconds())
		rates, levels := make(map[K]float64, len(packets)), map[K]uint64{}
		for id, n := range packets {
			rates[id] = old*w.rates[id] + (1-old)*float64(n-min(n, w.seen[id]))/elapsed
			if l := level(rates[id], w.levels[id]); l > 0 {
				levels[id] = l
			}
		}
		w.rates, w.levels = rates, levels
	}
	if w.seen == nil || elapsed > 0 {
		w.at, w.seen = now, packets
	}
}

// level returns the power of two for a rate that was at level was: was itself as
// long as the rate is within a factor of 1.4 of its range. Below one packet per
// second all is cold.
func level(rate float64, was uint64) uint64 {
	switch {
	case was > 0 && rate >= float64(was)/1.4 && rate < float64(was)*2*1.4:
		return was
	case rate < 1:
		return 0
	}
	return 1 << (bits.Len64(uint64(rate)) - 1)
}

// traffic is what a plan went by.
type traffic struct {
	at    time.Time
	rules map[flow.RuleID]uint64
	flows map[flow.Key]uint64
}

// shiftPace is how often a plan is made at most because flows come and go, which they
// always do: a plan for 10,000 rules takes some 50 ms.
const shiftPace = 6 * time.Second

// shifted reports whether traffic is not as it was planned for.
func (a *Agent) shifted() bool {
	return !maps.Equal(a.warmth.levels, a.planned.rules) || a.Now().Sub(a.planned.at) >= shiftPace && !maps.Equal(a.flows.levels, a.planned.flows)
}

// budget is how many entries a plan may take out of a device to make room for hotter ones:
// with those that take their place 3 % of the table, and some if that is small. If nobody knows
// how many there could be, the table is what it holds.
func budget(m *device.Model, held int) int {
	if m.Entries > 0 {
		held = m.Entries
	}
	return max(16, held*15/1000)
}
