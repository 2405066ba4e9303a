package hwtests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/bladeflow/bladeflow/offload"
)

// KillsConfig says what [Kills] does.
type KillsConfig struct {
	Kills int // in the middle of an update; those that come too late are made up for
	Seed  uint64
	Agent func(config string) *exec.Cmd // a `bladeflow agent`, not started
	Say   func(format string, a ...any)
}

// Killed is what [Kills] found. A kill was in an update if the journal says so.
type Killed struct {
	Kills      int            `json:"kills"`
	InUpdate   int            `json:"in_update"`   // of the kills
	Updates    int            `json:"updates"`     // rule sets that came into force, in the end
	Phases     map[string]int `json:"phases"`      // kills by the phase of the update
	InRecovery int            `json:"in_recovery"` // of the kills: before the agent had put right what the one before left
	Again      int            `json:"again"`       // of the kills: while the card alone was changed, for a generation in force
	Halfway    int            `json:"halfway"`     // of the kills: in the middle of writing a line of the card's table

	Unsound int `json:"unsound"` // dumps that the checker refused, after a kill or a recovery
	Mixed   int `json:"mixed"`   // dumps after a kill in recovery with answers of the table before and of the one after
	Kept    int `json:"kept"`    // entries that an update had no reason to take out, of all updates
	Flushed int `json:"flushed"` // of them, that a kill or a recovery took out
	Foreign int `json:"foreign"` // dumps in which entries of others were changed

	Before     float64   `json:"hits_before"` // mean share of packets that the card answered before the kills
	Lowest     float64   `json:"hits_lowest"` // after a restart
	Back       Quantiles `json:"back"`        // from a restart, until the share was at 95 % of that before for good
	Settled    Quantiles `json:"settled"`     // until the rules were in force and proved
	Late       int       `json:"late"`        // restarts after which it took longer than backGoal
	UpdateTook float64   `json:"update_seconds"`
	Different  []string  `json:"different,omitempty"`
}

// Quantiles are times in seconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func quantiles(all []time.Duration) (q Quantiles) {
	if len(all) == 0 {
		return q
	}
	slices.Sort(all)
	at := func(p int) float64 { return all[(len(all)-1)*p/100].Seconds() }
	return Quantiles{at(50), at(99), at(100)}
}

// backGoal is how soon after a restart hardware should answer what it did before, and
// backShare how much of it.
const (
	backGoal  = 2 * time.Second
	backShare = 0.95
)

// The rules of [Kills]: hotRules that nothing overlaps and all traffic is for, of which
// every update changes half, and otherRules that overlap, some of which it replaces.
const (
	hotRules    = 64
	otherRules  = 60
	otherEdits  = 10
	killTraffic = 4000 // packets per second
)

// Kills ends an agent with SIGKILL in the middle of updates and looks at what is left in
// the card each time: the checker must agree with it under the table that was in force,
// which the journal tells; of the entries that the update was to keep each must be there,
// and must not have begun to count anew when the next agent is done; and entries of others
// must be as they were.
//
// One restart in three is killed, too, while it recovers. An agent that recovers knows only
// the rules that are wanted: until its software has them, none is asked, and what it takes
// out of the card has to leave each answer right under the table before or the one after,
// but not all of them under one.
func Kills(ctx context.Context, c KillsConfig) (*Killed, error) {
	l, err := lab.Up(ctx, lab.Config{Blades: 1, VFs: 4, Sequences: 1})
	if err != nil {
		return nil, err
	}
	k := &killing{KillsConfig: c, report: &Killed{Phases: map[string]int{}, Lowest: 1}}
	err = k.run(ctx, l.Blades[0])
	return k.report, errors.Join(err, l.Down())
}

// killing is one run of Kills.
type killing struct {
	KillsConfig
	*mortal
	*dice
	gauge      gauge
	rules      []flow.Rule // the hot ones first
	wanted     *agent.Wanted
	generation uint64       // of wanted, once it was in force
	others     []flow.Entry // what the card holds that is not bladeflow's

	took          time.Duration // an update that nobody disturbs
	writes        uint64        // how often it writes the card's table
	before        float64       // sum of all shares before a kill
	back, settles []time.Duration
	report        *Killed
}

