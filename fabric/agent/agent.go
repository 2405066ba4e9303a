package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Datapath is the software that judges what devices do not answer. It has the whole
// table. *fallback.Datapath is one.
type Datapath interface {
	Swap(*flow.Table) error
	Judged() map[flow.RuleID]flow.Counter  // since it was made
	Policed() map[flow.RuleID]flow.Counter // of those judged: dropped by the rule's police actions
	Cached() map[flow.RuleID]flow.Counter  // by the cache in front of it, as long as there was one; see Stats.Cache
	Stats() fallback.Stats
}

// Device is one card of the blade.
type Device struct {
	Name   string
	Driver offload.Driver
	PFs    []string // names of the PFs whose table it is; for the report

	// Unwatched are ports by which others send, too, than entries and software: uplinks of
	// functions that have RDMA devices.
	Unwatched []flow.Port

	// Answers are what the card said when its model was tried on it; nil if nobody asked.
	Answers []device.Answer

	// Card is what learned limits hold for; one that is only called Name if it is empty.
	Card device.Card
}

func mute(name string, err error) error {
	return &flow.Fault{Code: "E_DEVICE_READ", What: "device " + name, Why: err.Error(),
		Remedy: "see that the device is there; it is read again in a moment", Err: err}
}

// Config is what an [Agent] works with.
type Config struct {
	Source   Source
	Devices  []Device // none runs everything in software
	Datapath Datapath
	Samples  Sampler                      // of Datapath, of all frames; nil has none judged again
	Busiest  func(n int) []flowcache.Busy // of Datapath's cache, see [fallback.Datapath.Busiest]; nil if it has none
	Check    offload.Check                // of a verify.Prover, except in tests of what happens without it
	Interval time.Duration                // between rounds of [Agent.Run]; 2 s if zero
	Fast     bool                         // changes of nothing but actions are made faster, and with less promised: see [offload.Planner.Fast]
	Log      *slog.Logger                 // nothing is logged if nil
	Now      func() time.Time

	// State is where the journal, the counters and learned limits are kept, as
	// STATE.journal, STATE.counters and STATE.learned; empty keeps none.
	State string

	Blade  fabric.BladeID      // whose VFs they are; valid iff VFs is not nil
	VFs    provision.VFs       // set up as Wanted.VNICs says; nil leaves all VFs alone
	Wake   <-chan struct{}     // Run asks Source at once when something comes; may be nil
	Cache  *CacheStatus        // how the datapath's cache was opened; nil if it has none
	Links  func() []LinkStatus // of the datapath, for the status; nil if it has none to speak of
	Report func(*Status)       // told the status at the end of each round, if not nil; must not block

	// Forget is of the datapath's cache: see fallback.Datapath.Forget. It is told what is in
	// STATE.counters; nil has the cache keep all that it has.
	Forget func(kept map[flow.RuleID]flow.Counter) (forgotten []flow.RuleID)
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
	warmth     warmth[flow.RuleID]
	flows      flows
	planned    traffic   // what the last plan went by
	steady     bool      // the last round left nothing to do
	retry      time.Time // when to offer a device again what it refused; zero if it refused nothing
	drift      DriftStatus
	events     events
	books      books
	sampled    sampled
	canary     CanaryStatus
	peek       PeekStatus
	brisk      int // looks that shall come soon
	journal    journal
	lessons    lessons
	past       account // counted by earlier processes, in devices, software and totals
	cached     cached
	shown      account   // what the status says
	keepNext   time.Time // when it may be written again
	unkept     string    // why it cannot be; empty if it can
	mismatches uint64
	rejected   uint64
	rounds     uint64
	failures   uint64
	trouble    ErrorStatus // as last reported; Text is empty if there is none
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
		d.Card = cmp.Or(d.Card, device.Card{NIC: d.Name})
		a.devices = append(a.devices, &card{Device: d, ledger: newLedger(), planner: offload.Planner{Fast: c.Fast}})
	}
	if err := a.recount(); err != nil {
		a.event("E_KEPT", "counters", "they begin again, for what was kept of them cannot be read: "+err.Error())
	}
	a.recall()
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
			began := time.Now()
			a.Reconcile(ctx)
			due = now.Add(a.pace(time.Since(began)))
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

// briskShare is which part of its time an agent looks at devices, at most, while looks come
// soon one after another.
const briskShare = 4

// hasten has the next looks come soon: one has begun to find something out.
func (a *Agent) hasten(looks int) { a.brisk = max(a.brisk, looks) }

// pace returns how long after the beginning of a round that took so long the next begins.
func (a *Agent) pace(took time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	usual := min(a.Interval, auditPace)
	if a.brisk == 0 {
		return usual
	}
	a.brisk--
	return min(usual, max(poll, briskShare*took))
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
	if a.unsound() { // before anything else, which may take its time or fail
		if err := a.change(ctx, &Wanted{Table: a.running, Digest: a.digest, Record: a.record}); err != nil {
			a.steady = false
			return err
		}
	}
	if !a.retry.IsZero() && !a.Now().Before(a.retry) {
		a.steady = false
	}
	vfs := a.planVFs(want)
	if a.steady && want.Record == a.record && want.Table == a.running && vfs.Len() == 0 && (!a.shifted() || a.peeking()) &&
		!slices.ContainsFunc(a.devices, func(c *card) bool { return c.found.size() > 0 }) {
		a.canaries(ctx)
		return a.peeks(ctx)
	}
	err := a.provision(vfs.Before)
	if err != nil {
		want = &Wanted{Table: a.running, Digest: a.digest, Record: a.record}
	}
	if a.record = want.Record; err == nil && len(vfs.Before) > 0 {
		a.reportVFs()
	}
	if want.Table != nil {
		err = errors.Join(err, a.change(ctx, want))
	}
	if err == nil {
		err = a.provision(vfs.After)
	}
	if a.steady = err == nil; a.steady {
		err = a.peeks(ctx)
	}
	return err
}

// readCache books what the flow cache has counted.
func (a *Agent) readCache() {
	rules := a.Datapath.Cached() // before the cache's name: one that has another by then has counted nothing
	a.cached.read(rules, a.Datapath.Stats().Cache, a.running)
}

// read reads model, entries and counters of every device, the VFs, and software's
// counters.
func (a *Agent) read(ctx context.Context) error {
	for _, c := range a.devices {
		if err := c.read(ctx, a.running, a.Now()); err != nil {
			c.proof = proof{}
			return mute(c.Name, err)
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
	a.readCache()
	for _, part := range []map[flow.RuleID]flow.Counter{a.past.software, a.Datapath.Judged(), a.cached.rules} {
		for id, n := range part {
			packets[id] += n.Packets
		}
	}
	a.warmth.update(a.Now(), packets)
	a.flows.look(a)
	return nil
}
