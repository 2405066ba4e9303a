package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// The canary of a device: two entries that change no verdict, put in to see whether the
// device does what its dump says.
//
// Problem. A driver may say that an entry is in hardware, list it, and have a card that
// never asks it, or that counts for it what it did not answer. Where all entries behave
// so, traffic alone shows little: software answers, and all is right, only slow.
//
// Idea. While nothing else is to be done, a guard is put in for a flow that software has
// just seen: it goes on to software, and the guard has to count it. A second one is for the
// same flow from a station that nobody is, and must count nothing. Both go again as soon as
// they have shown that, or the opposite, or nothing for a while. A guard only punts, so
// neither can make a verdict wrong; the checker is asked all the same.
//
// A device without entries that punt has no canary, nor has one without room for two more.
// One that refuses either entry has shown nothing by that: the other goes again at once.

// canaryPace is how long a device is left alone between two canaries.
const canaryPace = time.Minute

// canaryWait is how long a canary waits for packets.
const canaryWait = 30 * time.Second

// nobody is the source address that no station has.
const nobody = 0x02b1adffffff

// CanaryStatus counts canaries that were sent into devices.
type CanaryStatus struct {
	Right uint64 `json:"right"`
	Wrong uint64 `json:"wrong"`
	Open  uint64 `json:"open"` // whose flow ended too soon
}

// canary is one that is in a device, and when the next may go.
type canary struct {
	probe, idle flow.Entry // IDs are zero if none is in
	since, next time.Time
	seen        int       // packets of probe's that software saw
	asked       time.Time // when these were enough; zero if they were not yet
}

// verdict says what a canary has shown, by what its entries counted: whether it is done,
// and what is wrong, which is empty if nothing is or if nothing can be said.
func (k *canary) verdict(probe, idle flow.Counter, lag time.Duration, now time.Time) (done bool, wrong string) {
	switch {
	case idle.Packets > 0:
		return true, fmt.Sprintf("entry %s counted %d packets, and nobody sends such", ruleID(flow.RuleID(k.idle.ID)), idle.Packets)
	case probe.Packets > 0:
		return true, ""
	case !k.asked.IsZero() && now.After(k.asked.Add(lag)):
		return true, fmt.Sprintf("software saw %d packets that entry %s had to punt, and it counted none: the device lists entries that it does not ask", k.seen, ruleID(flow.RuleID(k.probe.ID)))
	}
	return now.After(k.since.Add(canaryWait)), ""
}

// end forgets one that is out; the next goes when it would have gone.
func (k *canary) end() { *k = canary{next: k.next} }

// alone reports whether operations do no more than take the canary out.
func (k *canary) alone(ops []offload.Op) bool {
	return !slices.ContainsFunc(ops, func(op offload.Op) bool {
		return op.Kind != offload.Remove || op.Entry.ID != k.probe.ID && op.Entry.ID != k.idle.ID
	})
}

// saw notes a packet that software saw.
func (k *canary) saw(key *flow.Key, at, now time.Time) {
	if k.probe.ID == 0 || !k.probe.Match.Matches(key) || !at.After(k.since.Add(switchWindow)) {
		return
	}
	if k.seen++; k.seen == patience {
		k.asked = now
	}
}

// canaries is called in a look that left nothing to do.
func (a *Agent) canaries(ctx context.Context) {
	now := a.Now()
	for _, c := range a.devices {
		switch k := &c.canary; {
		case a.Samples == nil || c.left == nil:
		case k.next.IsZero():
			k.next = now.Add(canaryPace)
		case k.probe.ID == 0 && !now.Before(k.next):
			a.release(ctx, c)
		case k.probe.ID != 0:
			done, wrong := k.verdict(c.ledger.live[k.probe.ID], c.ledger.live[k.idle.ID], c.model.CounterLag, now)
			if !done {
				continue
			}
			switch {
			case wrong != "":
				a.canary.Wrong++
				a.event(eventCanary, c.Name, wrong)
			case c.ledger.live[k.probe.ID].Packets > 0:
				a.canary.Right++
			default:
				a.canary.Open++
			}
			a.withdraw(ctx, c, k.probe, k.idle)
			k.end()
		}
	}
}

