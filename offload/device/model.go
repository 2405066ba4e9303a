// Package device says what a family of NICs can do, as plain data: which fields
// and masks its match table takes, how it orders entries, which actions it has,
// how many entries fit, and which packets it never answers. Planner, checker and
// capacity report read the same [Model]. The package does no I/O beyond its
// embedded files. Start reading with [Model].
package device

import "github.com/bladeflow/bladeflow/flow"

// Order says which of several matching entries a device lets answer.
type Order string

// What devices do with priorities.
const (
	Honoured  Order = "honoured"  // the highest priority answers; among equals any
	Undefined Order = "undefined" // any matching entry may answer
)

// Model is what one kind of device can do.
type Model struct {
	Name    string
	Order   Order
	Entries int // how many entries fit; 0 if not known
	// Missed are packets the device never answers whatever entries it holds: they
	// reach software unchanged. It is the device's denotation: an entry really
	// matches Entry.Match minus Missed.
	Missed []flow.Match
}
