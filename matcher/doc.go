// Package matcher compiles a [flow.Table] into a classifier: keys in, places of
// winning rules out, in batches, without allocating, from any number of readers.
//
// It decides nothing of its own. [flow.Table.Lookup] is the meaning of a table and
// the lane called "definition" simply asks it; every other lane has to agree with
// it on every key. The package never looks at frames, actions, counters or devices,
// and imports only package flow and the detection of CPU features.
//
// Start reading with [Compile], [Classifier.Lookup] and the essay in build.go.
package matcher
