package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// auditPace is how often devices are read and proved at least, whatever the interval.
const auditPace = 10 * time.Second

// observe reads every device and compares what it holds with what was left there, with
// the table, and with what its counters said: the audit. What it finds is noted here; the
// plan that follows puts it right, as it would anything else that is not as wanted.
func (a *Agent) observe(ctx context.Context) error {
	if err := a.read(ctx); err != nil {
		return err
	}
	for _, c := range a.devices {
		before := c.found
		a.review(c)
		c.decide()
		c.found = findDrift(c.left, c.installed)
		if a.running != nil {
			if err := a.prove(c); err != nil {
				a.steady = false
				a.blame(c, err)
			}
		}
		a.noteDrift(c, before.foreign)
		a.leak(c)
		if c.moved {
			a.steady = false
		}
	}
	a.balance()
	a.resample(ctx)
	return nil
}

// blame notes the entry that the checker named.
func (a *Agent) blame(c *card, err error) {
	named, ok := errors.AsType[interface {
		error
		Culprit() flow.EntryID
	}](err)
	if !ok {
		return
	}
	for _, e := range c.installed {
		if e.ID == named.Culprit() && offload.Ours(e.ID) {
			c.found.unsound = []flow.Entry{e}
			a.events.add(a.Now(), eventUnsound, c.Name, err.Error()) // logged already
		}
	}
}

// noteDrift counts what changed in a device and says so.
func (a *Agent) noteDrift(c *card, foreign []flow.Entry) {
	d := &c.found
	a.drift.Missing += uint64(len(d.missing))
	a.drift.Altered += uint64(len(d.altered))
	a.drift.Added += uint64(len(d.added))
	for _, kind := range []struct {
		code, text string
		entries    []flow.Entry
	}{
		{eventMissing, "entries are gone: ", d.missing},
		{eventAltered, "entries were altered: ", d.altered},
		{eventOrphaned, "entries have our mark, and nobody put them in: ", d.added},
		{eventForeign, "somebody else put entries in: ", without(d.foreign, foreign)},
	} {
		if len(kind.entries) > 0 {
			a.event(kind.code, c.Name, kind.text+named(kind.entries))
		}
	}
}

// without returns the entries whose IDs are not among known.
func without(entries, known []flow.Entry) (out []flow.Entry) {
	seen := byID(known)
	for _, e := range entries {
		if seen[e.ID] == nil {
			out = append(out, e)
		}
	}
	return out
}

// named lists entries by ID, some of them if there are many.
func named(entries []flow.Entry) string {
	const most = 8
	all := ids(entries)
	text := strings.Join(all[:min(most, len(all))], ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d more", len(all)-most)
	}
	return text
}

// unsound reports whether a device holds something of ours that could answer wrongly.
func (a *Agent) unsound() bool {
	for _, c := range a.devices {
		if c.proof.table == a.running && c.proof.err != nil && code(c.proof.err) != "E_FOREIGN" {
			return true
		}
	}
	return false
}

// event notes that something happened, and logs it.
func (a *Agent) event(code, object, text string) {
	a.Log.Warn("something happened", "event", code, "object", object, "text", text)
	a.events.add(a.Now(), code, object, text)
}

// patience is for how many looks in a row something must not add up before it is said, and
// idlePackets how many packets must have passed by a device.
const (
	patience    = 3
	idlePackets = 100
)

// books is what the counters said at first and last, and for how many looks in a row they
// did not add up.
type books struct {
	odd    int // software's counters contradicted each other
	excess int // more and more was punted that did not come

	begun        bool
	punted, came uint64 // at the first look
	most         uint64 // by which the one exceeded the other since
	idle         map[flow.RuleID]idle
}

// idle is a rule wholly in devices, and how many of its packets software saw while they
// counted none.
type idle struct {
	hardware, software uint64 // packets at the last look
	looks              int
	passed             uint64
}

// balance compares counters with each other. Software's are exact between two readings of
// its totals. What a device punts comes to software at once, but a device's counters may be
// old, so that the first look may know of fewer punts than there were; after that the excess
// of punts over arrivals may only fall, and one that grows look after look is said.
//
// A rule that is wholly in devices and whose packets software sees all the same is what a
// device that lies about holding it looks like: its own traffic is the probe.
func (a *Agent) balance() {
	before, rules, after := a.Datapath.Stats(), a.Datapath.Judged(), a.Datapath.Stats()
	inCache := a.Datapath.Cached()
	var sum uint64
	for _, n := range rules {
		sum += n.Packets
	}
	judged := func(s *fallback.Stats) uint64 { return s.Dropped + s.Normal + s.Passed + s.Output }
	exact := after.Frames == after.Early+after.Short+judged(&after)
	b := &a.books
	if again(&b.odd, !exact || sum < judged(&before) || sum > judged(&after)) {
		a.event(eventCounters, "software", fmt.Sprintf("%d frames came, %d were judged, rules counted %d", after.Frames, judged(&after), sum))
	}
	punted, came := uint64(0), after.Frames+cameToCache(inCache, after.Cache)
	for _, c := range a.devices {
		punted += c.ledger.verdicts["punt"]
	}
	for _, l := range after.Links {
		came += l.Dropped
	}
	if !b.begun {
		b.begun, b.punted, b.came = true, punted, came
	}
	excess := punted - b.punted - min(punted-b.punted, came-b.came)
	if again(&b.excess, excess > b.most) {
		a.event(eventCounters, "devices", fmt.Sprintf("%d more packets were punted than came to software: they are lost in between", excess))
	}
	b.most = max(b.most, excess)
	for id, n := range inCache {
		rules[id] = plus(rules[id], n)
	}
	a.lookForIdle(rules)
}

// again counts looks in a row and reports the one at which patience ends.
func again(looks *int, odd bool) bool {
	if !odd {
		*looks = 0
		return false
	}
	*looks++
	return *looks == patience
}

// lookForIdle looks for rules that devices have and do not answer.
func (a *Agent) lookForIdle(software map[flow.RuleID]flow.Counter) {
	now := map[flow.RuleID]idle{}
	for id, n := range software {
		if !a.whole(id) {
			continue
		}
		w := idle{hardware: a.hardware(id).Packets, software: n.Packets}
		if was, known := a.books.idle[id]; known && w.hardware == was.hardware {
			w.passed, w.looks = was.passed, was.looks
			if more := w.software - was.software; more > 0 {
				w.passed += more
				w.looks++
			}
			if w.looks >= patience && w.passed >= idlePackets && (was.looks < patience || was.passed < idlePackets) {
				name := ruleID(id)
				if i, ok := a.running.Index(id); ok {
					name = a.running.Rule(i).Name
				}
				a.event(eventSilent, "rule "+name, fmt.Sprintf("it is wholly in hardware, which counted none of %d packets that software saw: see whether the device does what it says, or always misses such packets", w.passed))
			}
		}
		now[id] = w
	}
	a.books.idle = now
}

// whole reports whether devices hold all of a rule.
func (a *Agent) whole(id flow.RuleID) bool {
	if len(a.devices) == 0 || a.running == nil {
		return false
	}
	for _, c := range a.devices {
		if p, ok := c.placements[id]; !ok || !p.Whole() || len(p.Entries) == 0 {
			return false
		}
	}
	return true
}