func (k *killing) run(ctx context.Context, b *lab.Blade) error {
	dir, err := os.MkdirTemp("", "bladeflow-kills")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if k.mortal, err = newMortal(b, dir, k.Agent, fmt.Sprintf("device: {softnic: %s}", b.PinDir), nil); err != nil {
		return err
	}
	defer k.output.Close()
	if k.dice, err = newDice(k.Seed, b); err != nil {
		return err
	}
	if err := k.strangers(ctx); err != nil {
		return err
	}
	k.firstRules()
	if k.wanted, err = k.mortal.write(k.rules); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	defer done.Wait()
	defer stop()
	done.Go(func() { k.gauge.watch(ctx, b.NIC) })
	sent := make(chan error, 1)
	done.Go(func() { sent <- k.send(ctx) })
	err = k.cycles(ctx)
	if killed := k.kill(); err == nil {
		err = killed
	}
	select {
	case failed := <-sent:
		err = errors.Join(err, failed)
	default:
	}
	return err
}

// strangers puts entries into the card that are not bladeflow's.
func (k *killing) strangers(ctx context.Context) error {
	var stranger, punt flow.Match
	stranger.Pin(flow.EthType, 0x88b5, 0xffff)
	punt.Pin(flow.EthType, 0x88b6, 0xffff)
	k.others = []flow.Entry{{ID: 2, Kind: flow.GuardEntry, Priority: 8, Match: punt},
		{ID: 1, Kind: flow.RuleEntry, Rule: flow.NewRuleID("random", "strange"), Priority: 7, Match: stranger, Actions: flow.Actions{{Op: flow.Drop}}}}
	var ops []offload.Op
	for _, e := range k.others {
		ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
	}
	for _, o := range k.mortal.blade.NIC.Apply(ctx, ops) {
		if o.Status != offload.Done {
			return fmt.Errorf("an entry of somebody else: %+v", o)
		}
	}
	return nil
}

// firstRules makes the rules to begin with. One agrees with the stranger's entry.
func (k *killing) firstRules() {
	rule := func(name string, priority int, m flow.Match, a flow.Action) {
		k.rules = append(k.rules, flow.Rule{Name: "random/" + name, Priority: int32(priority), Match: m, Actions: flow.Actions{a}})
	}
	const above = 200_000_000 // all random rules
	for i := range hotRules {
		var m flow.Match
		m.Pin(flow.InPort, uint64(lab.Uplink+1), flow.InPort.Max())
		m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		m.Pin(flow.Proto, flow.ProtoUDP, 0xff)
		m.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
		m.SetPorts(flow.DstPort, hotPort(i), hotPort(i))
		rule(fmt.Sprintf("hot%d", i), above+i, m, k.hotAction())
	}
	rule("strange", above+hotRules, k.others[1].Match, flow.Action{Op: flow.Drop})
	k.rules = append(k.rules, k.dice.rules(otherRules)...)
}

func hotPort(i int) uint16 { return uint16(20000 + i) }

// hotAction sends to one of the ports that the traffic does not come from.
func (k *killing) hotAction() flow.Action {
	return flow.Action{Op: flow.Output, Ports: []flow.Port{lab.Uplink + 2 + flow.Port(k.IntN(3))}}
}

// edit makes the next rules.
func (k *killing) edit() {
	k.rules = slices.Clone(k.rules)
	for i := range hotRules {
		if k.oneIn(2) {
			k.rules[i].Actions = flow.Actions{k.hotAction()}
		}
	}
	for range otherEdits {
		k.rules[hotRules+1+k.IntN(otherRules)] = k.dice.rules(1)[0]
	}
}

// send sends packets for the hot rules, some with options, which only software answers,
// and a few for the stranger's entry, until ctx ends.
func (k *killing) send(ctx context.Context) error {
	at := k.mortal.blade.At(lab.Uplink + 1)
	var frames [][]byte
	for i := range hotRules {
		p := k.key(at.Port)
		p.Set(flow.VLAN, 0)
		p.Set(flow.Proto, flow.ProtoUDP)
		p.Set(flow.DstPort, uint64(hotPort(i)))
		frames = append(frames, stampable(p))
		if i%8 == 0 {
			p.Set(flow.Flags, p.Get(flow.Flags)|flow.FlagOdd)
			frames = append(frames, stampable(p))
		}
	}
	frames = append(frames, append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, make([]byte, 50)...))
	s, err := at.Sender()
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Send(ctx, traffic.Load{Frames: traffic.Cycle(frames...), Count: 1 << 40, Rate: killTraffic})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// cycles starts the agent, measures an update that is left alone, and kills.
func (k *killing) cycles(ctx context.Context) error {
	if err := k.start(); err != nil {
		return err
	}
	if err := k.settle(ctx); err != nil {
		return err
	}
	if err := k.measure(ctx); err != nil {
		return err
	}
	k.Say("an update writes the card %d times and takes %s; killing %d times", k.writes, k.took.Round(time.Millisecond), k.Kills)
	for k.report.InUpdate < k.Kills {
		if err := k.cycle(ctx); err != nil {
			return fmt.Errorf("kill %d: %w", k.report.Kills, err)
		}
	}
	r := k.report
	r.Before = k.before / float64(r.Updates)
	r.Back, r.Settled, r.UpdateTook = quantiles(k.back), quantiles(k.settles), k.took.Seconds()
	return nil
}

// measure has the agent make an update in peace.
func (k *killing) measure(ctx context.Context) error {
	old := k.journal()
	writes := k.mortal.blade.NIC.Generation()
	k.edit()
	var err error
	if k.wanted, err = k.mortal.write(k.rules); err != nil {
		return err
	}
	begin := k.begun(ctx, old)
	for k.journal().Phase != "done" && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	k.took = time.Since(begin)
	k.writes = k.mortal.blade.NIC.Generation() - writes
	return k.settle(ctx)
}

// settle waits until what is wanted is in force and proved.
func (k *killing) settle(ctx context.Context) error {
	s, err := k.settled(ctx, k.wanted)
	k.generation = s.Generation
	return err
}

// begun waits until the journal is not as it was any more, or for too long, and returns
// when that was.
func (k *killing) begun(ctx context.Context, old noted) time.Time {
	for limit := time.Now().Add(settleLimit); ctx.Err() == nil && time.Now().Before(limit); time.Sleep(200 * time.Microsecond) {
		if k.journal() != old {
			break
		}
	}
	return time.Now()
}

// cycle is one update with one kill or more.
func (k *killing) cycle(ctx context.Context) error {
	before, err := k.answered(ctx)
	if err != nil {
		return err
	}
	was, err := k.held(ctx)
	if err != nil {
		return err
	}
	change := change{old: k.wanted.Table, generation: k.generation, journal: k.journal()}
	k.edit()
	next, err := k.mortal.write(k.rules)
	if err != nil {
		return err
	}
	k.wanted, change.next = next, next.Table

	writes := k.mortal.blade.NIC.Generation()
	k.begun(ctx, change.journal)
	if k.oneIn(2) { // after so many writes, or after some time: most of it is spent waiting
		until := writes + k.Uint64N(k.writes+1)
		for limit := time.Now().Add(2 * k.took); k.mortal.blade.NIC.Generation() < until && time.Now().Before(limit); {
			time.Sleep(10 * time.Microsecond)
		}
	} else {
		time.Sleep(time.Duration(k.Int64N(int64(k.took))))
	}
	var left []held
	after := func() error {
		if err := k.kill(); err != nil {
			return err
		}
		h, err := k.inspect(ctx, &change)
		left = append(left, h)
		return err
	}
	if err := after(); err != nil {
		return err
	}
	change.recovering = true
	k.gauge.forget()
	restart := time.Now()
	if err := k.start(); err != nil {
		return err
	}
	for k.oneIn(3) && k.report.InUpdate < k.Kills {
		time.Sleep(time.Duration(k.Int64N(int64(settleMost(k.settles)))))
		k.report.InRecovery++
		if err := after(); err != nil {
			return err
		}
		restart = time.Now()
		if err := k.start(); err != nil {
			return err
		}
	}
	if err := k.settle(ctx); err != nil {
		return err
	}
	k.settles = append(k.settles, time.Since(restart))
	time.Sleep((window + 1) * gaugePace)
	return k.compare(ctx, was, left, &change, before, restart)
}

