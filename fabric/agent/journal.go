package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// journal is the agent's record of the change it is in the middle of. It is on the disk
// before the first operation on a device, so that whoever comes after a crash knows that
// there was one, between which generations and with which plan.
//
// Nothing is decided by it: recovery is the round that every agent begins with, which reads
// what the devices hold and plans from there. A journal that cannot be written is therefore
// an event and stops no change.
type journal struct {
	path string // empty keeps none
	open entry  // what the file says; zero if that is nothing
	bad  string // why it cannot be written; empty if it can
}

// entry is a change that was begun.
type entry struct {
	From  uint64    `json:"from"` // generations
	To    uint64    `json:"to"`
	Phase string    `json:"phase"` // retire, promote or done
	Plan  string    `json:"plan"`  // SHA-256 of the operations
	At    time.Time `json:"at"`
}

// Phases of a change, as [offload.Plan] names its parts.
const (
	phaseRetire  = "retire"
	phasePromote = "promote"
	phaseDone    = "done"
)

// read returns the change that an earlier process did not bring to an end; ok is false if
// there is none.
func (j *journal) read() (e entry, ok bool, err error) {
	if j.path == "" {
		return entry{}, false, nil
	}
	text, err := os.ReadFile(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return entry{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	j.open = e
	return e, err == nil && e.Phase != phaseDone, err
}

// write makes e what the file says; durable if it has to outlive a loss of power.
func (j *journal) write(e entry, durable bool) error {
	if j.path == "" {
		return nil
	}
	text, err := json.Marshal(e)
	if err == nil {
		err = replace(j.path, append(text, '\n'), 0o600, durable)
	}
	j.open = e
	return err
}

// begin records a change that has operations.
func (a *Agent) begin(want *flow.Table, targets []offload.Target) {
	ops := 0
	for _, t := range targets {
		ops += len(t.Plan.Retire) + len(t.Plan.Promote)
	}
	if ops == 0 {
		return
	}
	e := entry{To: uint64(want.Generation()), Phase: phaseRetire, Plan: planSum(targets), At: a.Now()}
	if a.running != nil {
		e.From = uint64(a.running.Generation())
	}
	a.note(e, true)
}

// pass records that a change has come to its next phase.
func (a *Agent) pass(phase string) {
	if e := a.journal.open; e.Phase != "" && e.Phase != phaseDone {
		e.Phase, e.At = phase, a.Now()
		a.note(e, false)
	}
}

func (a *Agent) note(e entry, durable bool) {
	err := a.journal.write(e, durable)
	if err != nil && a.journal.bad == "" {
		a.event("E_KEEP", "journal", err.Error()+": after a crash nobody will know of this change")
	}
	a.journal.bad = words(err)
}

// interrupted says that the last process ended in the middle of a change.
func (a *Agent) interrupted() {
	e, open, err := a.journal.read()
	switch {
	case err != nil:
		a.event(eventInterrupted, "journal", "it cannot be read: "+err.Error())
	case open:
		a.event(eventInterrupted, fmt.Sprintf("generation %d", e.To),
			fmt.Sprintf("at %s the agent ended in phase %s from generation %d, plan %.12s: what devices hold is read back and put right", e.At.Format(time.RFC3339), e.Phase, e.From, e.Plan))
	}
}

// planSum is a hash over the operations of plans, in order.
func planSum(targets []offload.Target) string {
	var b []byte
	for _, t := range targets {
		b = append(append(b, t.Name...), 0)
		for _, ops := range [][]offload.Op{t.Plan.Retire, t.Plan.Promote} {
			for i := range ops {
				b = binary.BigEndian.AppendUint64(append(b, byte(ops[i].Kind)), uint64(ops[i].Entry.ID))
			}
			b = append(b, 0xff)
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}
