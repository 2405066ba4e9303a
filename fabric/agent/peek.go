package agent

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Looking under entries: the audit of a card that answers less than it says.
//
// Problem. A card may list an entry, take it for granted that it holds it, and let pass what
// it should have answered: it never looks at one of its keys, or gets one wrong. Where the
// next entry below answers such a packet, that is wrong, above all below a guard, which is
// there so that nothing below it is asked. Software never sees the packet, all dumps are as
// they should be, the counters of the entry that answered say what it did, and what left by
// its port is explained by it.
//
// Idea. By the proof, each packet that an entry answers is its rule's. So for a moment a guard
// with the same match is put in right above the entry: what would have been answered goes to
// software, which judges it by the whole table. If it gives some of these packets to other
// rules, the entry has been answering packets of theirs. That is tried where something is
// above the entry that would have had to take packets from it, first where no entry of that
// kind (of the same mask) has ever counted a packet: a card that is blind to a key never
// counts for any entry that has it.
//
// A guard only punts: no verdict is ever wrong by it. What it costs is that the packets of
// [peekRoom] entries, [peekRate] a second at most, are answered by software for a second, or
// until the look in which [peekEnough] have come, and looks come soon then ([Agent.hasten]). An
// entry with more traffic is looked under in part.
//
// Invariant. No peek accuses a card that does what it says. Two things have to show, in
// [peekTimes] of [peekMost] cycles of guards that go in and out: that the guards punted more
// packets than software then judged by their rules, those counted that would have come anyway and
// those that were lost; and that frames came while they were in, and hardly while they were out, for
// as long, which the guards match and entries above that have never counted a packet. The first
// alone may be a loss on the way, the second alone traffic that begins, or such as the device misses
// whatever it holds. One cycle in which such frames came without the guards ends it.
//
// What it does not see: entries that are wrong by fewer packets than software's of the same rule
// vary by; entries above that take some of their packets and not others, or have taken some before.
// Where there is no room for one more entry, or no way to punt, nothing is looked at; what no packet
// has met yet is said in the status.

const (
	peekRoom   = 4           // entries that are looked under at a time
	peekRate   = 20_000      // packets a second that go to software for it
	peekTimes  = 3           // cycles that have to find the same
	peekMost   = 6           // and that are made at most
	peekTime   = time.Second // how long guards stay in
	peekEnough = 200         // or until they have punted so many packets
	peekFrames = 4096        // of software that are looked at in one look, at most
	peekShort  = time.Second // how long no peek is made after one that found nothing; twice as long after the next, …
	peekLong   = 4 * time.Second
	peekPace   = time.Minute // how often it is looked under entries below others that have counted nothing, of any kind
	peekWork   = 1 << 18     // comparisons of entries in one look: a few ms
)

// PeekStatus counts looks under entries of devices.
type PeekStatus struct {
	Right uint64 `json:"right"`
	Wrong uint64 `json:"wrong"` // that showed that entries answered packets of other rules
	Open  uint64 `json:"open"`  // in which no packets came, or the device took no guard
}

// peek is one that is under way in a device, and what is remembered of those before.
type peek struct {
	phase  peekPhase
	probes []probe
	marks  [3]mark
	out    time.Time               // when they were taken out
	punted map[flow.EntryID]uint64 // by the probes, in the end

	met    map[device.Mask]bool       // kinds of entries that have counted packets
	next   time.Time                  // when one may go for the sake of kinds that were not met
	wait   time.Duration              // until then, last time
	also   time.Time                  // when one may go all the same
	looked map[flow.EntryID]time.Time // when it was looked under an entry, since entries changed
	cycles int                        // of the peek that is under way
}

// evidence is what the cycles of a peek have shown of one probe.
type evidence struct {
	strikes int
	excess  uint64 // packets that were punted and did not come to the rule
	in, out int    // frames that entries above should have taken, in this cycle: while the guard was in, and out
	frames  int    // those while they were in, in all cycles
	vain    bool   // such came as well without them
}

// probe is a guard above an entry.
type probe struct {
	guard, under flow.Entry
	evidence
}

// peekPhase is what has been done for a peek. A look does one thing more.
type peekPhase int

const (
	peekIdle  peekPhase = iota
	peekIn              // the guards are in
	peekOut             // they are out, and what they punted may not be judged yet
	peekAfter           // it is judged, and what software judges without guards is counted once more
)

// mark is what software had judged at a time.
type mark struct {
	at   time.Time
	came map[flow.RuleID]uint64
	lost uint64 // before it was judged
}

