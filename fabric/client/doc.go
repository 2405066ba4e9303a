// Package client speaks the manager's API, version 1, for programs and for the command
// line: typed requests, answers and faults over HTTP, with the certificates of
// `bladeflow pki init`.
//
// It keeps nothing and decides nothing. Whatever goes wrong is a [*flow.Fault]: the
// manager's own, word for word, or one of this package where the manager could not
// answer; wrapped in it is one of the Err… values, for callers that branch.
//
// Start reading with [New], then [Collection] for reading, changes.go for changing,
// and [Client.Watch] for staying up to date.
package client
