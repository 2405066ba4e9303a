package api

import (
	"errors"

	"github.com/bladeflow/bladeflow/flow"
)

// Error is a fault on the wire: what failed, why, what to do, and the code that the
// CLI and the pages use, too.
type Error struct {
	Code   string `json:"code"`
	What   string `json:"what"`
	Why    string `json:"why"`
	Remedy string `json:"remedy,omitempty"`
}

// NewError returns the wire form of err; E_INTERNAL if it is no fault.
func NewError(err error) *Error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*flow.Fault](err); ok {
		return &Error{f.Code, f.What, f.Why, f.Remedy}
	}
	return &Error{Code: "E_INTERNAL", What: "bladeflow", Why: err.Error()}
}

// Fault returns the fault that e says.
func (e *Error) Fault() *flow.Fault {
	return &flow.Fault{Code: e.Code, What: e.What, Why: e.Why, Remedy: e.Remedy}
}

// Error returns `what: why: what to do` on one line.
func (e *Error) Error() string { return e.Fault().Error() }