// mark reads it.
func (a *Agent) mark() mark {
	m := mark{at: a.Now(), came: map[flow.RuleID]uint64{}}
	for _, part := range []map[flow.RuleID]flow.Counter{a.Datapath.Judged(), a.Datapath.Cached()} {
		for id, n := range part {
			m.came[id] += n.Packets
		}
	}
	st := a.Datapath.Stats()
	m.lost = st.Early + st.Short
	for _, l := range st.Links {
		m.lost += l.Dropped
	}
	if st.Cache != nil {
		for _, p := range st.Cache.Ports {
			m.lost += p.Unheard + p.Limited
		}
	}
	return m
}

// without returns entries without the guards of a peek.
func (k *peek) without(entries []flow.Entry) []flow.Entry {
	if len(k.probes) == 0 {
		return entries
	}
	return slices.DeleteFunc(slices.Clone(entries), func(e flow.Entry) bool {
		return slices.ContainsFunc(k.probes, func(p probe) bool { return p.guard.ID == e.ID })
	})
}

// took reports whether a packet that software judged at a time may have come because of a peek.
func (k *peek) took(key *flow.Key, at time.Time) bool {
	return k.phase >= peekIn && !at.Before(k.marks[1].at) && (k.phase == peekIn || at.Before(k.out.Add(switchWindow))) && slices.ContainsFunc(k.probes, func(p probe) bool { return p.guard.Match.Matches(key) })
}

// sofar returns how many packets the guards have punted.
func (k *peek) sofar(l *ledger) (n uint64) {
	for _, p := range k.probes {
		n += l.live[p.guard.ID].Packets
	}
	return n
}

// reset forgets a peek that is under way: its guards are out.
func (k *peek) reset() { k.phase, k.probes, k.cycles = peekIdle, nil, 0 }

// peeking reports whether a peek is under way. What rules are hot is not acted on meanwhile.
func (a *Agent) peeking() bool {
	return slices.ContainsFunc(a.devices, func(c *card) bool { return c.peek.phase != peekIdle })
}

// peeks is called at the end of a round that left nothing to do. One device at a time is looked
// into. One that is trusted no more for what is found loses its entries at once.
func (a *Agent) peeks(ctx context.Context) error {
	for _, c := range a.devices {
		if c.peek.phase == peekIdle {
			continue
		}
		if a.proceed(ctx, c); a.limited(c).Barred == nil || a.steady {
			return nil
		}
		err := a.change(ctx, &Wanted{Table: a.running, Digest: a.digest, Record: a.record})
		a.steady = err == nil
		return err
	}
	a.start(ctx)
	return nil
}

// start begins a peek into the first device that has something to look under.
func (a *Agent) start(ctx context.Context) {
	for _, c := range a.devices {
		if a.Samples == nil || c.left == nil || !c.model.Punt || !c.model.Counters || c.usage.foreign > 0 || a.limited(c).Barred != nil {
			continue
		}
		c.meet()
		k := &c.peek
		k.marks[0], k.marks[1] = k.marks[1], a.mark() // of the last look, and of this
		if k.marks[0].came == nil || !a.choose(c) {
			continue
		}
		if k.phase = peekIn; !a.putProbes(ctx, c) {
			a.peek.Open++
			k.reset()
			continue
		}
		a.hasten(1)
		return
	}
}

// proceed does the next thing for a peek.
func (a *Agent) proceed(ctx context.Context, c *card) {
	k := &c.peek
	switch k.phase {
	case peekIn:
		if a.Now().Sub(k.marks[1].at) < peekTime && k.sofar(c.ledger) < peekEnough {
			break
		}
		punted, ok := a.takeProbes(ctx, c)
		if !ok {
			a.peek.Open++
			k.reset()
			return
		}
		k.punted, k.out, k.phase = punted, a.Now(), peekOut
	case peekOut:
		k.marks[2], k.phase = a.mark(), peekAfter
	case peekAfter:
		if a.Now().Sub(k.marks[2].at) < k.out.Sub(k.marks[1].at) {
			break
		}
		a.judgePeek(ctx, c, a.mark())
		return
	}
	a.hasten(1)
}

// putProbes puts the guards in, all or none, if the entries are still there.
func (a *Agent) putProbes(ctx context.Context, c *card) bool {
	k, there := &c.peek, byID(c.installed)
	var guards []flow.Entry
	for _, p := range k.probes {
		if is := there[p.under.ID]; is == nil || !is.Equal(&p.under) || there[p.guard.ID] != nil {
			return false
		}
		guards = append(guards, p.guard)
	}
	if a.check(a.running, slices.Concat(c.installed, guards), c.model) != nil {
		return false
	}
	return a.putIn(ctx, c, guards)
}

// takeProbes takes them out and returns what they punted; ok is false if that is not known of
// all.
func (a *Agent) takeProbes(ctx context.Context, c *card) (punted map[flow.EntryID]uint64, ok bool) {
	var guards []flow.Entry
	for _, p := range c.peek.probes {
		guards = append(guards, p.guard)
	}
	return a.withdraw(ctx, c, guards...)
}

