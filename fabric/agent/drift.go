package agent

import (
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// drift is what changed in one device since we last left it, behind our back.
// It is only counted and reported: what to do about it is decided from the dump
// alone, by the same plan as always.
type drift struct {
	missing []flow.Entry // were there and are gone
	altered []flow.Entry // are there and differ; as they were
	added   []flow.Entry // carry our mark and were not there
	foreign int          // entries of others: never touched, and no drift
}

// findDrift compares what was left with what is found. left is nil before the
// first look, when everything with our mark is an earlier run's and welcome.
func findDrift(left map[flow.EntryID]flow.Entry, found []flow.Entry) drift {
	var d drift
	there := make(map[flow.EntryID]bool, len(found))
	for _, e := range found {
		if !offload.Ours(e.ID) {
			d.foreign++
			continue
		}
		there[e.ID] = true
		was, known := left[e.ID]
		switch {
		case left == nil:
		case !known:
			d.added = append(d.added, e)
		case !was.Equal(&e):
			d.altered = append(d.altered, was)
		}
	}
	for id, was := range left {
		if !there[id] {
			d.missing = append(d.missing, was)
		}
	}
	return d
}

// size returns how many entries drifted.
func (d *drift) size() int { return len(d.missing) + len(d.altered) + len(d.added) }

// remaining returns how many of them are still as they were found: altered or added
// entries that are there unchanged, and missing ones that are wanted and not there.
func (d *drift) remaining(wanted func(flow.EntryID) bool, now map[flow.EntryID]flow.Entry) int {
	n := 0
	for _, was := range d.missing {
		if _, there := now[was.ID]; !there && wanted(was.ID) {
			n++
		}
	}
	for _, was := range d.altered {
		if e, there := now[was.ID]; there && !e.Equal(&was) {
			n++
		}
	}
	for _, e := range d.added {
		if is, there := now[e.ID]; there && is.Equal(&e) && !wanted(e.ID) {
			n++
		}
	}
	return n
}

// byID returns the entries with our mark by ID.
func byID(entries []flow.Entry) map[flow.EntryID]flow.Entry {
	m := make(map[flow.EntryID]flow.Entry, len(entries))
	for _, e := range entries {
		if offload.Ours(e.ID) {
			m[e.ID] = e
		}
	}
	return m
}
