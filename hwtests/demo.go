package hwtests

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/offload"
)

//go:embed demo.yaml
var demoRules []byte

// DemoConfig says what [Demo] shows.
type DemoConfig struct {
	Blades, VFs int           // 2 and 4 if zero; at least 2 and 4
	Duration    time.Duration // how long traffic flows; 5 s if zero
	Rate        int           // frames per second, all ports together; 20,000 if zero
	Seed        uint64        // of the order of the traffic
	Source      string        // see [Config.Source]
	Plug        lab.Plug      // see [lab.Config]
	Blind       flow.Key      // bits of every mask that the cards ignore: silicon that lies
	Say         func(format string, a ...any)

	// Shown is called when all is shown and everything still runs. With Hold it runs on
	// until ctx ends, with a trickle of packets; that is no error.
	Shown func(*Report) error
	Hold  bool
}

// Report is what [Demo] found.
type Report struct {
	Blades     int          `json:"blades"`
	VFs        int          `json:"vfs"`
	Packets    PacketCount  `json:"packets"`
	Mismatches int          `json:"mismatches"` // frames or counters that are not what flow.Judge says
	Rules      RuleCount    `json:"rules"`
	Proved     bool         `json:"proved"` // the checker agreed with what every card holds
	Lost       uint64       `json:"lost"`   // frames lost on the way: a run that counts has none
	Rate       int          `json:"rate"`   // frames per second at which none was lost
	Actions    ActionPlaces `json:"actions"`
	Healed     []Healing    `json:"healed"`
	Where      []Where      `json:"where"`

	Fabric *FabricReport `json:"fabric"`

	Seconds   float64  `json:"seconds"`
	Different []string `json:"different,omitempty"` // the first mismatches in words
}

// PacketCount counts frames that came into blades; one that crosses from blade to
// blade comes into both.
type PacketCount struct {
	Sent     uint64 `json:"sent"`
	Hardware uint64 `json:"hardware"`
	Software uint64 `json:"software"`
}

// RuleCount counts rules, of all blades, by where they are answered: in hardware at
// least in part, or in software alone.
type RuleCount struct {
	Hardware int `json:"hardware"`
	Software int `json:"software"`
}

// ActionPlaces lists the actions that were carried out on packets in each place.
type ActionPlaces struct {
	Hardware []string `json:"hardware"`
	Software []string `json:"software"`
}

// Healing is an entry that was deleted behind an agent's back and came back.
type Healing struct {
	Blade   string  `json:"blade"`
	Rule    string  `json:"rule"`
	Seconds float64 `json:"seconds"` // until it was back and proved
}

