package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/hwtests/netns"
	"golang.org/x/sys/unix"
)

// A lab is found again by its name, which every namespace and its one directory
// begin with, and that of Scratch ends with: bfPID-START-N-…, where START is when the process PID started, in
// clock ticks since boot, base 36. So a name says by itself whether its owner is
// alive, also if the number PID was given to another process meanwhile.

// stateDir holds one directory per lab: its bpffs and its sysfs trees.
const stateDir = "/run/bladeflow-lab"

// scratch is what the names of directories begin with that [Scratch] makes.
const scratch = "bladeflow-lab-"

// Scratch makes a directory, on disk and for this user alone, for what a program needs
// beside its lab. Who made it removes it; else [Clean] does when that process is gone.
func Scratch() (string, error) {
	for n := 0; ; n++ {
		name, err := newName(n)
		if err != nil {
			return "", err
		}
		dir := filepath.Join(os.TempDir(), scratch+name)
		if err = os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// newName returns the name of this process's n-th lab.
func newName(n int) (string, error) {
	start, err := started(os.Getpid())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("bf%d-%s-%d", os.Getpid(), strconv.FormatUint(start, 36), n), nil
}

// orphaned reports whether name belongs to a lab whose process is gone.
func orphaned(name string) bool {
	rest, ours := strings.CutPrefix(name, "bf")
	parts := strings.Split(rest, "-")
	if !ours || len(parts) < 3 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil || pid <= 0 {
		return false
	}
	start, err := strconv.ParseUint(parts[1], 36, 64)
	if err != nil {
		return false
	}
	have, err := started(pid)
	return errors.Is(err, fs.ErrNotExist) || err == nil && have != start
}

// started returns when a process started, in clock ticks since boot: field 22 of
// /proc/PID/stat. The command, field 2, is in brackets and may hold anything.
func started(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) { // it went away between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the command", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Clean removes what labs left behind whose process is gone: killed, or crashed.
// It never touches a lab whose process lives. [Up] calls it first.
func Clean() error {
	var errs []error
	names, err := netns.Names()
	errs = append(errs, err)
	for _, name := range names {
		if orphaned(name) {
			errs = append(errs, netns.Remove(name))
		}
	}
	dirs, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, d := range dirs {
		if orphaned(d.Name()) {
			errs = append(errs, removeState(filepath.Join(stateDir, d.Name())))
		}
	}
	dirs, err = os.ReadDir(os.TempDir())
	errs = append(errs, err)
	for _, d := range dirs {
		if name, ours := strings.CutPrefix(d.Name(), scratch); ours && orphaned(name) {
			errs = append(errs, os.RemoveAll(filepath.Join(os.TempDir(), d.Name())))
		}
	}
	return errors.Join(errs...)
}

// mountState makes a lab's directory, with a bpffs in it.
func mountState(dir string) error {
	bpf := filepath.Join(dir, "bpf")
	if err := os.MkdirAll(bpf, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bpf", bpf, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", bpf, err)
	}
	return nil
}

// removeState removes a lab's directory and all pins in it. What is not there is no
// error.
func removeState(dir string) error {
	bpf := filepath.Join(dir, "bpf")
	if err := unix.Unmount(bpf, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", bpf, err)
	}
	err := os.RemoveAll(dir)
	os.Remove(stateDir) // fails if other labs are up
	return err
}
