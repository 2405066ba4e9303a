package agent

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// software shows frames that the workers have judged.
func (o *observer) software(ctx context.Context) error {
	samples := o.daemon.datapath.Sample(o.want)
	defer samples.Close()
	if err := o.begun(); err != nil {
		return err
	}
	var s fallback.Sample
	for {
		if err := samples.Next(ctx, &s); err != nil {
			return err
		}
		line := lineOf(&s)
		if o.Frames {
			line.Frame, line.Length = s.Frame, s.Length
		}
		if err := o.write(ctx, &line); err != nil {
			return err
		}
	}
}

// lineOf says what became of one frame.
func lineOf(s *fallback.Sample) Observed {
	r, ports := s.Table.Rule(s.Rule), s.Table.Ports()
	in := flow.Port(s.Key.Get(flow.InPort))
	line := Observed{Time: s.Time, Tier: tierSoftware, Port: ports.Name(in), Rule: r.Name, Verdict: s.Verdict.String(), Generation: uint64(s.Table.Generation()),
		Packets: 1, Bytes: uint64(s.Length), Packet: flow.FormatKey(s.Key, ports), Skipped: s.Skipped}
	if s.Verdict != r.Actions.Terminal().Op { // it did not get to the end of its rule's actions
		return line
	}
	for _, e := range flow.Act(r.Actions, s.Table.Switch(), r.ID, s.Frame, in) {
		to := ports.Name(e.Port)
		if e.Kernel {
			to = "kernel:" + to
		}
		line.Out = append(line.Out, to)
	}
	return line
}

// hardware shows what rules' entries have answered since the status before.
func (o *observer) hardware(ctx context.Context) error {
	before := o.daemon.agent.Status()
	return o.each(ctx, min(poll, o.daemon.file.Interval), func() []Observed {
		now := o.daemon.agent.Status()
		if now == before {
			return nil
		}
		was := map[flow.RuleID]flow.Counter{}
		for _, r := range before.Rules {
			was[idOf(r.ID)] = flow.Counter(r.Hardware)
		}
		is := map[flow.RuleID]flow.Counter{}
		for _, r := range now.Rules {
			is[idOf(r.ID)] = flow.Counter(r.Hardware)
		}
		before = now
		return answered(tierHardware, was, is, o.daemon.datapath.Table(), now.Reconciled)
	})
}

// idOf reads a rule's ID as a status has it.
func idOf(text string) flow.RuleID {
	n, _ := strconv.ParseUint(text, 16, 64) // our own words
	return flow.RuleID(n)
}

// cachePace is how often the flow cache is read for one who looks on.
const cachePace = time.Second

// cache shows what the flow cache has answered for rules since it was read last.
func (o *observer) cache(ctx context.Context) error {
	before := o.daemon.datapath.Cached()
	return o.each(ctx, cachePace, func() []Observed {
		was := before
		before = o.daemon.datapath.Cached()
		return answered(tierCache, was, before, o.daemon.datapath.Table(), time.Now())
	})
}

// each writes what f returns, again and again.
func (o *observer) each(ctx context.Context, pace time.Duration, f func() []Observed) error {
	if err := o.begun(); err != nil {
		return err
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, line := range f() {
			if o.shows(&line) {
				if err := o.write(ctx, &line); err != nil {
					return err
				}
			}
		}
	}
}

// answered returns a line for each rule of a table that has counted something from one
// reading to the next, in the table's order.
func answered(tier string, was, is map[flow.RuleID]flow.Counter, t *flow.Table, at time.Time) (lines []Observed) {
	if t == nil {
		return nil
	}
	for i := range t.Len() + 1 {
		r := t.Rule(i)
		before, now := was[r.ID], is[r.ID]
		if now.Packets <= before.Packets {
			continue
		}
		line := Observed{Time: at, Tier: tier, Rule: r.Name, Verdict: r.Actions.Terminal().Op.String(), Generation: uint64(t.Generation()),
			Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes}
		if r.Match.Mask.Get(flow.InPort) == flow.InPort.Max() {
			line.Port = t.Ports().Name(flow.Port(r.Match.Value.Get(flow.InPort)))
		}
		lines = append(lines, line)
	}
	return lines
}

// shows reports whether a line that software has not chosen is wanted. Of a rule for all
// ports nobody knows by which its packets came: whoever wants some ports does not see it.
func (o *observer) shows(l *Observed) bool {
	if len(o.Verdicts) > 0 && !slices.Contains(o.Verdicts, l.Verdict) {
		return false
	}
	if id, err := ruleNamed(o.daemon.datapath.Table(), l.Rule); len(o.Rules) > 0 && (err != nil || !slices.Contains(o.want.Rules, id)) {
		return false
	}
	if len(o.Ports) == 0 {
		return true
	}
	port, err := o.daemon.ports.Find(l.Port)
	return err == nil && slices.Contains(o.want.Ports, port)
}

// begun says that one more tier is looked at. When all are, the other end is told.
func (o *observer) begun() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ahead--; o.ahead > 0 {
		return nil
	}
	return o.to.Flush()
}

// atOnce is how far ahead of its rate an observer may be.
const atOnce = 10 * time.Millisecond

// write writes a line when it is time for it.
func (o *observer) write(ctx context.Context, l *Observed) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.next.Before(now) {
		o.next = now
	}
	if ahead := o.next.Sub(now); ahead > atOnce {
		wait := time.NewTimer(ahead)
		defer wait.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
	o.next = o.next.Add(time.Second / time.Duration(o.Rate))
	if err := o.to.SetWriteDeadline(time.Now().Add(maxStall)); err != nil {
		return err
	}
	if err := o.lines.Encode(l); err != nil {
		return err
	}
	return o.to.Flush()
}
