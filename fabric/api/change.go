package api

import (
	"encoding/json"
	"time"
)

// What passes about changes: what is asked, what it would do or did, and the record of
// it that stays.

// Event is one change of what is wanted: who did what, and when. Its name is its
// revision.
type Event struct {
	Head
	Spec EventSpec `json:"spec"`
}

// EventSpec is what happened.
type EventSpec struct {
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	Role    string    `json:"role"`
	From    string    `json:"from,omitempty"` // address
	Verb    string    `json:"verb"`           // apply, delete, place, move, revert, snapshot
	Changes []Touched `json:"changes"`
}

// Touched is one object that a change made, changed or deleted.
type Touched struct {
	Kind   string `json:"kind"`
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	How    string `json:"how"` // created, changed, deleted
}

// History is an event as it is stored: with what was there before, so that it can be
// undone.
type History struct {
	Head
	Spec HistorySpec `json:"spec"`
}

// HistorySpec is an event, and its objects as they are stored, in the order of its
// changes: before it, and after it if they were too many to be put with it. Null is what
// was not there.
type HistorySpec struct {
	EventSpec
	Before []json.RawMessage `json:"before"`
	After  []json.RawMessage `json:"after,omitempty"`
}

// State is what was wanted after a change, where the history that told it is gone: its
// objects as they are stored.
type State struct {
	Head
	Spec StateSpec `json:"spec"`
}

// StateSpec is the objects, and which they are.
type StateSpec struct {
	Objects []Touched         `json:"objects"`
	Values  []json.RawMessage `json:"values"`
}

// Preview is what a change would do, or did.
type Preview struct {
	Revision int64        `json:"revision"` // of the wanted state it was made on, or that it made
	DryRun   bool         `json:"dryRun"`
	Changes  []Touched    `json:"changes"`
	Steps    []Step       `json:"steps"`           // in order; of a dry run
	Held     []Held       `json:"held"`            // wanted, and not possible now; of a dry run
	Capacity []CapacityOf `json:"capacity"`        // of the blades it concerns
	Fleet    *Effect      `json:"fleet,omitempty"` // of a dry run
}

// Step is one step on one blade.
type Step struct {
	Blade string `json:"blade"`
	Kind  string `json:"kind"` // configure, connect, clear, prove
	Text  string `json:"text"`
}

// Held is why something waits.
type Held struct {
	Blade string `json:"blade"`
	VNIC  string `json:"vnic,omitempty"`
	Error
}

// CapacityOf is what is free on a blade before and after a change.
type CapacityOf struct {
	Blade  string `json:"blade"`
	Before Free   `json:"before"`
	After  Free   `json:"after"`
	Effect        // of a dry run
}

// Effect is what a change would leave of a blade or the fleet, as the capacity report
// counts it.
type Effect struct {
	Left  []Left `json:"left,omitempty"`
	Binds string `json:"binds,omitempty"` // the tightest dimension then
	Text  string `json:"text,omitempty"`  // both in one sentence
}

// Left is what remains of one dimension. An amount that nobody knows is absent.
type Left struct {
	Dimension string `json:"dimension"` // slots, bandwidth, entries, software
	Unit      string `json:"unit"`
	Usable    *int64 `json:"usable,omitempty"` // after the change
	Before    *int64 `json:"before,omitempty"`
	After     *int64 `json:"after,omitempty"`
}

// Free is what a blade has left.
type Free struct {
	VFs        int    `json:"vfs"`
	Guaranteed string `json:"guaranteed"` // promised to vNICs
	Rules      int    `json:"rules"`      // in its table
}

// Move says where a profile shall go.
type Move struct {
	Blade string `json:"blade,omitempty"` // any that fits if absent
	PF    string `json:"pf,omitempty"`    // and there only this
}

// Revert says to which revision, and what.
type Revert struct {
	Revision int64  `json:"revision,omitempty"`
	Snapshot string `json:"snapshot,omitempty"` // instead of a revision
	Profile  string `json:"profile,omitempty"`  // only this profile and its place
}

// Candidate is a blade where a profile may live.
type Candidate struct {
	Blade  string        `json:"blade"`
	Fits   bool          `json:"fits"`
	WhyNot *Error        `json:"whyNot,omitempty"`
	PFs    []PFCandidate `json:"pfs"`
}

// PFCandidate is a PF of a candidate.
type PFCandidate struct {
	Name          string `json:"name"`
	FreeVFs       int    `json:"freeVFs"`
	Guaranteeable string `json:"guaranteeable"` // what may still be promised; - if the link's speed is not known
	WhyNot        *Error `json:"whyNot,omitempty"`
}

// Difference is one object that is not as it was; null for what is or was not there.
type Difference struct {
	Touched
	Was json.RawMessage `json:"was"`
	Is  json.RawMessage `json:"is"`
}
