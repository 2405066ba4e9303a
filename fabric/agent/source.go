package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// Source says what is wanted of the blade: [Files] for a blade that stands alone,
// [Fabric] for one of many. It is asked several times a second, by one goroutine at a
// time.
type Source interface {
	// Wanted returns what is wanted, the same pointer as long as nothing
	// changed. With an error it returns the last that was good, nil if none
	// was: what is wanted now cannot be had, and the error says why.
	Wanted() (*Wanted, error)
}

// Wanted is what one blade shall be. It is never changed once it is handed out.
type Wanted struct {
	Table  *flow.Table
	Digest string         // of what the table was made of; empty if nobody cares
	VNICs  []fabric.Bound // VFs to set up; all others of ours are cleared. For an agent with [Config.VFs]
	Record int64          // revision of the store's record that says so; 0 if none does

	// Restored says that it was wanted before this process, and that nobody has
	// said yet that it still is: no VF's link is switched on for it.
	Restored bool
}

// Handed is a [Source] for a program that makes tables itself. The zero value wants
// nothing yet.
type Handed struct{ wanted atomic.Pointer[Wanted] }

// Want makes t the wanted table.
func (h *Handed) Want(t *flow.Table) {
	if was := h.wanted.Load(); was == nil || was.Table != t {
		h.wanted.Store(&Wanted{Table: t})
	}
}

// Wanted returns the table handed in last.
func (h *Handed) Wanted() (*Wanted, error) { return h.wanted.Load(), nil }

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
	wanted *Wanted
	stamp  string    // what look said when they were read last
	seen   string    // what it said last
	since  time.Time // when it first said that
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

// Wanted reads the files if they changed and have rested. How long they have is taken
// by this process's own clock: the times of files may lie in the future. Cost without
// a change: a stat of each.
func (f *Files) Wanted() (*Wanted, error) {
	if now := f.look(); now != f.seen {
		f.seen, f.since = now, time.Now()
	}
	if f.seen == f.stamp || f.wanted != nil && time.Since(f.since) < f.settle {
		return f.wanted, f.err
	}
	f.stamp = f.seen
	f.err = f.read()
	return f.wanted, f.err
}

// look says which files are there, without reading them. Times tick every few
// milliseconds only; a file renamed into place within one tick has another inode.
func (f *Files) look() (stamp string) {
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
	}
	return stamp
}

func (f *Files) read() error {
	sum := sha256.New()
	var sets []*ruleset.Set
	for _, path := range f.paths {
		data, err := readRegular(path)
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
	if f.wanted != nil && digest == f.digest {
		return nil // touched, or changed and changed back
	}
	next := f.last + 1
	if f.wanted == nil && digest == f.digest && f.last > 0 {
		next = f.last
	}
	t, err := ruleset.Build(next, f.sw, f.ports, sets...)
	if err != nil {
		return err
	}
	f.wanted, f.digest, f.last = &Wanted{Table: t, Digest: digest}, digest, next
	return nil
}

// readRegular reads a file that has an end: to read a pipe would stop the agent, and
// some devices never end.
func readRegular(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return os.ReadFile(path)
}
