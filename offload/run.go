package offload

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Check is the checker's question: is a device of this model that holds these
// entries right under want? verify.Check answers it. An error that has a method
// `Culprit() flow.EntryID` names the entry to do without.
type Check func(want *flow.Table, installed []flow.Entry, m device.Model) error

// Target is one device, and the plan for it. All targets of one Run have the same
// Plan.Want.
type Target struct {
	Name   string // for people
	Driver Driver
	Plan   Plan
}

// Report is what Run did.
type Report struct {
	// Swapped says that software runs the new table. Where it is false the old
	// generation stands, and devices hold no more than what is right under it.
	Swapped bool
	Devices []DeviceReport // one for each target, in order
}

// DeviceReport is what Run did to one device.
type DeviceReport struct {
	Name      string
	Plan      Plan         // the last one carried out: the target's, less what was refused
	Installed []flow.Entry // read back in the end, foreign entries too; nil if it could not be
	Added     []flow.Entry
	Removed   []Removed
	Failed    []Failure
	// Full is how many entries were in when the device had no room for another, or 0
	// if that did not happen: a limit that was learned.
	Full int
	// FullMasks is how many distinct masks were in when it had no room for another, or 0.
	FullMasks int
	Err       error // why the device does not hold Plan.Entries: read it back and plan again
}

// Removed is an entry that left a device, with its last count. Whoever sums
// counters per rule adds it.
type Removed struct {
	Entry flow.Entry
	Final flow.Counter
}

// Failure is an operation that was not done.
type Failure struct {
	Op      Op
	Outcome Outcome
}

// rounds bounds how often Run plans again for one device without having learned anything of
// it before it leaves the rest to the next call, lessons how often at all, and retries how
// often a plan is changed to please the checker before the device is emptied.
const (
	rounds  = 4
	lessons = 64
	retries = 16
)

// Run takes all devices and software from one table to the next: it retires on all
// devices, waits until that has taken effect, swaps software once, and promotes on
// all devices. A nil swap repairs devices under the table that is in force.
//
// Each plan is checked before anything is done, and each device's own dump after;
// what the check refuses is done without. Before the swap every device has to be
// read back as exactly what its plan leaves it: a removal that was refused, got no
// answer, or had no effect aborts the change, the old generation stays, and the
// error says what to do. After the swap a device can only fall short of its plan:
// what it refuses is planned around, with the device read back each time.
//
// A nil error says that software runs the new table and that every device holds
// what Report's plans say.
//
// There has to be at least one target: without a device there is only the swap.
func Run(ctx context.Context, targets []Target, swap func(*flow.Table) error, check Check) (Report, error) {
	if len(targets) == 0 {
		return Report{}, errors.New("no device: swap software alone")
	}
	var r Report
	var runs []*running
	for _, t := range targets {
		d := &running{Target: t, check: check}
		d.prove()
		runs = append(runs, d)
	}
	report := func() Report {
		for _, d := range runs {
			d.report.Name, d.report.Plan = d.Name, d.Plan
			r.Devices = append(r.Devices, d.report)
		}
		return r
	}
	for _, d := range runs {
		if err := d.retire(ctx); err != nil {
			return report(), err
		}
	}
	for _, d := range runs {
		if err := d.confirm(ctx); err != nil {
			return report(), err
		}
	}
	if swap != nil {
		if err := swap(runs[0].Plan.Want); err != nil {
			return report(), fmt.Errorf("swap to generation %d: %w", runs[0].Plan.Want.Generation(), err)
		}
	}
	r.Swapped = swap != nil
	var errs []error
	for _, d := range runs {
		d.report.Err = d.promote(ctx)
		errs = append(errs, d.report.Err)
	}
	return report(), errors.Join(errs...)
}

// running is one device in the course of a Run.
type running struct {
	Target
	check  Check
	report DeviceReport
}

// ours returns the entries that are bladeflow's.
func ours(entries []flow.Entry) []flow.Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e flow.Entry) bool { return !Ours(e.ID) })
}

