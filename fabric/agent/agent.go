package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Datapath is the software that judges what devices do not answer. It has the whole
// table. *fallback.Datapath is one.
type Datapath interface {
	Swap(*flow.Table) error
	Counters() map[flow.RuleID]flow.Counter
	Stats() fallback.Stats
}

// Device is one card of the blade.
type Device struct {
	Name   string
	Driver offload.Driver
	PFs    []string // names of the PFs whose table it is; for the report
}

// Config is what an [Agent] works with.
type Config struct {
	Source   Source
	Devices  []Device // none runs everything in software
	Datapath Datapath
	Check    offload.Check // of a verify.Prover, except in tests of what happens without it
	Interval time.Duration // between rounds of [Agent.Run]; 2 s if zero
	Log      *slog.Logger  // nothing is logged if nil
	Now      func() time.Time

	// State is where the journal and the counters are kept, as STATE.journal and
	// STATE.counters; empty keeps neither.
	State string

	Blade  fabric.BladeID      // whose VFs they are; valid iff VFs is not nil
	VFs    provision.VFs       // set up as Wanted.VNICs says; nil leaves all VFs alone
	Wake   <-chan struct{}     // Run asks Source at once when something comes; may be nil
	Links  func() []LinkStatus // of the datapath, for the status; nil if it has none to speak of
	Report func(*Status)       // told the status at the end of each round, if not nil; must not block
}

// Agent keeps one blade as it is wanted. Its methods may be called by any goroutine.
type Agent struct {
	Config

	status atomic.Pointer[Status]

	mu         sync.Mutex // held for a round; guards what follows
	devices    []*card
	running    *flow.Table                    // in force; nil before the first swap
	digest     string                         // of what running was made of
	record     int64                          // of the store, whose VFs that leave have left
	tried      *Wanted                        // in the last round
	vfs        map[fabric.VFID]fabric.VFState // as read last
	refusal    string                         // why what is wanted could not be had in the last round; empty if it could
	since      time.Time
	warmth     warmth
	planned    offload.Heat // what the last plan went by
	steady     bool         // the last round left nothing to do
	retry      time.Time    // when to offer a device again what it refused; zero if it refused nothing
	drift      DriftStatus
	events     events
	books      books
	journal    journal
	past       account   // counted by earlier processes
	shown      account   // what the status says
	keepNext   time.Time // when it may be written again
	unkept     string    // why it cannot be; empty if it can
	mismatches uint64
	rejected   uint64
	rounds     uint64
	failures   uint64
	trouble    ErrorStatus // as last reported; Text is empty if there is none
}

// card is one device and what is remembered of it.
type card struct {
	Device
	ledger     *ledger
	left       []flow.Entry // what we left there; nil before the first look
	installed  []flow.Entry // as read last
	usage      usage        // of installed
	found      drift        // in the last round
	model      device.Model
	full       int // entries that went in when it said it was full; 0 if it never did
	planner    offload.Planner
	placements map[flow.RuleID]offload.Placement
	proof      proof
}

// proof is the checker's answer about one dump. The checker is a pure function, so
// the answer holds until the dump or the table changes.
type proof struct {
	table   *flow.Table // nil if there is no answer
	entries []flow.Entry
	err     error
}

