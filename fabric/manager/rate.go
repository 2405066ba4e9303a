package manager

import (
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// Problem. An operator asks what is busiest now. Agents report monotonic counters, and
// only when something was counted: at most once a second, a long list of rules (150 KB at
// most) less often, down to once in 37 s, counters of functions every 10 s.
//
// Idea. A rate is what a counter grew between the last two reports, by the blade's own
// time between them, and nothing else: no average over a time in which nobody looked, no
// level that was worked out by somebody else. A report that does not come says something,
// too: a blade that is alive and reports nothing new has counted nothing. So a reading is
// good for a while that follows from how far apart its two reports are, and then rates
// are 0. Of a blade whose agent is gone they are unknown.
//
// A counter that is smaller than it was has begun anew (an agent that lost what it kept,
// a function that was made anew): it has grown by at least what it shows. Counters are
// compared one by one before they are added up, so that one that began anew is not hidden
// by others.

// quietAfter is when a reading says nothing any more: reports as far apart as the last
// two would have come three times since.
func quietAfter(apart time.Duration) time.Duration { return 3*apart + 5*time.Second }

// unread is when a blade that reported once, and is alive, is known to have counted
// nothing since: the longest list of rules would have come by then.
const unread = time.Minute

// standing says what two readings are worth: when they were made, by the blade's clock
// (zero if there was none), and how long ago this manager got the last one.
func standing(alive bool, before, last time.Time, ago time.Duration) api.Reading {
	r := api.Reading{At: last}
	apart := last.Sub(before)
	if !before.IsZero() && apart > 0 {
		r.Seconds = apart.Seconds()
	}
	switch {
	case last.IsZero():
		r.State = api.ReadingNone
	case !alive:
		r.State = api.ReadingSilent
	case r.Seconds == 0 && ago > unread, r.Seconds > 0 && ago > quietAfter(apart):
		r.State = api.ReadingQuiet
	case r.Seconds == 0:
		r.State = api.ReadingOnce
	default:
		r.State = api.ReadingMeasured
	}
	return r
}

// grown returns by how much a counter grew at least.
func grown(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// rate returns what counters that grew so much did so by a second; known is false if
// nobody can say. there says that they were in the reading before.
func rate(r api.Reading, there bool, grew uint64) (perSecond float64, known bool) {
	switch r.State {
	case api.ReadingQuiet:
		return 0, true
	case api.ReadingMeasured:
		return float64(grew) / r.Seconds, there
	}
	return 0, false
}
