package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// change brings table and devices to want, and reads back: what [offload.Run] read last
// if all went well, else once more.
func (a *Agent) change(ctx context.Context, want *Wanted) error {
	targets := a.plan(want.Table)
	if a.idle(want, targets) {
		return nil
	}
	a.retry = time.Time{}
	err := a.apply(ctx, want, targets)
	a.healed()
	if err != nil || slices.ContainsFunc(a.devices, func(c *card) bool { return c.left == nil }) {
		if e := errors.Join(a.settle(ctx), a.read(ctx)); e != nil {
			return errors.Join(err, e)
		}
	}
	if a.running != nil {
		for _, c := range a.devices {
			err = errors.Join(err, a.prove(c))
		}
	}
	if err == nil {
		a.pass(phaseDone)
	}
	return err
}

// settle waits until what was asked of devices has happened or will not happen any more:
// a dump that overtakes an operation without an answer shows what will not be.
func (a *Agent) settle(ctx context.Context) error {
	for _, c := range a.devices {
		if err := c.Driver.Barrier(ctx); err != nil {
			return mute(c.Name, fmt.Errorf("barrier: %w", err))
		}
	}
	return nil
}

// plan plans for every device. Before the first swap no packet is judged by an old
// table, so the new one is all that entries have to agree with.
func (a *Agent) plan(want *flow.Table) []offload.Target {
	old := cmp.Or(a.running, want)
	a.planned = traffic{a.Now(), a.warmth.levels, a.flows.levels}
	var targets []offload.Target
	for _, c := range a.devices {
		m, t := sparing(a.limited(c)), offload.Traffic{Rules: a.warmth.levels, Flows: a.flows.hot(c)}
		if old == want {
			t.Budget = budget(&m, len(c.installed))
		}
		targets = append(targets, offload.Target{Name: c.Name, Driver: c.Driver, Plan: c.planner.Plan(old, want, c.installed, m, t)})
	}
	return targets
}

// idle reports whether plans that were made because traffic has shifted have nothing to do,
// as most of them: then devices are left alone. A canary is in no plan and stays in.
func (a *Agent) idle(want *Wanted, targets []offload.Target) bool {
	for i, t := range targets {
		if c := a.devices[i]; len(t.Plan.Retire)+len(c.doubt)+c.found.size() > 0 || !c.canary.alone(t.Plan.Promote) || c.left == nil || c.moved {
			return false
		}
	}
	if !a.steady || want.Table != a.running {
		return false
	}
	for i, t := range targets {
		a.devices[i].placed(&t.Plan)
	}
	return true
}

// apply carries the plans out and keeps what counters need.
func (a *Agent) apply(ctx context.Context, wanted *Wanted, targets []offload.Target) error {
	var swap func(*flow.Table) error
	want, before := wanted.Table, a.running
	if want != a.running {
		swap = func(t *flow.Table) error { return a.swap(t, wanted.Digest) }
	}
	if len(targets) == 0 {
		if swap == nil {
			return nil
		}
		return swap(want)
	}
	a.begin(want, targets)
	report, err := offload.Run(ctx, targets, swap, a.check)
	for i, d := range report.Devices {
		c := a.devices[i]
		for _, r := range d.Removed {
			c.ledger.close(&r.Entry, r.Final, cmp.Or(before, want))
		}
		c.left, c.doubt, c.moved = nil, nil, false
		if p := &targets[i].Plan; len(p.Retire)+len(p.Promote) > 0 {
			c.outflow.past = nil
		}
		c.canary.end() // no plan has it, so it is out
		c.peek.reset()
		if d.Installed != nil {
			c.hold(d.Installed, a.Now())
			c.left = ours(d.Installed)
		}
		a.learn(c, &d)
		if report.Swapped || swap == nil {
			c.placed(&d.Plan)
		}
		for _, f := range d.Failed {
			a.retry = a.Now().Add(retryAfter)
			a.event(eventRefused, c.Name, fmt.Sprintf("%s entry %016x: %s: %s: %s", f.Op.Kind, uint64(f.Op.Entry.ID), f.Outcome.Status, f.Outcome.Code, f.Outcome.Text))
		}
	}
	return err
}

// placed notes where a plan has put rules.
func (c *card) placed(p *offload.Plan) {
	c.placements = make(map[flow.RuleID]offload.Placement, len(p.Placements))
	for _, at := range p.Placements {
		c.placements[at.Rule] = at
	}
}

// swap is the instant of change.
func (a *Agent) swap(t *flow.Table, digest string) error {
	if err := a.Datapath.Swap(t); err != nil {
		return err
	}
	a.pass(phasePromote)
	a.running, a.digest, a.since = t, digest, a.Now()
	a.events.add(a.since, eventInForce, fmt.Sprintf("generation %d", t.Generation()), fmt.Sprintf("%d rules", t.Len()))
	a.Log.Info("a new generation is in force", "generation", uint64(t.Generation()), "rules", t.Len())
	return nil
}

// check asks the checker and counts its refusals.
func (a *Agent) check(want *flow.Table, installed []flow.Entry, m device.Model) error {
	err := a.Check(want, installed, m)
	if err != nil {
		a.mismatches++
	}
	return err
}

// healed counts the drift that is no more.
func (a *Agent) healed() {
	for _, c := range a.devices {
		n := c.found.size()
		if n == 0 || c.left == nil {
			continue
		}
		wanted := map[flow.EntryID]bool{}
		for _, p := range c.placements {
			for _, id := range p.Entries {
				wanted[id] = true
			}
		}
		open := c.found.remaining(func(id flow.EntryID) bool { return wanted[id] }, c.left)
		n -= open
		a.drift.Healed += uint64(n)
		a.events.add(a.Now(), eventHealed, c.Name, fmt.Sprintf("drifted entries put right: %d", n))
		a.Log.Info("drift healed", "device", c.Name, "entries", n)
		if open == 0 {
			c.found = drift{foreign: c.found.foreign}
		}
	}
}

// obscure reports whether an entry of others does what cannot be said.
func obscure(e flow.Entry) bool { return !offload.Ours(e.ID) && !e.Punt() && e.Actions.Valid() != nil }

// prove asks the checker about everything a device holds, entries of others too.
// Where those alone are to blame the fault says so: they are not ours to remove, but
// nobody shall believe that all is well. Where they do with every packet what the table says,
// all is well but counters; rules that they overlap stay in software, with the reason.
func (a *Agent) prove(c *card) error {
	if c.proof.table == a.running && sameEntries(c.installed, c.proof.entries) {
		return c.proof.err
	}
	err := a.Check(a.running, c.installed, c.model)
	if mine := ours(c.installed); err != nil && len(mine) < len(c.installed) && a.Check(a.running, mine, c.model) == nil {
		booked, ok := errors.AsType[interface {
			error
			Differs() bool
		}](err)
		if ok && !booked.Differs() && !slices.ContainsFunc(c.installed, obscure) {
			err = nil // every packet fares as the table says; some are booked to no rule, and no more is to be had of others' entries
		} else {
			err = &flow.Fault{Code: "E_FOREIGN", What: "device " + c.Name, Why: "an entry that is not bladeflow's answers packets differently from the table: " + err.Error(),
				Remedy: "find its owner and have it removed", Err: err}
		}
	} else if err != nil {
		a.mismatches++
		a.Log.Error("what a device holds is not right", "device", c.Name, "error", err)
	}
	c.proof = proof{a.running, c.installed, err}
	return err
}