// prove makes the plan one that the checker has nothing against: neither what the
// device holds in the end, nor what it holds around the swap, under either table.
// Foreign entries stand outside: no plan overlaps them.
func (d *running) prove() {
	for range retries {
		culprit, err := d.refused()
		if err == nil {
			return
		}
		if culprit == 0 {
			break
		}
		d.Plan = d.Plan.Without(culprit, unproven(err))
	}
	d.Plan = d.Plan.empty()
}

func unproven(err error) device.Refusal {
	return device.Refusal{Code: "E_UNPROVEN", Reason: "the checker refused it: " + err.Error(), Fix: "none needed: software answers the rule. If the reason shows a packet, report it"}
}

// refused asks the checker about the plan. culprit is zero if the error names none.
func (d *running) refused() (culprit flow.EntryID, err error) {
	p := &d.Plan
	kept := ours(p.kept())
	for _, q := range []struct {
		table   *flow.Table
		entries []flow.Entry
	}{{p.Want, p.Entries}, {p.Want, p.renewed(kept)}, {p.from.old, kept}} {
		if culprit, err := d.ask(q.table, q.entries); err != nil {
			return culprit, err
		}
	}
	return 0, nil
}

func (d *running) ask(t *flow.Table, entries []flow.Entry) (culprit flow.EntryID, err error) {
	err = d.check(t, entries, d.Plan.from.model)
	if named, ok := errors.AsType[interface {
		error
		Culprit() flow.EntryID
	}](err); ok {
		culprit = named.Culprit()
	}
	return culprit, err
}

// retire carries out the plan's removals; one that fails ends the change.
func (d *running) retire(ctx context.Context) error {
	failed := d.carryOut(ctx, d.Plan.Retire)
	if len(failed) == 0 {
		return nil
	}
	f := failed[0]
	return &flow.Fault{Code: "E_RETIRE", What: fmt.Sprintf("device %s: remove entry %016x", d.Name, uint64(f.Op.Entry.ID)),
		Why:    fmt.Sprintf("%s: %s: %s; the old generation stays in force", f.Outcome.Status, f.Outcome.Code, f.Outcome.Text),
		Remedy: "apply again; if it stays, take offload off on this device"}
}

// confirm waits until the removals have taken effect and reads the device back.
func (d *running) confirm(ctx context.Context) error {
	abort := func(why error) error {
		return &flow.Fault{Code: "E_RETIRE", What: "device " + d.Name, Why: why.Error() + "; the old generation stays in force",
			Remedy: "apply again; if it stays, take offload off on this device", Err: why}
	}
	if err := d.Driver.Barrier(ctx); err != nil {
		return abort(fmt.Errorf("barrier: %w", err))
	}
	installed, err := d.Driver.Installed(ctx)
	if err != nil {
		return abort(fmt.Errorf("read back: %w", err))
	}
	d.report.Installed = installed
	kept := d.Plan.kept()
	extra, lost := minus(installed, kept), minus(kept, installed)
	if len(extra) > 0 || len(lost) > 0 {
		return abort(fmt.Errorf("it holds %s that should not be there, and lacks %d", count(len(extra), "entry", "entries"), len(lost)))
	}
	return nil
}

// promote brings the device to its plan, or as near to it as the device lets it.
func (d *running) promote(ctx context.Context) error {
	fail := func(what string, err error) error { return fmt.Errorf("device %s: %s: %w", d.Name, what, err) }
	ops := d.Plan.Promote
	var why error
	round := 0
	for idle := 0; idle < rounds && round < lessons; round++ {
		failed := d.carryOut(ctx, ops)
		if err := d.Driver.Barrier(ctx); err != nil {
			return fail("barrier", err)
		}
		installed, err := d.Driver.Installed(ctx)
		d.report.Installed = installed
		if err != nil {
			return fail("read back", err)
		}
		_, refused := d.ask(d.Plan.Want, ours(installed))
		lacks := len(minus(d.Plan.Entries, installed))
		switch {
		case refused != nil:
			why = refused
		case len(failed) > 0:
			f := &failed[0]
			why = fmt.Errorf("%s entry %016x: %s: %s", f.Op.Kind, uint64(f.Op.Entry.ID), f.Outcome.Code, f.Outcome.Text)
		case lacks > 0:
			why = fmt.Errorf("%s said to be in are not", count(lacks, "entry", "entries"))
		default:
			return nil
		}
		known := len(d.Plan.from.banned)
		d.Plan = d.again(installed, failed)
		if len(d.Plan.from.banned) == known { // else there is another entry to do without
			idle++
		}
		d.prove()
		ops = slices.Concat(d.Plan.Retire, d.Plan.Promote)
	}
	return fail(fmt.Sprintf("not as planned after %d rounds", round), why)
}

