// Package verify is the proof: it says whether what sits in a device is right, or
// shows a packet on which it is wrong. It reads three plain values, the wanted
// table, the entries a device holds (from the device's own dump) and the device's
// model, and shares no code with the planner, which is why planner, caches and
// heuristics need not be trusted. It never talks to a device and changes nothing.
// Start reading with [Check].
//
// # What is proved
//
// Software always holds the whole table; a device is asked first and may miss. It
// is right iff for every packet that can exist ([flow.Possible]) each entry that
// may answer either punts, or is booked to the rule that wins in the table
// (so that counters add up) and emits the same copies, byte for byte. Which
// entries may answer: none, if the packet is in the model's Missed; where the
// order is honoured, those of the highest priority that match; otherwise, every
// entry that matches.
//
// # How
//
// The statement is about packets, but it splits into one small claim per entry.
// An entry e of rule r really answers the packets
//
//	A(e) = match of e, minus Missed, minus the entries that are asked before it
//
// and the device is right iff for every e that does not punt
//
//	(1) no packet of A(e) is in a rule that the table asks before r,
//	(2) no packet of A(e) is outside of r,
//	(3) the actions of e do to every packet of A(e) what those of r do.
//
// Entries of the same priority are not subtracted from each other: both must be
// right. An entry whose rule the table does not have must answer nothing.
//
// For (1) an index gives the few rules that meet e. Where one entry, asked before
// e, covers such a rule wholly (a guard, or the rule itself in hardware) there is
// nothing to do; that is nearly always so, and it is remembered per rule.
// Otherwise, and for (2), search.go looks for a packet by cutting boxes out of
// boxes, exactly; effect.go reduces (3) to the same search.
//
// A search that looks at more than a fixed number of boxes is given up: the answer
// is then [Unprovable], and the entry has to go. That costs speed, not correctness.
//
// It takes packets from every port to be possible, also those of another device:
// Model.Ports is not looked at. What a device can do at all is for
// [device.Model] to say, not for the proof.
//
// # What it costs
//
// One core of a busy two-core virtual machine, sets of package flowtest: 1,000
// entries against 1,000 rules take 2-4 ms, against 10,000 rules 11-24 ms, most of
// it for building the index; whether guards cover whole rules or only overlaps
// makes no difference. All of 10,000 rules in the device take 28 ms (segment), 32 ms
// (acl), 0.23 s (ipc), 0.41 s (fw, 3 million pairs that meet). Comparing every entry
// with every rule took 0.7 s for each of them.
package verify

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Mismatch is a packet on which a device would not do what the table says.
type Mismatch struct {
	Key       flow.Key
	Frame     []byte          // a packet with that key
	Want, Got []flow.Emission // by the table, and by Entry
	Entry     flow.Entry      // that may answer the packet
	Rule      *flow.Rule      // of the table, that should; the default has ID flow.DefaultRule
	Reason    string

	ports *flow.Ports // that Key is written with
}

// Differs reports whether the emissions differ. Otherwise only the rule does to
// which the packet is booked.
func (m *Mismatch) Differs() bool { return !flow.SameEmissions(m.Want, m.Got) }

// Error names the entry, the packet and the reason.
func (m *Mismatch) Error() string { return m.Unwrap().Error() }

// Unwrap returns a *flow.Fault with code E_MISMATCH.
func (m *Mismatch) Unwrap() error {
	return &flow.Fault{Code: "E_MISMATCH", What: fmt.Sprintf("entry %#x, packet %s", uint64(m.Entry.ID), flow.FormatKey(m.Key, m.ports)),
		Why: m.Reason, Remedy: "remove the entry"}
}

// Culprit returns the ID of the entry to remove. Package offload asks for it.
func (m *Mismatch) Culprit() flow.EntryID { return m.Entry.ID }

// Unprovable is an entry of which it could not be said whether it is right.
type Unprovable struct {
	Entry  flow.Entry
	Reason string
}

// Error names the entry and the reason.
func (u *Unprovable) Error() string { return u.Unwrap().Error() }

// Unwrap returns a *flow.Fault with code E_UNPROVABLE.
func (u *Unprovable) Unwrap() error {
	return &flow.Fault{Code: "E_UNPROVABLE", What: fmt.Sprintf("entry %#x", uint64(u.Entry.ID)), Why: u.Reason, Remedy: "remove the entry"}
}

// Culprit returns the ID of the entry to remove. Package offload asks for it.
func (u *Unprovable) Culprit() flow.EntryID { return u.Entry.ID }

// Proof counts what was proved.
type Proof struct {
	Entries int // in the device, those that punt included
	Rules   int // of the table, the default not counted
	Pairs   int // of an entry and a rule asked before the entry's that no single entry keeps apart
	Boxes   int // looked at where no single entry answered a pair
}

// Check returns nil iff a device of model m that holds installed is right under
// want. Otherwise it returns a *[Mismatch], if it can one whose emissions differ,
// or an *[Unprovable] if that is all it found.
func Check(want *flow.Table, installed []flow.Entry, m device.Model) error {
	_, err := Prove(want, installed, m)
	return err
}

// Prove is [Check] that also counts what it proved. The counts are whole iff the
// error is nil.
func Prove(want *flow.Table, installed []flow.Entry, m device.Model) (Proof, error) {
	c := newChecker(m)
	err := c.ask(want, installed)
	return Proof{Entries: len(installed), Rules: want.Len(), Pairs: c.pairs, Boxes: c.boxes}, err
}