// Where says where one rule of one blade lives, and what it answered.
type Where struct {
	Blade    string `json:"blade"`
	Rule     string `json:"rule"`
	Place    string `json:"place"` // hardware, mixed, software
	Code     string `json:"code,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Hardware uint64 `json:"hardware"`
	Software uint64 `json:"software"`
}

// OK reports whether the demo showed what it is to show.
func (r *Report) OK() bool { return r.Mismatches == 0 && r.Proved && r.Lost == 0 && r.Fabric.OK() }

// demoEntries is the size of each card's table in the demo.
const demoEntries = 128

// Demo is the main job on an emulated chassis: a manager is told what is wanted, an agent
// on each blade puts entries into the card and the rest into software, real packets go
// through both, also between blades; an entry deleted behind an agent's back is found and
// healed; and every frame that left is compared with flow.Judge. Then a profile is
// created, moved to another blade under traffic and brought back.
func Demo(ctx context.Context, c DemoConfig) (*Report, error) {
	started := time.Now()
	c.fill()
	count := int(c.Duration.Seconds() * float64(c.Rate))
	c.Say("building a chassis of %d blades with %d VFs each, with a manager and an agent on each blade", c.Blades, c.VFs)
	f, err := StartFabric(ctx, FabricConfig{Config: Config{Source: c.Source, Interval: 500 * time.Millisecond,
		Config: lab.Config{Blades: c.Blades, VFs: c.VFs, Entries: demoEntries, Plug: c.Plug, Sequences: min(max(count, 1<<16), demoBurst)}}})
	if err != nil {
		return nil, err
	}
	d := &demo{DemoConfig: c, fabric: f, chassis: f.Chassis, report: Report{Blades: c.Blades, VFs: c.VFs, Healed: []Healing{}}}
	err = d.run(ctx, count)
	d.report.Seconds = time.Since(started).Seconds()
	if err == nil && c.Shown != nil {
		err = c.Shown(&d.report)
	}
	if err == nil && c.Hold {
		err = d.hold(ctx)
	}
	if stopped := f.Stop(); err == nil && stopped != nil {
		err = fmt.Errorf("taking the chassis down: %w", stopped)
	}
	return &d.report, err
}

func (c *DemoConfig) fill() {
	c.Blades, c.VFs = max(c.Blades, 2), max(c.VFs, 4)
	if c.Duration == 0 {
		c.Duration = 5 * time.Second
	}
	if c.Rate == 0 {
		c.Rate = 20_000
	}
	if c.Say == nil {
		c.Say = func(string, ...any) {}
	}
}

type demo struct {
	DemoConfig
	fabric  *Fabric
	chassis *Chassis // of the fabric
	tables  []*flow.Table
	report  Report
	counted []Tally // what was sent without a loss
	lossy   []Tally // and with one: of these rules may have counted all, some or none
}

func (d *demo) run(ctx context.Context, count int) error {
	for _, b := range d.chassis.Blades {
		t, err := demoTable(b.Blade)
		if err != nil {
			return err
		}
		d.tables = append(d.tables, t)
		if err := b.Hardware.Lie(d.Blind); err != nil {
			return err
		}
	}
	if err := d.want(ctx); err != nil {
		return err
	}
	d.Say("rules and profiles are in: what every card holds is proved to agree with them")
	streams := demoStreams(d.chassis, d.tables, d.Seed)
	if err := d.traffic(ctx, streams, (count+1)/2); err != nil {
		return err
	}
	if err := d.heal(ctx); err != nil {
		return err
	}
	if err := d.traffic(ctx, streams, count/2); err != nil {
		return err
	}
	if err := d.sum(); err != nil {
		return err
	}
	return d.show(ctx)
}

// hold sends a trickle of packets until ctx ends, so that there is something to see. It
// takes turns of three seconds, because a port that a profile has left takes no packet.
func (d *demo) hold(ctx context.Context) error {
	streams := demoStreams(d.chassis, d.tables, d.Seed)
	turn := func() error {
		d.chassis.Reset()
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := d.chassis.Send(ctx, streams, 0, 2000, 1000, nil)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	for ctx.Err() == nil {
		if err := turn(); err != nil {
			return err
		}
	}
	return nil
}

// demoTable returns the table that demo.yaml means on a blade, made without asking
// the manager.
func demoTable(b *lab.Blade) (*flow.Table, error) {
	sets, err := ruleset.Decode(ruleset.YAML, "demo.yaml", demoRules, b.Ports)
	if err != nil {
		return nil, err
	}
	sw, err := b.Switch()
	if err != nil {
		return nil, err
	}
	return ruleset.Build(1, sw, b.Ports, sets...)
}

// demoBurst is how many frames are sent before they are compared: observers have room
// for so many, 32 bytes each, and each port has two.
const demoBurst = 100_000

// traffic sends count frames and compares what came of each, again at half the rate if
// some were lost on the way. What was counted of those that were not lost stays counted.
func (d *demo) traffic(ctx context.Context, streams []Stream, count int) error {
	for ; count > 0; count -= demoBurst {
		if err := d.burst(ctx, streams, min(count, demoBurst)); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) burst(ctx context.Context, streams []Stream, count int) error {
	wrong := 0
	var different []string
	var tries []Tally
	rate, err := d.chassis.Lossless(cmp.Or(d.report.Rate, d.Rate), func(rate int) error {
		again := ""
		if len(tries) > 0 {
			again = ", because some were lost on the way at twice that"
		}
		d.Say("sending %d packets at %d per second%s", count, rate, again)
		d.chassis.Reset()
		burst, err := d.chassis.Send(ctx, streams, 0, count, rate, nil)
		if err != nil {
			return err
		}
		diffs, total, counted, err := d.chassis.Compare(burst, d.tables)
		if err != nil {
			return err
		}
		wrong = total
		tries = append(tries, counted)
		different = nil
		for i := range diffs {
			different = append(different, diffs[i].String())
		}
		for _, b := range d.chassis.Blades {
			if err := b.Agent.Reconcile(ctx); err != nil {
				return fmt.Errorf("%s: %w", b.Name, err)
			}
		}
		return nil
	})
	d.report.Rate = rate
	if last := len(tries) - 1; last >= 0 {
		d.counted, d.lossy = append(d.counted, tries[last]), append(d.lossy, tries[:last]...)
	}
	d.report.Mismatches += wrong
	if room := 10 - len(d.report.Different); len(different) > room {
		different = different[:max(0, room)]
	}
	d.report.Different = append(d.report.Different, different...)
	return err
}

// heal deletes an entry of the first blade's card behind its agent's back and waits
// until it is there again.
func (d *demo) heal(ctx context.Context) error {
	b := d.chassis.Blades[0]
	have, err := b.Hardware.Installed(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(have, func(e flow.Entry) bool { return !e.Punt() && offload.Ours(e.ID) })
	if i < 0 {
		return fmt.Errorf("%s: the card holds no entry to delete", b.Name)
	}
	victim := have[i]
	at, _ := b.Datapath.Table().Index(victim.Rule)
	name := b.Datapath.Table().Rule(at).Name
	d.Say("deleting an entry of rule %s from the card of %s behind the agent's back", name, b.Name)
	start, before := time.Now(), b.Agent.Status().Drift.Healed
	for evicted := (time.Time{}); ; {
		// What goes in the middle of a change is put in again by that, and no drift then.
		const unnoticed = 5 * time.Second
		s, again := b.Agent.Status(), time.Since(evicted) > unnoticed
		if healed := s.Proved && s.Drift.Healed > before; healed || again {
			now, err := b.Hardware.Installed(ctx)
			if err != nil {
				return err
			}
			there := slices.ContainsFunc(now, func(e flow.Entry) bool { return e.Equal(&victim) })
			if healed && there {
				break
			}
			if there && s.Drift.Healed == before {
				if err := b.Hardware.Evict(victim.ID); err != nil {
					return err
				}
				start = time.Now()
			}
			evicted = time.Now()
		}
		if time.Since(start) > settling {
			return fmt.Errorf("%s: the entry of rule %s did not come back in %s: proved: %t, healed: %d, error: %v", b.Name, name, settling, s.Proved, s.Drift.Healed-before, s.Error)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	took := time.Since(start).Seconds()
	d.report.Healed = append(d.report.Healed, Healing{b.Name, name, took})
	d.Say("found and healed after %.2f s", took)
	return nil
}

// sum fills the report from the agents' counters and holds them against what should
// have been counted.
func (d *demo) sum() error {
	r := &d.report
	r.Proved = true
	inHardware, inSoftware := map[string]bool{}, map[string]bool{}
	for i, b := range d.chassis.Blades {
		s := b.Agent.Status()
		r.Proved = r.Proved && s.Proved && s.Error == nil
		for _, rule := range s.Rules {
			d.countRule(i, rule)
			ops := d.tables[i].Default()
			for n := range d.tables[i].Len() {
				if d.tables[i].Rule(n).Name == rule.Name {
					ops = d.tables[i].Rule(n).Actions
				}
			}
			for _, a := range ops {
				if rule.Hardware.Packets > 0 {
					inHardware[a.Op.String()] = true
				}
				if rule.Software.Packets > 0 {
					inSoftware[a.Op.String()] = true
				}
			}
		}
	}
	r.Actions = ActionPlaces{sorted(inHardware), sorted(inSoftware)}
	return nil
}

func (d *demo) countRule(blade int, rule agent.RuleStatus) {
	r := &d.report
	place := rule.Place
	if place == "hardware" {
		r.Rules.Hardware++
		if !rule.Whole {
			place = "mixed"
		}
	} else {
		r.Rules.Software++
	}
	hw, sw := rule.Hardware.Packets, rule.Software.Packets
	r.Packets.Hardware += hw
	r.Packets.Software += sw
	var want flow.Counter
	id := flow.DefaultRule
	for n := range d.tables[blade].Len() {
		if t := d.tables[blade].Rule(n); t.Name == rule.Name {
			id = t.ID
		}
	}
	for _, c := range d.counted {
		want.Packets += c[blade][id].Packets
		want.Bytes += c[blade][id].Bytes
	}
	most := want
	for _, c := range d.lossy {
		most.Packets += c[blade][id].Packets
		most.Bytes += c[blade][id].Bytes
	}
	got := flow.Counter{Packets: hw + sw, Bytes: rule.Hardware.Bytes + rule.Software.Bytes}
	r.Packets.Sent += min(max(want.Packets, got.Packets), most.Packets)
	if got.Packets < want.Packets || got.Packets > most.Packets || got.Bytes < want.Bytes || got.Bytes > most.Bytes {
		r.Mismatches++
		r.Different = append(r.Different, fmt.Sprintf("%s: rule %s counted %d packets (%d bytes), should be %d (%d)",
			d.chassis.Blades[blade].Name, rule.Name, got.Packets, got.Bytes, want.Packets, want.Bytes))
	}
	r.Where = append(r.Where, Where{d.chassis.Blades[blade].Name, rule.Name, place, rule.Code, rule.Reason, hw, sw})
}

func sorted(set map[string]bool) []string {
	out := []string{}
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
