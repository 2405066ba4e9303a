package tcflower

import (
	"fmt"
	"math"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What `police` is in tc: an action that lets pass what a rate and a burst allow, and drops the
// rest. tc counts a rate in bytes a second and a burst in the time that it takes at the rate, in
// ticks of 64 ns. So a rate that is no whole number of bytes is refused, and the burst in bytes
// is written down in the cookie of the action behind, of which there always is one: police ends
// no list.

// ticksPerSecond is the kernel's since 2.6.31: a tick is 64 ns.
const ticksPerSecond = 1e9 / 64

// longestFrame is what tc lets pass at most, whatever the burst: more than any frame has.
const longestFrame = 1 << 24

// burstTicks returns how long a burst of bytes takes at a rate in bytes a second.
func burstTicks(burst uint32, rate uint64) float64 {
	return math.Ceil(ticksPerSecond * float64(burst) / float64(rate))
}

// policeAction writes a police action.
func policeAction(a *flow.Action) (Action, *device.Refusal) {
	if a.Rate%8 != 0 {
		return Action{}, unsaid("E_ACTION_UNSUPPORTED", "rates are whole bytes a second", "use a rate that 8 divides")
	}
	ticks := burstTicks(a.Burst, a.Rate/8)
	if ticks > math.MaxUint32 {
		return Action{}, unsaid("E_ACTION_UNSUPPORTED", "such a burst takes more than four minutes at the rate", "use a smaller burst, or a higher rate")
	}
	return Action{Kind: "police", Verdict: Drop, Police: Police{Rate: a.Rate / 8, Burst: uint32(ticks), MTU: longestFrame, Conform: Pipe, Conforms: true}}, nil
}

// readPolice is its inverse; next is the action behind.
func readPolice(a, next *Action) (flow.Action, error) {
	p := &a.Police
	if a.Verdict != Drop || !p.Conforms || p.Conform != Pipe || p.MTU != longestFrame || next == nil || len(next.Cookie) != burstCookie || p.Rate > flow.MaxRate/8 {
		return flow.Action{}, fmt.Errorf("action police: %+v, which no entry has", p)
	}
	return flow.Action{Op: flow.Police, Rate: p.Rate * 8, Burst: be.Uint32(next.Cookie[1:])}, nil
}

// burstCookie is how long the cookie of an action behind a police action is.
const burstCookie = 1 + 4

// rateTable is what tc sends beside a rate, and the kernel wants to see though it computes
// otherwise: how many ticks frames of so many cells take, by way of whole microseconds.
func rateTable(rate uint64, mtu uint32) []byte {
	var out []byte
	for i := range uint64(256) {
		micros := math.Floor(1e6 * float64((i+1)<<cellLog(mtu)) / float64(rate))
		out = native.AppendUint32(out, uint32(min(math.Floor(micros*ticksPerSecond/1e6), math.MaxUint32)))
	}
	return out
}

// cellLog is the logarithm of the size of a cell, as tc chooses it: 256 of them have to be longer
// than a frame.
func cellLog(mtu uint32) (log byte) {
	if mtu == 0 {
		mtu = 2047
	}
	for mtu>>log > 255 {
		log++
	}
	return log
}
