package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/matcher"
)

// updateFigures is how long the update of one rule takes, in CPU time of the thread, and
// what it costs lookups.
type updateFigures struct {
	PerSecond float64 `json:"per_second"`
	Mean      float64 `json:"mean_ns"`
	P50       float64 `json:"p50_ns"`
	P99       float64 `json:"p99_ns"`
	Max       float64 `json:"max_ns"`
	// LookupsKeep is the share of their speed that lookups keep during steadyUpdates a second.
	LookupsKeep float64 `json:"lookups_keep"`
}

const (
	benchUpdates  = 20_000  // that are measured
	steadyUpdates = 100_000 // a second
)

// measureUpdates takes random rules out and puts them in again, one after the other, while
// another goroutine looks p up.
func measureUpdates(t rules, p packets) (*updateFigures, error) {
	if t.Len() == 0 {
		return nil, nil
	}
	c := matcher.Compile(t.Table, matcher.SaveMemory())
	alone, err := rate(c, p.keys, 256, 0)
	if err != nil {
		return nil, err
	}
	clock, err := updateTimes(1000, 0, func() error { return nil })
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(1, 2))
	out := -1 // the rule that is not there
	update := func() error {
		if out < 0 {
			out = rng.IntN(t.Len())
			return c.Delete(t.Rule(out).ID)
		}
		r := t.Rule(out)
		out = -1
		return c.Insert(*r)
	}
	var times []time.Duration
	if _, err := meanwhile(c, p, func() error {
		var err error
		times, err = updateTimes(benchUpdates, 0, update)
		return err
	}); err != nil {
		return nil, err
	}
	during, err := meanwhile(c, p, func() error {
		_, err := updateTimes(2*benchUpdates, steadyUpdates, update)
		return err
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
	return &updateFigures{1e9 / max(1, mean), mean, at(len(times) / 2), at(len(times) * 99 / 100), at(len(times) - 1), during / alone}, nil
}

// meanwhile looks p up again and again until f returns, and returns the median of the
// lookups in a second of CPU time.
func meanwhile(c *matcher.Classifier, p packets, f func() error) (perSecond float64, err error) {
	var stop atomic.Bool
	var times []time.Duration
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // whose CPU time counts
		defer runtime.UnlockOSThread()
		for len(times) == 0 || !stop.Load() {
			t, err := passTime(c, p.keys, 256, 0)
			if err != nil {
				done <- err
				return
			}
			times = append(times, max(1, t))
		}
		done <- nil
	}()
	err = f()
	stop.Store(true)
	if readerErr := <-done; err == nil {
		err = readerErr
	}
	if err != nil {
		return 0, err
	}
	slices.Sort(times)
	return float64(len(p.keys)) / times[len(times)/2].Seconds(), nil
}

// updateTimes returns what n calls of f took, in ascending order. As many as perSecond are
// made in a second; 0 is as many as possible.
func updateTimes(n int, perSecond float64, f func() error) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	begin := time.Now()
	for i := range times {
		for perSecond > 0 && time.Since(begin).Seconds() < float64(i)/perSecond {
		}
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