// glimpsed notes a frame that software judged, and that a guard of a peek takes or would take, if
// an entry above that has never counted a packet should have taken it.
func (c *card) glimpsed(key *flow.Key, at time.Time) {
	k := &c.peek
	in := k.phase >= peekIn && !at.Before(k.marks[1].at) && (k.phase == peekIn || at.Before(k.out))
	out := k.phase == peekAfter && !at.Before(k.marks[2].at)
	if !in && !out {
		return
	}
	var by *probe // whose guard takes it, or would
	for i := range k.probes {
		if p := &k.probes[i]; p.guard.Match.Matches(key) && (by == nil || p.guard.Priority > by.guard.Priority) {
			by = p
		}
	}
	if by == nil {
		return
	}
	var first *flow.Entry
	for i := range c.installed {
		if e := &c.installed[i]; e.Priority > by.guard.Priority && (first == nil || e.Priority > first.Priority) && e.Match.Matches(key) {
			first = e
		}
	}
	switch {
	case first == nil || c.ledger.live[first.ID].Packets > 0:
	case in:
		by.in++
	default:
		by.out++
	}
}

// judgePeek says what a cycle has shown. As long as it is not sure the same guards go in again.
func (a *Agent) judgePeek(ctx context.Context, c *card, end mark) {
	k := &c.peek
	open, guilty := k.add(end)
	promising := slices.ContainsFunc(k.probes, func(p probe) bool { return p.excess > 0 && !p.vain })
	switch {
	case guilty != nil:
		a.peek.Wrong++
		a.distrust(c, guilty.accuse(a.running))
	case promising && k.cycles < peekMost && a.putProbes(ctx, c):
		k.marks[0], k.marks[1], k.phase = k.marks[2], end, peekIn
		a.hasten(1)
		return
	case open:
		a.peek.Open++
	default:
		a.peek.Right++
	}
	k.wait = min(max(peekShort, 2*k.wait), peekLong)
	k.next, k.marks[1] = a.Now().Add(k.wait), end
	for _, p := range k.probes {
		k.looked[p.under.ID] = a.Now()
	}
	k.reset()
}

// accuse says in words what cycles have found.
func (p *probe) accuse(t *flow.Table) string {
	e := &p.under
	name := ruleID(e.Rule)
	if i, ok := t.Index(e.Rule); ok {
		name = t.Rule(i).Name
	}
	return fmt.Sprintf("%d packets or more that other rules have to judge came as far as entry %s of rule %s: entries above, which list such packets, did not take them", p.excess, ruleID(flow.RuleID(e.ID)), name)
}

// add adds what a cycle has shown. open says that nothing was punted; guilty is a probe that has
// shown enough, nil if there is none.
func (k *peek) add(end mark) (open bool, guilty *probe) {
	on, off := k.out.Sub(k.marks[1].at).Seconds(), max(1e-3, end.at.Sub(k.marks[2].at).Seconds())
	lost := k.marks[2].lost - k.marks[1].lost
	came := map[flow.RuleID]uint64{} // and not explained any punted packet yet
	open = true
	for i := range k.probes {
		p := &k.probes[i]
		id, n := p.under.Rule, k.punted[p.guard.ID]
		open = open && n == 0
		if _, known := came[id]; !known {
			all := k.marks[2].came[id] - k.marks[1].came[id]
			came[id] = all - min(all, k.usual(end, id))
		}
		own := min(n, came[id])
		came[id] -= own
		excess := n - own - min(n-own, lost)
		with, without := float64(p.in), float64(p.out)*on/off
		switch {
		case excess > 0 && with >= 2 && with > 4*without:
			p.strikes++
			p.excess, p.frames = p.excess+excess, p.frames+p.in
		case without >= 2 && with <= 2*without:
			p.vain = true
		case k.cycles == 0:
			p.excess = excess // something may be found yet
		}
		p.in, p.out = 0, 0
		if !p.vain && p.strikes >= peekTimes && p.excess >= leakPackets && p.frames >= leakPackets {
			guilty = p
		}
	}
	k.cycles++
	return open, guilty
}

// usual returns how many packets of a rule would have come to software without the guards, at
// least, by what came before and after.
func (k *peek) usual(end mark, id flow.RuleID) uint64 {
	n := float64(k.marks[1].came[id] - k.marks[0].came[id] + end.came[id] - k.marks[2].came[id])
	span := k.marks[1].at.Sub(k.marks[0].at) + end.at.Sub(k.marks[2].at)
	return uint64(max(0, n-4*math.Sqrt(n)) * k.marks[2].at.Sub(k.marks[1].at).Seconds() / max(1e-3, span.Seconds()))
}
