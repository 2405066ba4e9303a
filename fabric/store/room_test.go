package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestScarce: a disk that wavers around one number is not full and roomy in turn.
func TestScarce(t *testing.T) {
	full := false
	for i, c := range []struct {
		free int64
		want bool
	}{{200, false}, {100, false}, {99, true}, {100, true}, {149, true}, {150, false}, {100, false}, {0, true}} {
		if full = scarce(full, c.free, 100); full != c.want {
			t.Errorf("step %d, %d free: %v", i, c.free, full)
		}
	}
}

// onSmallDisk runs the test it is called by again, alone and in a process with mounts of
// its own, with a disk of so many bytes; there it returns the disk's directory. It returns
// "" where the test is done.
func onSmallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	if dir := os.Getenv("BLADEFLOW_SMALL_DISK"); dir != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if os.Geteuid() != 0 {
		must.Have(t, "root", errors.New("mounting a small disk is root's"))
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	child.Env = append(os.Environ(), "BLADEFLOW_SMALL_DISK="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	text, err := child.CombinedOutput()
	if errors.Is(err, syscall.EPERM) { // root of a container that may not mount
		must.Have(t, "root", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	return ""
}

// fill takes all that is left of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}

// until tries again and again, for what somebody who looks at a disk has yet to see.
func until(t *testing.T, what string, done func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = done(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// TestDiskFull: somebody takes the last byte of the disk. Writes are refused with the
// reason, everything else goes on, also after a restart, and writes go on when there is
// room; nothing that was said to be written is lost.
func TestDiskFull(t *testing.T) {
	dir := onSmallDisk(t, 400<<20)
	if dir == "" {
		return
	}
	c := ServerConfig{Dir: filepath.Join(dir, "data")}
	s := started(t, c)
	client := dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})
	if _, err := Init(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	lease, err := client.Lease(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Txn(t.Context(), nil, []Op{PutLeased("/leased", []byte("{}"), lease)}); err != nil {
		t.Fatal(err)
	}
	written := 0
	put := func(on *Client) error {
		_, err := on.Txn(t.Context(), nil, []Op{Put(Wanted("blob", "default", fmt.Sprint(written)), make([]byte, 10_000))})
		if err == nil {
			written++
		}
		return err
	}
	for range 100 {
		if err := put(client); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(on *Client) func() error {
		return func() error {
			if err := put(on); !errors.Is(err, ErrNoSpace) {
				return fmt.Errorf("a write on a full disk: %v", err)
			}
			return nil
		}
	}
	readable := func(on *Client) {
		t.Helper()
		list, _, err := on.List(t.Context(), AllWanted)
		if err != nil || len(list) != written {
			t.Errorf("%d of %d, %v", len(list), written, err)
		}
	}
	file := filepath.Join(dir, "fill")
	fill(t, file)
	until(t, "full", refused(client))
	for range 2000 { // that are refused are not free of charge in a log
		if err := refused(client)(); err != nil {
			t.Fatal(err)
		}
	}
	wantFault(t, put(client), "E_NO_SPACE", "disk")
	readable(client)
	select {
	case <-lease.Lost():
		t.Error("a lease that there was has run out")
	case err := <-s.Failed():
		t.Fatalf("the store ended: %v", err)
	default:
	}
	if _, err := client.Txn(t.Context(), nil, []Op{Delete("/leased")}); err != nil {
		t.Errorf("deleting makes the store no larger: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := client.Lease(ctx, time.Second); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a new lease: %v", err)
	}

	s.Stop()
	s = started(t, c)
	again := dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})
	until(t, "full, after a restart", refused(again))
	readable(again)
	if _, err := Init(t.Context(), again); err != nil {
		t.Errorf("a manager that starts on a full disk: %v", err)
	}
	s.Stop()
	if err := os.Remove(file); err != nil { // while nobody looks
		t.Fatal(err)
	}
	s = started(t, c)
	again = dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})
	until(t, "room, after a restart", func() error { return put(again) })
	fill(t, file)
	until(t, "full once more", refused(again))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	until(t, "room", func() error { return put(again) })
	readable(again)
}
