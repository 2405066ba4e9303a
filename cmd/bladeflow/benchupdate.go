package main

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/matcher"
)

// updateFigures is how long the update of one rule takes, in CPU time of the thread.
type updateFigures struct {
	PerSecond float64 `json:"per_second"`
	Mean      float64 `json:"mean_ns"`
	P50       float64 `json:"p50_ns"`
	P99       float64 `json:"p99_ns"`
	Max       float64 `json:"max_ns"`
}

// benchUpdates is how many updates are measured.
const benchUpdates = 20_000

// measureUpdates takes random rules out and puts them in again, one after the other, while
// another goroutine looks p up.
func measureUpdates(t rules, p packets) (*updateFigures, error) {
	if t.Len() == 0 {
		return nil, nil
	}
	c := matcher.Compile(t.Table)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := matcher.Batch{Rules: make([]int32, 256)}
		for !stop.Load() {
			for chunk := range slices.Chunk(p.keys, 256) {
				b.Keys = chunk
				c.Lookup(&b)
			}
		}
	}()
	defer func() {
		stop.Store(true)
		<-done
	}()
	clock, err := updateTimes(1000, func() error { return nil })
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	out := -1 // the rule that is not there
	times, err := updateTimes(benchUpdates, func() error {
		if out < 0 {
			out = rng.IntN(t.Len())
			return c.Delete(t.Rule(out).ID)
		}
		r := t.Rule(out)
		out = -1
		return c.Insert(*r)
	})
	if err != nil {
		return nil, err
	}
	var sum time.Duration
	for i := range times {
		times[i] = max(0, times[i]-clock[len(clock)/2]) // without what asking the clock takes
		sum += times[i]
	}
	mean := float64(sum) / float64(len(times))
	at := func(i int) float64 { return float64(times[i]) }
	return &updateFigures{1e9 / max(1, mean), mean, at(len(times) / 2), at(len(times) * 99 / 100), at(len(times) - 1)}, nil
}

// updateTimes returns what n calls of f took, in ascending order.
func updateTimes(n int, f func() error) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	for i := range times {
		start, err := threadTime()
		if err != nil {
			return nil, err
		}
		if err := f(); err != nil {
			return nil, err
		}
		end, err := threadTime()
		if err != nil {
			return nil, err
		}
		times[i] = end - start
	}
	slices.Sort(times)
	return times, nil
}
