package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// Source says which table is wanted. It is asked several times a second, by one
// goroutine at a time.
type Source interface {
	// Wanted returns the wanted table, the same pointer as long as nothing
	// changed. With an error it returns the last table that was good, nil if none
	// was: what is wanted now cannot be had, and the error says why.
	Wanted() (*flow.Table, error)
}

// Handed is a [Source] for a program that makes tables itself. The zero value wants
// nothing yet.
type Handed struct{ table atomic.Pointer[flow.Table] }

// Want makes t the wanted table.
func (h *Handed) Want(t *flow.Table) { h.table.Store(t) }

// Wanted returns the table handed in last.
func (h *Handed) Wanted() (*flow.Table, error) { return h.table.Load(), nil }

// Files is a [Source] that reads rule files: `.flows` files line by line, all others
// as YAML or JSON documents. A changed file is taken as soon as it is well formed
// and has rested for a moment, so that a file that is just being written is not
// read by half; writers that rename a new file into place are safe in any case.
type Files struct {
	paths  []string
	ports  *flow.Ports
	sw     *flow.Switch
	settle time.Duration

	last   flow.Generation
	digest string // of the files that table was made of, or of a run before this one
	table  *flow.Table
	stamp  string // what look said when they were read last
	err    error
}

// settled is how long a file must not have changed before it is read again.
const settled = 200 * time.Millisecond

// NewFiles reads rule files. The table it makes gets the generation after last,
// or last itself if the files have the digest that last had.
func NewFiles(paths []string, ports *flow.Ports, sw *flow.Switch, last flow.Generation, digest string) *Files {
	return &Files{paths: paths, ports: ports, sw: sw, settle: settled, last: last, digest: digest}
}

// Digest returns the SHA-256 of the files that the last good table was made of.
func (f *Files) Digest() string { return f.digest }

// Wanted reads the files if they changed. Cost without a change: a stat of each.
func (f *Files) Wanted() (*flow.Table, error) {
	stamp, newest := f.look()
	if stamp == f.stamp || f.table != nil && time.Since(newest) < f.settle {
		return f.table, f.err
	}
	f.stamp = stamp
	f.err = f.read()
	return f.table, f.err
}

// look says which files are there, without reading them. Times tick every few
// milliseconds only; a file renamed into place within one tick has another inode.
func (f *Files) look() (stamp string, newest time.Time) {
	for _, path := range f.paths {
		info, err := os.Stat(path)
		if err != nil {
			stamp += fmt.Sprintf("%s: %v\n", path, err)
			continue
		}
		var inode uint64
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = st.Ino
		}
		stamp += fmt.Sprintf("%s: %d %d %d\n", path, inode, info.Size(), info.ModTime().UnixNano())
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return stamp, newest
}

func (f *Files) read() error {
	sum := sha256.New()
	var sets []*ruleset.Set
	for _, path := range f.paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return &flow.Fault{Code: "E_RULES_FILE", What: path, Why: err.Error(), Remedy: "make it readable or take it out of spec.rules", Err: err}
		}
		fmt.Fprintf(sum, "%s %d\n", path, len(data))
		sum.Write(data)
		format := ruleset.YAML
		if filepath.Ext(path) == ".flows" {
			format = ruleset.Flows
		}
		more, err := ruleset.Decode(format, path, data, f.ports)
		if err != nil {
			return err
		}
		sets = append(sets, more...)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	if f.table != nil && digest == f.digest {
		return nil // touched, or changed and changed back
	}
	next := f.last + 1
	if f.table == nil && digest == f.digest && f.last > 0 {
		next = f.last
	}
	t, err := ruleset.Build(next, f.sw, f.ports, sets...)
	if err != nil {
		return err
	}
	f.table, f.digest, f.last = t, digest, next
	return nil
}
