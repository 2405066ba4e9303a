// Package offload decides which rules run in a device and puts them there.
//
// The deciding half is pure: [NewPlan] turns what is installed, what is wanted and
// what the device can do into a [Plan]. The doing half is [Run]. Software always
// holds the whole table and a device is a sound partial function of it: for every
// packet it misses, punts, or says what the table says. So the software swap is the
// one commit point, and a lost, refused or evicted entry costs speed and never
// correctness.
//
// Whether a plan or a read-back is right is not for this package to say: a checker
// that shares no code with it (package verify) is passed to Run as a function.
//
// Start reading with [Driver], [Plan] and [Run].
package offload
