package agent

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// drift is what changed in one device since we last left it, behind our back.
// It is only counted and reported: what to do about it is decided from the dump
// alone, by the same plan as always.
type drift struct {
	missing []flow.Entry // were there and are gone
	was     []flow.Entry // are there and differ; as they were
	altered []flow.Entry // and as they are
	added   []flow.Entry // carry our mark and were not there: orphans
	foreign []flow.Entry // of others: never touched, and no drift
	unsound []flow.Entry // that the checker named
}

// findDrift compares what was left with what is found. left is nil before the
// first look, when everything with our mark is an earlier run's and welcome.
func findDrift(left, found []flow.Entry) drift {
	mine := ours(found)
	var d drift
	if len(mine) < len(found) {
		for i := range found {
			if !offload.Ours(found[i].ID) {
				d.foreign = append(d.foreign, found[i])
			}
		}
	}
	if left == nil || sameEntries(left, mine) {
		return d
	}
	was, there := byID(left), byID(mine)
	for i := range mine {
		e := &mine[i]
		switch old, known := was[e.ID]; {
		case !known:
			d.added = append(d.added, *e)
		case !old.Equal(e):
			d.was, d.altered = append(d.was, *old), append(d.altered, *e)
		}
	}
	for i := range left {
		if there[left[i].ID] == nil {
			d.missing = append(d.missing, left[i])
		}
	}
	return d
}

// size returns how many entries drifted.
func (d *drift) size() int { return len(d.missing) + len(d.altered) + len(d.added) }

// remaining returns how many of them are still as they were found: altered or added
// entries that are there unchanged, and missing ones that are wanted and not there.
func (d *drift) remaining(wanted func(flow.EntryID) bool, now []flow.Entry) int {
	n, there := 0, byID(now)
	for _, was := range d.missing {
		if there[was.ID] == nil && wanted(was.ID) {
			n++
		}
	}
	for _, was := range d.was {
		if e := there[was.ID]; e != nil && !e.Equal(&was) {
			n++
		}
	}
	for _, e := range d.added {
		if is := there[e.ID]; is != nil && is.Equal(&e) && !wanted(e.ID) {
			n++
		}
	}
	return n
}

// class is a kind of entry that is in a device and should not be, or not so.
type class struct {
	name    string
	entries []flow.Entry
}

// strange lists them by class, the worst first.
func (d *drift) strange() []class {
	return []class{{"unsound", d.unsound}, {"altered", d.altered}, {"orphaned", d.added}, {"foreign", d.foreign}}
}

// byID finds entries by their ID.
func byID(entries []flow.Entry) map[flow.EntryID]*flow.Entry {
	m := make(map[flow.EntryID]*flow.Entry, len(entries))
	for i := range entries {
		m[entries[i].ID] = &entries[i]
	}
	return m
}

// sameEntries reports whether two dumps are the same, in the same order: another order
// is read as another dump.
func sameEntries(a, b []flow.Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(&b[i]) {
			return false
		}
	}
	return true
}

// ours returns the entries with our mark, as they are if all have it.
func ours(entries []flow.Entry) []flow.Entry {
	if entries != nil && foreign(entries) == 0 {
		return entries
	}
	return slices.DeleteFunc(slices.Clone(entries), func(e flow.Entry) bool { return !offload.Ours(e.ID) })
}

// foreign counts the entries without our mark.
func foreign(entries []flow.Entry) (n int) {
	for i := range entries {
		if !offload.Ours(entries[i].ID) {
			n++
		}
	}
	return n
}

func ids(entries []flow.Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%016x", uint64(e.ID)))
	}
	slices.Sort(out)
	return out
}
