package flow

import (
	"fmt"
	"strings"
)

// Fault is an error as users see it: what failed, why, and what to do about it,
// with a code that is the same in the CLI, the API and the pages and never changes.
type Fault struct {
	Code   string // E_…
	What   string // the object and its place: "web.yaml:7:13: field dst_port"
	Why    string
	Remedy string
	Err    error // the cause, if there is one
	Offset int   // where the fault is in a text that was read, in bytes; see [Term]
}

// Error returns `what: why: what to do` on one line.
func (f *Fault) Error() string {
	s := f.What + ": " + f.Why
	if f.Remedy != "" {
		s += ": " + f.Remedy
	}
	return s
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Suggest returns a remedy for a word that is none of known: the nearest one if it
// is near (at most a third of the letters differ), else all of them.
func Suggest(word string, known ...string) string {
	best, distance := "", len(word)/3+1
	for _, k := range known {
		if d := editDistance(word, k); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "use one of " + strings.Join(known, ", ")
}

// editDistance counts the bytes to insert, delete, replace or swap with the next to
// make b of a (Damerau and Levenshtein, without edits inside a swap).
func editDistance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	before, last, now := rows[0], rows[1], rows[2]
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
