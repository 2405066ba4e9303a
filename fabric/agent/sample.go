package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Sampled re-classification: frames that software judged are judged once more, by the
// definition.
//
// Problem. The proof is about what a device says it holds, and counters are sums. Neither
// sees a classifier that gives one packet in a million to another rule, or a card that has
// an entry in its dump and not in its silicon for some packets only.
//
// Idea. In each look some of the frames that software judged since the last one are parsed
// again and looked up again in the table that judged them, rule by rule; and the entries of
// each device are asked which of them should have answered the frame before software saw it.
// What goes wrong with one frame in f is seen within 3/f samples, 95 times of 100.
//
// A frame may be judged by the generation before for a moment after the change, and pass by
// an entry that was put in a moment ago, so these are told only after [switchWindow].

// Sampler gives out frames that software judged; *fallback.Samples is one.
type Sampler interface {
	Next(ctx context.Context, into *fallback.Sample) error
}

// switchWindow is for how long after a change a packet may have met what was before.
const switchWindow = time.Second

// sampleWork bounds how many rules and entries the samples of one look are compared with:
// some 20 ms of processor time.
const sampleWork = 2 << 20

// most samples are judged again in one look, and least.
const (
	mostSamples  = 256
	leastSamples = 16
)

// SampleStatus counts frames that were judged again.
type SampleStatus struct {
	Right  uint64 `json:"right"`
	Wrong  uint64 `json:"wrong"`  // software gave them to another rule than the table does, or did something else
	Passed uint64 `json:"passed"` // a device holds an entry that should have answered them
}

// sampled is what is kept from look to look.
type sampled struct {
	SampleStatus
	next   fallback.Sample
	passed map[flow.EntryID]int // in how many looks in a row packets passed by an entry
	open   flow.Key             // of a packet that a device had to miss and a canary can be for; zero if there was none
}

// resample judges again what software judged since the last look.
func (a *Agent) resample(ctx context.Context) {
	if a.Samples == nil || a.running == nil {
		return
	}
	work := a.running.Len() + 1
	for _, c := range a.devices {
		work += len(c.installed)
	}
	over, end := context.WithCancel(ctx)
	end() // what is there, and no waiting
	told := 0
	passed := map[flow.EntryID]flow.Key{}
	on := map[flow.EntryID]*card{}
	for range min(mostSamples, max(leastSamples, sampleWork/work)) {
		s := &a.sampled.next
		if a.Samples.Next(over, s) != nil {
			break
		}
		why := rejudge(s)
		if why == "" && s.Table != a.running && s.Time.After(a.since.Add(switchWindow)) {
			why = fmt.Sprintf("generation %d judged it, %s after generation %d came into force", s.Table.Generation(), s.Time.Sub(a.since), a.running.Generation())
		}
		if why != "" {
			a.sampled.Wrong++
			if told++; told == 1 {
				a.event(eventMisjudged, "software", flow.FormatKey(s.Key, s.Table.Ports())+": "+why)
			}
			continue
		}
		a.sampled.Right++
		a.flows.sampled(s)
		for _, c := range a.devices {
			if !mayAnswer(&c.model, &s.Key) {
				continue
			}
			c.canary.saw(&s.Key, s.Time, a.Now())
			c.glimpsed(&s.Key, s.Time)
			if e := answering(c.installed, &c.model, &s.Key); e == nil {
				if _, ok := probing(c.installed, &c.model, &s.Key); ok {
					a.sampled.open = s.Key
				}
			} else if s.Time.After(c.since.Add(switchWindow)) && !c.peek.took(&s.Key, s.Time) {
				a.sampled.Passed++
				passed[e.ID], on[e.ID] = s.Key, c
			}
		}
	}
	a.notePassed(passed, on)
	if !a.peeking() {
		return
	}
	for range min(peekFrames, sampleWork/work) { // what is left would be taken for frames of later looks
		s := &a.sampled.next
		if a.Samples.Next(over, s) != nil {
			return
		}
		for _, c := range a.devices {
			if mayAnswer(&c.model, &s.Key) {
				c.glimpsed(&s.Key, s.Time)
			}
		}
	}
}

// notePassed says which entries let packets pass, look after look: one packet in months shows
// nothing, as it may have met what was before.
func (a *Agent) notePassed(passed map[flow.EntryID]flow.Key, on map[flow.EntryID]*card) {
	looks := map[flow.EntryID]int{}
	for _, c := range a.devices {
		for i := range c.installed {
			id := c.installed[i].ID
			k, now := passed[id]
			if !now {
				continue
			}
			if looks[id] = a.sampled.passed[id] + 1; looks[id] == patience {
				a.event(eventSilent, on[id].Name, fmt.Sprintf("entry %s should have answered %s, which software saw: see whether the device does what it says, or always misses such packets",
					ruleID(flow.RuleID(id)), flow.FormatKey(k, a.running.Ports())))
			}
		}
	}
	a.sampled.passed = looks
}

// rejudge says what is wrong with what became of a frame; empty if nothing is.
func rejudge(s *fallback.Sample) string {
	if s.Length == len(s.Frame) { // else it was cut, and reads as another
		k, err := flow.Parse(s.Frame, flow.Port(s.Key.Get(flow.InPort)))
		k.Set(flow.CTState, s.Key.Get(flow.CTState)) // is in no frame
		if err != nil || k != s.Key {
			return "the frame reads as " + flow.FormatKey(k, s.Table.Ports())
		}
	}
	at := s.Table.Lookup(&s.Key)
	r := s.Table.Rule(at)
	if at != s.Rule {
		return fmt.Sprintf("software gave it to rule %s, the table gives it to %s", s.Table.Rule(s.Rule).Name, r.Name)
	}
	want := r.Actions.Terminal().Op
	mayDrop := slices.ContainsFunc(r.Actions, func(x flow.Action) bool { return x.Op == flow.Police || x.Op == flow.VLANPush })
	if s.Verdict != want && !(mayDrop && s.Verdict == flow.Drop) {
		return fmt.Sprintf("rule %s says %s, and software did %s", r.Name, want, s.Verdict)
	}
	return ""
}

// answering returns the entry that should have answered a packet that the device does not
// miss ([mayAnswer]); nil if there is none, or if another one may have punted it.
func answering(installed []flow.Entry, m *device.Model, k *flow.Key) *flow.Entry {
	var first *flow.Entry
	for i := range installed {
		e := &installed[i]
		if !e.Match.Matches(k) {
			continue
		}
		switch {
		case m.Order != device.Honoured && e.Punt():
			return nil
		case first == nil || m.Order == device.Honoured && (e.Priority > first.Priority || e.Priority == first.Priority && e.Punt()):
			first = e
		}
	}
	if first == nil || first.Punt() {
		return nil
	}
	return first
}

// mayAnswer reports whether a device could answer a packet, with the right entry.
func mayAnswer(m *device.Model, k *flow.Key) bool {
	return m.Has(flow.Port(k.Get(flow.InPort))) && !slices.ContainsFunc(m.Missed, func(x flow.Match) bool { return x.Matches(k) })
}
