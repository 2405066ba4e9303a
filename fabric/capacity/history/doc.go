// Package history records demand and reads it back: 5-minute values become hours and
// days in one SQLite file that operators can open themselves.
//
//	sample(series, span, ts, n, mean, p95, max)     span 300, 3600 or 86400 seconds
//
// A [Recorder] turns counters into 5-minute samples, a [Store] keeps them, rolls them
// up and prunes them, and [Store.Fill] puts the days into a capacity.Input. The
// package decides nothing about capacity.
//
// Start reading with [Store].
package history

import (
	"math"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric/capacity"
)

// The spans of time that a sample covers.
const (
	Minutes = 5 * time.Minute
	Hour    = time.Hour
	Day     = 24 * time.Hour
)

// Sample is one series over one span.
type Sample struct {
	Series string
	Start  time.Time // a multiple of the span since 1970, UTC
	Count  int       // polls in 5 minutes; in an hour or a day, the 5-minute samples it is made of
	Mean   float64   // in the unit of the dimension
	P95    float64   // of the polls; of the 5-minute means
	Max    float64
}

// Name returns what the series of one dimension of one scope is called. name is the
// scope's in the report: BLADE/NIC/PF for a port or PF; the fleet's is not used.
func Name(d capacity.Dimension, level capacity.Level, name string) string {
	if level == capacity.FleetLevel {
		return string(d) + "/fleet"
	}
	return string(d) + "/" + string(level) + "/" + name
}

// percentile95 returns the smallest value that at least 95 % of values do not exceed.
// It sorts values, of which there is at least one.
func percentile95(values []float64) float64 {
	slices.Sort(values)
	rank := int(math.Ceil(float64(len(values)) * 95 / 100))
	return values[max(rank, 1)-1]
}
