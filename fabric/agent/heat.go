package agent

import (
	"math"
	"math/bits"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// warmth smooths packet counters into the heat that placement goes by.
//
// Problem: raw rates are noisy, and every change of rank moves entries. Idea: an
// exponential average with the time constant below, rounded down to a power of two,
// so that a rule displaces another only when it is about twice as hot
// (consistency.md section 1: averages with that margin moved 28 entries an epoch,
// raw rates 799, for the same hit rate). Rules of one power of two keep the order
// of the table.
type warmth struct {
	at    time.Time
	seen  map[flow.RuleID]uint64  // packets at the last reading
	rates map[flow.RuleID]float64 // smoothed, packets per second
}

// constant is the time after which a rate that stops has fallen to 37 %.
const constant = 10 * time.Second

// update takes the packets each rule has seen up to now. A rule that is not in
// packets has gone, and its heat with it.
func (w *warmth) update(now time.Time, packets map[flow.RuleID]uint64) {
	elapsed := now.Sub(w.at).Seconds()
	if w.seen == nil {
		w.seen, w.rates, elapsed = map[flow.RuleID]uint64{}, map[flow.RuleID]float64{}, 0
	}
	if elapsed > 0 {
		old := math.Exp(-elapsed / constant.Seconds())
		rates := make(map[flow.RuleID]float64, len(packets))
		for id, n := range packets {
			rates[id] = old*w.rates[id] + (1-old)*float64(n-min(n, w.seen[id]))/elapsed
		}
		w.rates = rates
	}
	w.at, w.seen = now, packets
}

// heat returns the rates in steps of a factor of two. What is below one packet per
// second is cold.
func (w *warmth) heat() offload.Heat {
	h := offload.Heat{}
	for id, rate := range w.rates {
		if rate >= 1 {
			h[id] = 1 << (bits.Len64(uint64(rate)) - 1)
		}
	}
	return h
}
