// Package flowtest makes what bladeflow is tested and measured with: small
// universes in which every key can be tried ([Universe]), random actions and frames,
// and large rule sets and traces of the ClassBench kind ([Generate], [Trace]) with
// the statistics that say how alike two sets are ([Measure]).
//
// Everything is a function of a random source or a seed: the same seed gives the
// same bytes on every machine. The package does no I/O, and nothing in it decides
// what a rule means; that is package flow.
//
// Start reading with [Universe], then with the essay in family.go.
package flowtest
