package store

import (
	"errors"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// What callers branch on, with errors.Is. Stores return them inside a [flow.Fault],
// which says what, why and what to do.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflict")
	ErrCompacted   = errors.New("compacted")
	ErrDenied      = errors.New("denied")
	ErrUnreachable = errors.New("unreachable")
	ErrNoSpace     = errors.New("no space")
	ErrTooLarge    = errors.New("too large")
	ErrLeaseLost   = errors.New("lease lost")
	ErrClosed      = errors.New("closed")
)

func notFound(key Key) error {
	return &flow.Fault{Code: "E_NOT_FOUND", What: string(key), Why: "not in the store", Err: ErrNotFound}
}

// conflict explains the first compare that does not hold for what is there now; the
// zero KV is an absent key.
func conflict(c Compare, now KV) error {
	var why string
	switch {
	case now.Created == 0:
		why = "it was deleted"
	case c.created && c.revision == 0:
		why = "it exists already"
	case c.created:
		why = fmt.Sprintf("it was made anew at revision %d", now.Created)
	default:
		why = fmt.Sprintf("it was changed at revision %d, after revision %d was read", now.Modified, c.revision)
	}
	return &flow.Fault{Code: "E_CONFLICT", What: string(c.Key), Why: why, Remedy: "read it again and repeat the change", Err: ErrConflict}
}

func compacted(prefix Prefix, after int64, why string) error {
	return &flow.Fault{Code: "E_COMPACTED", What: fmt.Sprintf("changes of %s after revision %d", prefix, after),
		Why: why, Remedy: "list again and watch from there", Err: ErrCompacted}
}

func denied(what, why string) error {
	return &flow.Fault{Code: "E_DENIED", What: what, Why: why,
		Remedy: "use a certificate of the fabric's own CA that is allowed to", Err: ErrDenied}
}

// unreachable keeps the cause, so that a caller can tell its own deadline.
func unreachable(what string, cause error) error {
	return &flow.Fault{Code: "E_UNREACHABLE", What: what, Why: "the store does not answer: " + cause.Error(),
		Remedy: "check that it runs and its address; a change may or may not have been made", Err: errors.Join(ErrUnreachable, cause)}
}

func noSpace(what string) error {
	return &flow.Fault{Code: "E_NO_SPACE", What: what, Why: "the store takes no writes: the disk under it is nearly full, or it has reached its quota",
		Remedy: "make room on its disk, and it goes on by itself; if there is room, bladeflow backup, and bladeflow restore into an empty directory", Err: ErrNoSpace}
}

func tooLarge(what, limit string) error {
	return &flow.Fault{Code: "E_TOO_LARGE", What: what, Why: limit, Remedy: "divide it", Err: ErrTooLarge}
}

func twice(key Key) error {
	return &flow.Fault{Code: "E_KEY_TWICE", What: string(key), Why: "a transaction changes it twice", Remedy: "change it once"}
}

func closed(what string) error {
	return &flow.Fault{Code: "E_CLOSED", What: what, Why: "the store was closed", Err: ErrClosed}
}

// Why a watch cannot go on.
const (
	historyGone  = "the history from there on was compacted"
	storeIsOlder = "the store has not come that far: it was replaced by an older one"
)

func leaseGone(key Key) error {
	return &flow.Fault{Code: "E_LEASE_LOST", What: string(key), Why: "its lease has run out", Remedy: "take a new lease", Err: ErrLeaseLost}
}
