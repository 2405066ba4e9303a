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
// # What it rests on
//
// The proof is about what a device matches, not about what it was told to. By its
// model an entry matches its match minus Missed, if the model takes that match at
// all; of one that it does not take nobody knows what it matches. Such an entry is
// [Unprovable], and as a guard it counts for nothing. Priorities count where the
// model says that they are honoured. Where they are constant, undefined, or whatever
// a later model says, every entry that matches may answer, and all of them must be
// right. Foreign entries are entries: one that may answer is wrong, because no rule
// of the table is its own. And two entries with one ID are refused, since what a
// device says of an ID could be meant for either.
//
// It takes packets from every port to be possible, also those of another device:
// Model.Ports is not looked at.
//
// # What it costs
//
// Processor time, one core of a busy two-core virtual machine, sets of package
// flowtest and ClassBench's acl1, fw1 and ipc1:
//
//	                                 acl     fw      ipc     segment  acl1    fw1     ipc1
//	 1,000 rules,  1,000 guarded     1.7 ms  1.3 ms  1.9 ms  1.4 ms   1.7 ms  1.3 ms  1.6 ms
//	10,000 rules,  1,000 guarded     7.1 ms  5.8 ms  8.2 ms  7.3 ms   7.5 ms  5.7 ms  6.6 ms
//	10,000 rules, 10,000 pieces      18 ms   19 ms   20 ms   17 ms    22 ms   19 ms   22 ms
//	10,000 rules, all in the device  20 ms   68 ms   139 ms  20 ms    29 ms   66 ms   58 ms
//	100,000 rules, 10,000 pieces     102 ms  90 ms   115 ms  102 ms   104 ms  79 ms   113 ms
//
// Most of it builds the indexes. [Prover] says what a small change costs.
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
	Fix    string // what would help, besides that it goes
}

// Error names the entry and the reason.
func (u *Unprovable) Error() string { return u.Unwrap().Error() }

// Unwrap returns a *flow.Fault with code E_UNPROVABLE.
func (u *Unprovable) Unwrap() error {
	return &flow.Fault{Code: "E_UNPROVABLE", What: fmt.Sprintf("entry %#x", uint64(u.Entry.ID)), Why: u.Reason,
		Remedy: "remove the entry, and software answers its packets; " + u.Fix}
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
