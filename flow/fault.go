package flow

// Fault is an error as users see it: what failed, why, and what to do about it,
// with a code that is the same in the CLI, the API and the pages and never changes.
type Fault struct {
	Code   string // E_…
	What   string // the object and its place: "web.yaml:7:13: field dst_port"
	Why    string
	Remedy string
	Err    error // the cause, if there is one
}

// Error returns `what: why: what to do` on one line.
func (f *Fault) Error() string {
	s := f.What + ": " + f.Why
	if f.Remedy != "" {
		s += ": " + f.Remedy
	}
	return s
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }
