package flow

import (
	"maps"
	"math/bits"
	"time"
)

// Limits of a police action. With them no bucket overflows a uint64.
const (
	MaxRate  = 1e15 // bits a second
	MaxBurst = 2e9  // bytes
)

// Meter is the state of one token bucket as a plain value. The zero Meter is full.
type Meter struct {
	// Owed is what the bucket lacks of being full, in billionths of a bit: a rate in
	// bits a second fills as many of them as bits in a nanosecond. So nothing is rounded.
	Owed uint64
	At   time.Duration // when that was, from some moment that all times count from
	Rate uint64        // of the police action that a frame came to last; see [Meter.Full]
}

const billionthsPerByte = 8e9

// Pass returns the meter after a frame of length bytes has come at a time to a police
// action, and whether the frame passes: it does iff the bucket holds its length. What
// passes is taken out; what does not leaves the bucket as it is. A time before that
// of the meter counts as that.
func (m Meter) Pass(police Action, now time.Duration, length int) (Meter, bool) {
	if elapsed := now - m.At; elapsed > 0 {
		hi, filled := bits.Mul64(police.Rate, uint64(elapsed))
		if hi > 0 || filled > m.Owed {
			filled = m.Owed
		}
		m.Owed -= filled
		m.At = now
	}
	size := uint64(police.Burst) * billionthsPerByte
	m.Owed, m.Rate = min(m.Owed, size), police.Rate // the burst may have been greater
	owed := m.Owed + uint64(length)*billionthsPerByte
	if owed < m.Owed || owed > size {
		return m, false
	}
	m.Owed = owed
	return m, true
}

// Full reports whether the bucket is full at a time if it went on filling at the rate that
// it had last. Such a meter is as good as a new one.
func (m Meter) Full(now time.Duration) bool {
	hi, filled := bits.Mul64(m.Rate, uint64(max(0, now-m.At)))
	return hi > 0 || filled >= m.Owed
}

// MeterID names a meter: of which rule, and at which place among its actions the
// police action stands. A rule's meter survives tables, as its counter does, but for
// [Meters.Forget].
type MeterID struct {
	Rule RuleID
	At   int
}

// In reports whether t has the rule, with a police action at that place.
func (id MeterID) In(t *Table) bool {
	i, ok := t.Index(id.Rule)
	if id.Rule == DefaultRule {
		i, ok = t.Len(), true
	}
	if !ok {
		return false
	}
	actions := t.Rule(i).Actions
	return id.At < len(actions) && actions[id.At].Op == Police
}

// Meters is the state of all meters of a blade. One that is not there is full.
type Meters map[MeterID]Meter

// Judge is [Judge] with the meters as they are, for a frame that comes in at a time. It
// is the definition of what a table with police actions means for one packet after
// another; m, which must not be nil, is afterwards as the frame has left it.
func (m Meters) Judge(t *Table, frame []byte, in Port, now time.Duration) []Emission {
	k, err := Parse(frame, in)
	if err != nil {
		return nil
	}
	r := t.Rule(t.Lookup(&k))
	return act(r.Actions, t.Switch(), r.ID, frame, in, func(at, length int) (passes bool) {
		id := MeterID{r.ID, at}
		m[id], passes = m[id].Pass(r.Actions[at], now, length)
		return passes
	})
}

// Forget is what a change to table t at a time does to meters: those that t does not use
// and that are full are gone, so that rules which come and go leave nothing behind for ever.
func (m Meters) Forget(t *Table, now time.Duration) {
	maps.DeleteFunc(m, func(id MeterID, s Meter) bool { return !id.In(t) && s.Full(now) })
}