// again plans from what was read back, with what the failures taught.
func (d *running) again(installed []flow.Entry, failed []Failure) Plan {
	in := d.Plan.from
	in.old, in.installed = in.want, installed
	for _, f := range failed {
		switch code := f.Outcome.Code; {
		case f.Op.Kind == Remove || f.Outcome.Status != Refused || code == codeNotTried || code == CodeExists:
		case code == CodeFull:
			d.report.Full = len(installed)
			in.model.Entries = len(installed)
		case code == CodeMask:
			d.report.FullMasks = used(nil, installed).Masks
			in.model.Masks = d.report.FullMasks
		default:
			in = in.without(f.Op.Entry.ID, device.Refusal{Code: code, Reason: "the device refused it: " + f.Outcome.Text, Fix: "see the device's log; apply again"})
		}
	}
	return newPlan(in)
}

// codeNotTried marks operations that were left out because one failed that they
// may rely on.
const codeNotTried = "E_NOT_TRIED"

// carryOut applies ops batch by batch and returns what was not done. After a
// refusal nothing is removed any more, and nothing is added that overlaps what was
// refused: either could rely on it. After an unknown outcome nothing is done at
// all: the device may not hold what it held before.
func (d *running) carryOut(ctx context.Context, ops []Op) (failed []Failure) {
	silent := false
	relies := func(op *Op) bool {
		return len(failed) > 0 && (silent || op.Kind == Remove || slices.ContainsFunc(failed, func(f Failure) bool {
			return f.Op.Entry.Match.Overlaps(&op.Entry.Match)
		}))
	}
	for _, batch := range batches(ops) {
		var try []Op
		for _, op := range batch {
			if relies(&op) {
				failed = append(failed, Failure{op, Outcome{Status: Refused, Code: codeNotTried, Text: "an operation before it failed"}})
				continue
			}
			try = append(try, op)
		}
		if len(try) == 0 {
			continue
		}
		for i, out := range d.Driver.Apply(ctx, try) {
			op := try[i]
			switch {
			case out.Status == Done && op.Kind == Add:
				d.report.Added = append(d.report.Added, op.Entry)
			case out.Status == Done:
				d.report.Removed = append(d.report.Removed, Removed{op.Entry, out.Final})
			case op.Kind == Remove && out.Status == Refused && out.Code == CodeMissing:
				// gone already, which is what was wanted
			default:
				failed = append(failed, Failure{op, out})
				silent = silent || out.Status == Unknown
			}
		}
	}
	d.report.Failed = append(d.report.Failed, failed...)
	return failed
}

// window is how many operations batches looks at together.
const window = 256

// batches cuts ops into lists for one Apply each. Drivers do not stop at a failure,
// so no two operations of a batch may rely on each other: they do not overlap. An
// operation comes in a later batch than all before it that it overlaps, so the
// order that matters is kept, and what does not matter goes together: a device that
// needs milliseconds for each Apply gets few.
func batches(ops []Op) [][]Op {
	var out [][]Op
	for len(ops) > 0 {
		n := 1
		for n < min(window, len(ops)) && ops[n].Kind == ops[0].Kind {
			n++
		}
		wave := make([]int, n)
		var waves [][]Op
		for i := range n {
			for j := range i {
				if wave[j] >= wave[i] && ops[j].Entry.Match.Overlaps(&ops[i].Entry.Match) {
					wave[i] = wave[j] + 1
				}
			}
			if wave[i] == len(waves) {
				waves = append(waves, nil)
			}
			waves[wave[i]] = append(waves[wave[i]], ops[i])
		}
		out = append(out, waves...)
		ops = ops[n:]
	}
	return out
}