// probing makes the entry of a canary that has to count the packets of k's flow. ok is false
// if the device cannot hold it, or holds another that may get some of them first: a guard
// for stations is as high, and of two as high any may be asked.
func probing(installed []flow.Entry, m *device.Model, k *flow.Key) (probe flow.Entry, ok bool) {
	probe, ok = offload.Canary(m, k)
	return probe, ok && !slices.ContainsFunc(installed, func(e flow.Entry) bool {
		return (m.Order != device.Honoured || e.Priority >= probe.Priority) && e.Match.Overlaps(&probe.Match)
	})
}

// release puts a canary into a device.
func (a *Agent) release(ctx context.Context, c *card) {
	c.canary = canary{next: a.Now().Add(canaryPace)}
	key, m := a.sampled.open, a.limited(c)
	full := m.Entries > 0 && len(c.installed)+2 > m.Entries
	if key == (flow.Key{}) || full || !m.Has(flow.Port(key.Get(flow.InPort))) {
		return
	}
	a.sampled.open = flow.Key{}
	probe, ok := probing(c.installed, &m, &key)
	key.Set(flow.SrcMAC, nobody)
	idle, also := offload.Canary(&m, &key)
	if !ok || !also || idle.Match.Overlaps(&probe.Match) {
		return
	}
	pair := []flow.Entry{probe, idle}
	if a.check(a.running, slices.Concat(c.installed, pair), c.model) != nil {
		return
	}
	if !a.putIn(ctx, c, pair) {
		c.canary.end()
		return
	}
	c.canary.probe, c.canary.idle, c.canary.since = probe, idle, a.Now()
}

// putIn puts guards in that no plan has, all or none.
func (a *Agent) putIn(ctx context.Context, c *card, guards []flow.Entry) (whole bool) {
	var ops []offload.Op
	for i := range guards {
		ops = append(ops, offload.Op{Kind: offload.Add, Entry: guards[i]})
	}
	var in []flow.Entry
	whole = true
	for i, out := range c.Driver.Apply(ctx, ops) {
		if out.Status != offload.Refused { // one that may be there goes like one that is
			in = append(in, guards[i])
		}
		whole = whole && out.Status == offload.Done
	}
	c.left = append(slices.Clip(c.left), in...)
	if !whole {
		a.withdraw(ctx, c, in...)
	}
	return whole
}

// withdraw takes guards out that no plan has, and returns how many packets each punted; known
// is false if not all of them have said so.
func (a *Agent) withdraw(ctx context.Context, c *card, in ...flow.Entry) (punted map[flow.EntryID]uint64, known bool) {
	var ops []offload.Op
	for i := range in {
		ops = append(ops, offload.Op{Kind: offload.Remove, Entry: in[i]})
	}
	var out []flow.Entry
	punted, known = map[flow.EntryID]uint64{}, true
	for i, o := range c.Driver.Apply(ctx, ops) {
		known = known && o.Status == offload.Done
		switch {
		case o.Status == offload.Done:
			c.ledger.close(&in[i], o.Final, a.running)
			punted[in[i].ID] = o.Final.Packets
		case o.Status == offload.Unknown:
			c.doubt, a.steady = append(c.doubt, in[i]), false
		case o.Code != offload.CodeMissing:
			a.steady = false
			continue // it is still there, and no plan has it: the next round takes it out
		}
		out = append(out, in[i])
	}
	c.left = without(c.left, out)
	return punted, known
}

// decide takes those entries for left that had to go, of which no answer came, and that
// the dump shows: nobody else put them in. No plan has them, so the round takes them out.
func (c *card) decide() {
	there, left := byID(c.installed), byID(c.left)
	for i := range c.doubt {
		e := &c.doubt[i]
		if is := there[e.ID]; is != nil && is.Equal(e) && left[e.ID] == nil {
			c.left = append(slices.Clip(c.left), *e)
		}
	}
	c.doubt = nil
}
