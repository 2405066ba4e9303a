// Package manager is the fabric's side of bladeflow: it keeps what users want in the
// store, tells each blade its part, and shows what the blades answer. Any number of
// managers may run: all serve the API and accept changes, and the one that leads
// compiles and publishes. A manager holds no state that is not in the store.
//
// It never touches a kernel: what happens on a blade is its agent's, and the two
// share nothing but the records of package api. It refuses to run with the right to
// change networks ([Unprivileged]).
//
// Start reading with [Manager.Run]; then view.go, what a manager knows; change.go, how
// that changes; order.go, which blade may be told what now; routes.go, the API.
package manager