// answered returns the share of packets that the card answers, of 200 of them or more: a sender
// may get no processor for a while.
func (k *killing) answered(ctx context.Context) (float64, error) {
	k.gauge.forget()
	for limit := time.Now().Add(settleLimit); ; {
		time.Sleep(150 * time.Millisecond)
		share, packets, err := k.gauge.share()
		if err != nil || packets >= 200 {
			return share, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if time.Now().After(limit) {
			return 0, fmt.Errorf("%d packets came to the card in %s", packets, settleLimit)
		}
	}
}

// settleMost is the longest that a restart took of late, or a guess.
func settleMost(settles []time.Duration) time.Duration {
	most := 300 * time.Millisecond
	for _, d := range settles[max(0, len(settles)-20):] {
		most = max(most, d)
	}
	return most
}

// change is one update, and how far it came.
type change struct {
	old, next  *flow.Table
	generation uint64 // of old
	journal    noted  // before it
	swapped    bool   // next is in force
	recovering bool   // the agent was killed once
}

// inForce returns the table by which packets are judged, as far as anybody can know from
// the journal: an agent notes the swap right after it, before it puts in anything that is
// not right under both tables. What it does later for the same generation is a change, too,
// of the card alone.
func (c *change) inForce(now noted) *flow.Table {
	if now.To > c.generation && (now.Phase != "retire" || now.From == now.To) {
		c.swapped = true
	}
	if c.swapped {
		return c.next
	}
	return c.old
}

// inspect looks at what an agent left that was just killed.
func (k *killing) inspect(ctx context.Context, c *change) (held, error) {
	r := k.report
	r.Kills++
	if k.mortal.blade.NIC.HalfWritten() {
		r.Halfway++
	}
	now := k.journal()
	table, phase := c.inForce(now), now.Phase
	if now == c.journal {
		phase = "not begun"
	}
	if r.Phases[phase]++; phase == "retire" || phase == "promote" {
		r.InUpdate++
	}
	if now.From == now.To && (phase == "retire" || phase == "promote") {
		r.Again++
	}
	h, err := k.held(ctx)
	if err != nil {
		return h, err
	}
	all := h
	if c.recovering && table == c.old && k.sound(ctx, h, table) != nil {
		r.Mixed++
		if h, err = k.without(ctx, h, c.next); err != nil {
			return h, err
		}
	}
	k.judge(ctx, fmt.Sprintf("after kill %d, in phase %s", r.Kills, phase), h, table)
	return all, nil
}

// without returns a dump with a punt in place of each entry that is right under a table:
// what is left are the answers that another table has to explain.
func (k *killing) without(ctx context.Context, h held, t *flow.Table) (held, error) {
	model, err := k.mortal.blade.NIC.Model(ctx)
	if err != nil {
		return h, err
	}
	wrong := map[flow.EntryID]bool{}
	for _, op := range offload.NewPlan(t, t, h.entries, model, nil).Retire {
		wrong[op.Entry.ID] = true
	}
	h.entries = slices.Clone(h.entries)
	for i := range h.entries {
		if e := &h.entries[i]; offload.Ours(e.ID) && !wrong[e.ID] {
			e.Kind, e.Actions = flow.GuardEntry, nil
		}
	}
	return h, nil
}

// judge holds a dump against a table and against what others put in.
func (k *killing) judge(ctx context.Context, when string, h held, t *flow.Table) {
	if err := k.sound(ctx, h, t); err != nil {
		k.report.Unsound++
		k.differ("%s: %v", when, err)
	}
	if got := h.foreign(); !slices.EqualFunc(got, k.others, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		k.report.Foreign++
		k.differ("%s: entries of others are %v", when, got)
	}
}

func (k *killing) differ(format string, a ...any) {
	if r := k.report; len(r.Different) < 10 {
		r.Different = append(r.Different, fmt.Sprintf(format, a...))
	}
}

// compare looks at the blade when the last agent is done.
func (k *killing) compare(ctx context.Context, was held, left []held, c *change, before float64, restart time.Time) error {
	r := k.report
	now, err := k.held(ctx)
	if err != nil {
		return err
	}
	k.judge(ctx, fmt.Sprintf("recovered from kill %d", r.Kills), now, c.next)
	kept, err := k.kept(ctx, was, now, c)
	if err != nil {
		return err
	}
	r.Kept += len(kept)
	for _, h := range append(left, now) {
		if lost := h.since(was, kept); len(lost) > 0 {
			r.Flushed += len(lost)
			k.differ("around kill %d, of %d entries that were to stay, %d went: %x", r.Kills, len(kept), len(lost), lost)
		}
		was = h
	}
	back, lowest := k.gauge.below(restart, backShare*before)
	k.back = append(k.back, back)
	k.before += before
	r.Lowest = min(r.Lowest, lowest)
	if r.Updates++; back > backGoal {
		r.Late++
	}
	if before < 0.5 {
		return fmt.Errorf("the card answers %.0f %% of the packets, which says nothing: the agents said: %s", 100*before, k.said())
	}
	return nil
}

// kept returns the entries that an update had no reason to take out, not even for a
// moment: those that were there and are, less what has to go before the swap.
func (k *killing) kept(ctx context.Context, was, now held, c *change) (out []flow.Entry, err error) {
	model, err := k.mortal.blade.NIC.Model(ctx)
	if err != nil {
		return nil, err
	}
	passing := map[flow.EntryID]bool{}
	for _, op := range offload.NewPlan(c.old, c.next, was.entries, model, nil).Retire {
		passing[op.Entry.ID] = true
	}
	for _, e := range was.entries {
		if !passing[e.ID] && slices.ContainsFunc(now.entries, func(o flow.Entry) bool { return o.ID == e.ID && o.Equal(&e) }) {
			out = append(out, e)
		}
	}
	return out, nil
}
