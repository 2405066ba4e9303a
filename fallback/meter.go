package fallback

import (
	"maps"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// meter is the token bucket of one police action. All workers share it, whatever link
// or queue a frame came by, and it stays when tables change. So a rule passes what
// [flow.Meters.Judge] says it does, for frames in the order in which workers take the
// lock.
//
// Time is read once for a batch: the frames of a batch have come by then. Two workers may
// therefore be at two times, and a time before that of the meter counts as that.
//
// An uncontended lock is most of what a frame costs here. Two halves of a bucket in one
// word that a worker exchanges would be cheaper between cores, but then the bucket is
// rounded, or holds less than the contract lets people write.
type meter struct {
	mu      sync.Mutex
	state   flow.Meter
	dropped flow.Counter
}

// pass reports whether a frame may go on.
func (m *meter) pass(police *flow.Action, now time.Duration, length int) (passes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state, passes = m.state.Pass(*police, now, length); !passes {
		m.dropped.Packets++
		m.dropped.Bytes += uint64(length)
	}
	return passes
}

// meters are those of all rules that police, and of rules that are gone and still owe
// something: what a rule owes outlives the rule, else taking it out and in again would fill
// its bucket. With each table those are freed that would be full by now, as
// [flow.Meters.Forget] says. What they have dropped stays, 24 bytes a rule.
type meters struct {
	mu   sync.Mutex // guards what follows
	all  map[flow.MeterID]*meter
	past map[flow.RuleID]flow.Counter // what freed ones have dropped
}

// forget frees meters after a change to t. No worker may use an earlier table any more.
func (ms *meters) forget(t *flow.Table, now time.Duration) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	maps.DeleteFunc(ms.all, func(id flow.MeterID, m *meter) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		if id.In(t) || !m.state.Full(now) {
			return false
		}
		if m.dropped.Packets > 0 {
			ms.past[id.Rule] = plus(ms.past[id.Rule], m.dropped)
		}
		return true
	})
}

func plus(a, b flow.Counter) flow.Counter {
	return flow.Counter{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

// of returns a meter, which is full if it is new.
func (ms *meters) of(id flow.MeterID) *meter {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.all[id]
	if m == nil {
		m = &meter{}
		ms.all[id] = m
	}
	return m
}

// Policed returns what the police actions of each rule have dropped. A frame counts with
// its length as it was then. The counters of rules ([Datapath.Counters]) have these frames
// as well, for the rules matched them.
func (d *Datapath) Policed() map[flow.RuleID]flow.Counter {
	d.meters.mu.Lock()
	defer d.meters.mu.Unlock()
	sum := maps.Clone(d.meters.past)
	for id, m := range d.meters.all {
		m.mu.Lock()
		if m.dropped.Packets > 0 {
			sum[id.Rule] = plus(sum[id.Rule], m.dropped)
		}
		m.mu.Unlock()
	}
	return sum
}
