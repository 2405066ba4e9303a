// Package flowtest makes what bladeflow is tested with: small universes in which
// every key can be tried ([Universe]), and random rules, actions and frames.
//
// Everything is a function of a random source or a seed: the same seed gives the
// same bytes on every machine. The package does no I/O, and nothing in it decides
// what a rule means; that is package flow.
//
// Start reading with [Universe].
package flowtest