// New returns an agent that has not looked at anything yet.
func New(c Config) *Agent {
	if c.Interval == 0 {
		c.Interval = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Agent{Config: c, journal: journal{path: c.State}}
	if c.State != "" {
		a.journal.path += ".journal"
	}
	for _, d := range c.Devices {
		a.devices = append(a.devices, &card{Device: d, ledger: newLedger()})
	}
	if err := a.recount(); err != nil {
		a.event("E_KEPT", "counters", "they begin again, for what was kept of them cannot be read: "+err.Error())
	}
	a.interrupted()
	a.status.Store(&Status{Devices: []DeviceStatus{}, Links: []LinkStatus{}, VFs: []VFStatus{}, Rules: []RuleStatus{}, Packets: []TierPackets{}, Lost: []Lost{}, Events: []Event{}, EventTotals: map[string]uint64{}})
	return a
}

// Status returns how things were at the end of the last round. The caller must not
// change it.
func (a *Agent) Status() *Status { return a.status.Load() }

// retryAfter is how long a device is left alone with what it refused. Run plans
// around a refusal, so that everything is right meanwhile, only slower than it might be.
const retryAfter = 30 * time.Second

// poll is how often [Agent.Run] asks its source.
const poll = 250 * time.Millisecond

// Run reconciles every interval, every [auditPace] at least, and at once when something else is wanted, until ctx
// ends. It returns nil then: trouble is logged and in the status, and tried again.
func (a *Agent) Run(ctx context.Context) error {
	tick := time.NewTicker(min(poll, a.Interval))
	defer tick.Stop()
	var due time.Time
	for {
		if now := a.Now(); a.changed() || !now.Before(due) {
			due = now.Add(min(a.Interval, auditPace))
			a.Reconcile(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-a.Wake:
		}
	}
}

// changed reports whether the source wants something that was not tried yet.
func (a *Agent) changed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, err := a.Source.Wanted()
	return w != nil && w != a.tried || words(err) != a.refusal
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Reconcile is one round: observe, plan, check, apply, read back. It returns what
// kept the blade from being as it is wanted; the generation in force stays in force
// then, unless software has swapped already, which Status tells.
func (a *Agent) Reconcile(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	want, err := a.Source.Wanted()
	if err != nil && err.Error() != a.refusal && !errors.Is(err, store.ErrUnreachable) {
		a.rejected++
	}
	a.refusal = words(err)
	if want == nil {
		want = a.tried
	}
	a.tried = want
	if want != nil {
		err = errors.Join(err, a.round(ctx, want))
	}
	a.report(err)
	return err
}

// round brings the blade to want: VFs that leave their place fall silent, then the
// table changes, and when it is proved the links of new ones go on. A VF that cannot
// be set up keeps the table from changing, not from being put right.
func (a *Agent) round(ctx context.Context, want *Wanted) error {
	if err := a.observe(ctx); err != nil {
		a.steady = false
		return err
	}
	heat := a.warmth.levels
	if a.unsound() { // before anything else, which may take its time or fail
		if err := a.change(ctx, &Wanted{Table: a.running, Digest: a.digest, Record: a.record}, heat); err != nil {
			a.steady = false
			return err
		}
	}
	if !a.retry.IsZero() && !a.Now().Before(a.retry) {
		a.steady = false
		for _, c := range a.devices {
			c.full = 0
		}
	}
	vfs := a.planVFs(want)
	if a.steady && want.Record == a.record && want.Table == a.running && vfs.Len() == 0 && maps.Equal(heat, a.planned) &&
		!slices.ContainsFunc(a.devices, func(c *card) bool { return c.found.size() > 0 }) {
		return nil
	}
	err := a.provision(vfs.Before)
	if err != nil {
		want = &Wanted{Table: a.running, Digest: a.digest, Record: a.record}
	}
	if a.record = want.Record; err == nil && len(vfs.Before) > 0 {
		a.reportVFs()
	}
	if want.Table != nil {
		err = errors.Join(err, a.change(ctx, want, heat))
	}
	if err == nil {
		err = a.provision(vfs.After)
	}
	a.steady = err == nil
	return err
}

// change brings table and devices to want, and reads back: what [offload.Run] read last
// if all went well, else once more.
func (a *Agent) change(ctx context.Context, want *Wanted, heat offload.Heat) error {
	a.planned, a.retry = heat, time.Time{}
	err := a.apply(ctx, want, a.plan(want.Table, heat))
	a.healed()
	if err != nil || slices.ContainsFunc(a.devices, func(c *card) bool { return c.left == nil }) {
		if e := a.read(ctx); e != nil {
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

// read reads model, entries and counters of every device, the VFs, and software's
// counters.
func (a *Agent) read(ctx context.Context) error {
	for _, c := range a.devices {
		if err := c.read(ctx, a.running); err != nil {
			c.proof = proof{}
			return &flow.Fault{Code: "E_DEVICE_READ", What: "device " + c.Name, Why: err.Error(),
				Remedy: "see that the device is there; it is read again in a moment", Err: err}
		}
	}
	if a.VFs != nil {
		vfs, err := a.VFs.Read()
		if err != nil {
			return &flow.Fault{Code: "E_VF_READ", What: "VFs", Why: err.Error(), Remedy: "see that the card and its driver are there; they are read again in a moment", Err: err}
		}
		a.vfs = vfs
	}
	packets := map[flow.RuleID]uint64{}
	for _, c := range a.devices {
		for id, n := range c.ledger.rules {
			packets[id] += n.Packets
		}
	}
	for _, part := range []map[flow.RuleID]flow.Counter{a.past.software, a.Datapath.Counters()} {
		for id, n := range part {
			packets[id] += n.Packets
		}
	}
	a.warmth.update(a.Now(), packets)
	return nil
}

func (c *card) read(ctx context.Context, t *flow.Table) error {
	model, err := c.Driver.Model(ctx)
	if err != nil {
		return fmt.Errorf("model: %w", err)
	}
	installed, err := c.Driver.Installed(ctx)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	counts, err := c.Driver.Counters(ctx)
	if err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	c.model = model
	c.hold(installed)
	c.ledger.read(installed, counts, t)
	return nil
}

// hold takes a dump as what the device holds.
func (c *card) hold(installed []flow.Entry) {
	if c.installed == nil || !sameEntries(installed, c.installed) {
		c.usage = usageOf(installed)
	}
	c.installed = installed
}

// usage is what of a device's room is taken.
type usage struct{ foreign, guards, masks int }

func usageOf(installed []flow.Entry) (u usage) {
	masks := make(map[device.Mask]bool)
	for i := range installed {
		e := &installed[i]
		masks[device.MaskOf(&e.Match)] = true
		switch {
		case !offload.Ours(e.ID):
			u.foreign++
		case e.Punt():
			u.guards++
		}
	}
	u.masks = len(masks)
	return u
}

// hardware returns what the devices' entries have answered for a rule.
func (a *Agent) hardware(id flow.RuleID) (sum flow.Counter) {
	for _, c := range a.devices {
		sum = plus(sum, c.ledger.rules[id])
	}
	return sum
}

// plan plans for every device. Before the first swap no packet is judged by an old
// table, so the new one is all that entries have to agree with.
func (a *Agent) plan(want *flow.Table, heat offload.Heat) []offload.Target {
	old := cmp.Or(a.running, want)
	var targets []offload.Target
	for _, c := range a.devices {
		if want != a.running {
			c.full = 0
		}
		m := c.model
		if c.full > 0 && (m.Entries == 0 || c.full < m.Entries) {
			m.Entries = c.full
		}
		targets = append(targets, offload.Target{Name: c.Name, Driver: c.Driver, Plan: c.planner.Plan(old, want, c.installed, m, offload.Traffic{Rules: heat})})
	}
	return targets
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
		c.left = nil
		if d.Installed != nil {
			c.hold(d.Installed)
			c.left = ours(d.Installed)
		}
		c.full = cmp.Or(d.Full, c.full)
		if report.Swapped || swap == nil {
			c.placements = map[flow.RuleID]offload.Placement{}
			for _, p := range d.Plan.Placements {
				c.placements[p.Rule] = p
			}
		}
		for _, f := range d.Failed {
			a.retry = a.Now().Add(retryAfter)
			a.event(eventRefused, c.Name, fmt.Sprintf("%s entry %016x: %s: %s: %s", f.Op.Kind, uint64(f.Op.Entry.ID), f.Outcome.Status, f.Outcome.Code, f.Outcome.Text))
		}
	}
	return err
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

// prove asks the checker about everything a device holds, entries of others too.
// Where those alone are to blame the fault says so: they are not ours to remove, but
// nobody shall believe that all is well.
func (a *Agent) prove(c *card) error {
	if c.proof.table == a.running && sameEntries(c.installed, c.proof.entries) {
		return c.proof.err
	}
	err := a.Check(a.running, c.installed, c.model)
	if mine := ours(c.installed); err != nil && len(mine) < len(c.installed) && a.Check(a.running, mine, c.model) == nil {
		err = &flow.Fault{Code: "E_FOREIGN", What: "device " + c.Name, Why: "an entry that is not bladeflow's answers packets differently from the table: " + err.Error(),
			Remedy: "find its owner and have it removed", Err: err}
	} else if err != nil {
		a.mismatches++
		a.Log.Error("what a device holds is not right", "device", c.Name, "error", err)
	}
	c.proof = proof{a.running, c.installed, err}
	return err
}
