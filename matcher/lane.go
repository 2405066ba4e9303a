package matcher

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Lane is one way to look keys up. All lanes give the same answers.
type Lane uint8

// The lanes, slowest to start with.
const (
	Definition Lane = iota // asks flow.Table.Lookup: a linear scan
	PureGo                 // hash tables in plain Go, on every machine
	AVX2                   // the same, 8 keys and 8 rules at a time
	AVX512                 // the same, 16 keys and 16 rules at a time
)

var laneNames = [...]string{"definition", "purego", "avx2", "avx512"}

// String returns the contract's word for l.
func (l Lane) String() string { return laneNames[l] }

// Lanes returns the lanes this machine can run, fastest first.
func Lanes() []Lane { return append(machineLanes(), PureGo, Definition) }

// ParseLane returns the lane called s. A lane that this machine cannot run is a
// *flow.Fault like one that does not exist.
func ParseLane(s string) (Lane, error) {
	lanes := Lanes()
	if i := slices.IndexFunc(lanes, func(l Lane) bool { return l.String() == s }); i >= 0 {
		return lanes[i], nil
	}
	var names []string
	for _, l := range lanes {
		names = append(names, l.String())
	}
	return 0, &flow.Fault{Code: "E_LANE", What: fmt.Sprintf("lane %q", s), Why: "this machine has no such lane",
		Remedy: flow.Suggest(s, names...)}
}

// Option changes what [Compile] makes.
type Option func(*Classifier)

// WithLane chooses the lane; without it, it is the first of [Lanes].
func WithLane(l Lane) Option { return func(c *Classifier) { c.lane = l } }

// SaveMemory makes [Compile] leave out what only makes tables of up to 16k rules faster,
// and takes up to 1.25 MiB for 1,023 rules and 4.4 MiB for more.
func SaveMemory() Option { return func(c *Classifier) { c.compact = true } }
