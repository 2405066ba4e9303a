package hwtests

import (
	"context"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// ConserveConfig says what [Conserve] sends.
type ConserveConfig struct {
	Packets int
	Rate    int      // frames per second to begin with
	Rules   int      // random rules of the blade
	Entries int      // size of the card's table
	Seed    uint64   // of rules and packets
	Source  string   // see [Config.Source]
	Plug    lab.Plug // see [lab.Config]
	Say     func(format string, a ...any)
}

// Conserved is what [Conserve] found.
type Conserved struct {
	Packets    PacketCount `json:"packets"`
	Rules      RuleCount   `json:"rules"`
	Mismatches int         `json:"mismatches"` // frames, and rules whose counters do not add up
	Rate       int         `json:"rate"`       // at which nothing was lost
	Foreign    uint64      `json:"foreign"`    // frames seen that are not ours
	Different  []string    `json:"different,omitempty"`
}

// Conserve sends packets through one blade with random rules and checks that nothing
// appears or disappears: every frame leaves as flow.Judge says, and for every rule the
// packets and bytes counted in hardware and in software are, together and exactly,
// those that were sent.
func Conserve(ctx context.Context, c ConserveConfig) (*Conserved, error) {
	ch, err := Start(ctx, Config{Source: c.Source, Config: lab.Config{Blades: 1, VFs: 4, Entries: c.Entries, Sequences: c.Packets, Plug: c.Plug}})
	if err != nil {
		return nil, err
	}
	r := &Conserved{}
	err = r.run(ctx, c, ch)
	if stopped := ch.Stop(); err == nil {
		err = stopped
	}
	return r, err
}

func (r *Conserved) run(ctx context.Context, c ConserveConfig, ch *Chassis) error {
	b := ch.Blades[0]
	d, err := newDice(c.Seed, b.Blade)
	if err != nil {
		return err
	}
	rules := d.rules(c.Rules)
	t, err := d.table(1, rules)
	if err != nil {
		return err
	}
	if err := b.Want(ctx, t); err != nil {
		return err
	}
	streams := d.frames(rules, 2000)
	r.Rate, err = ch.Lossless(c.Rate, func(rate int) error {
		c.Say("sending %d packets at %d per second", c.Packets, rate)
		ch.Reset()
		before, err := b.counters(ctx)
		if err != nil {
			return err
		}
		burst, err := ch.Send(ctx, streams, 0, c.Packets, rate, nil)
		if err != nil {
			return err
		}
		after, err := b.counters(ctx)
		if err != nil {
			return err
		}
		*r = Conserved{}
		return r.compare(ch, burst, t, before, after)
	})
	return err
}

// places is what a rule has counted in each place.
type places struct{ hardware, software flow.Counter }

// counters has the agent read everything and returns what each rule has counted.
func (b *Blade) counters(ctx context.Context) (map[string]places, error) {
	if err := b.Agent.Reconcile(ctx); err != nil {
		return nil, err
	}
	out := map[string]places{}
	for _, r := range b.Agent.Status().Rules {
		out[r.Name] = places{flow.Counter(r.Hardware), flow.Counter(r.Software)}
	}
	return out, nil
}

func (r *Conserved) compare(ch *Chassis, burst *Burst, t *flow.Table, before, after map[string]places) error {
	diffs, total, counted, err := ch.Compare(burst, []*flow.Table{t})
	if err != nil {
		return err
	}
	r.Mismatches = total
	for i := range diffs {
		r.Different = append(r.Different, diffs[i].String())
	}
	for i := range t.Len() + 1 {
		rule := t.Rule(i)
		was, is, want := before[rule.Name], after[rule.Name], counted[0][rule.ID]
		hw := flow.Counter{Packets: is.hardware.Packets - was.hardware.Packets, Bytes: is.hardware.Bytes - was.hardware.Bytes}
		sw := flow.Counter{Packets: is.software.Packets - was.software.Packets, Bytes: is.software.Bytes - was.software.Bytes}
		r.Packets.Sent += want.Packets
		r.Packets.Hardware += hw.Packets
		r.Packets.Software += sw.Packets
		if hw.Packets > 0 {
			r.Rules.Hardware++
		} else {
			r.Rules.Software++
		}
		if hw.Packets+sw.Packets != want.Packets || hw.Bytes+sw.Bytes != want.Bytes {
			r.Mismatches++
			r.Different = append(r.Different, fmt.Sprintf("rule %s counted %v in hardware and %v in software, should be %v together", rule.Name, hw, sw, want))
		}
	}
	for _, s := range ch.spots() {
		totals := ch.observer(s).Totals()
		r.Foreign += totals.Foreign
		if totals.Beyond > 0 {
			r.Mismatches++
			r.Different = append(r.Different, fmt.Sprintf("blade %d port %d: %d frames with sequence numbers that were not sent", s.Blade+1, s.Port, totals.Beyond))
		}
	}
	return nil
}
