package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func newNS(t *testing.T, suffix string) *NS {
	t.Helper()
	n, err := New(fmt.Sprintf("bfnetns%d%s", os.Getpid(), suffix))
	must.Have(t, "veth", err)
	return n
}

func here(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDo(t *testing.T) {
	n := newNS(t, "a")
	defer n.Close()
	outside := here(t)
	boom := errors.New("boom")
	err := n.Do(func() error {
		if here(t) == outside {
			t.Error("not inside")
		}
		links, err := netlink.LinkList()
		if err != nil || len(links) != 1 {
			t.Errorf("a new namespace has %d links (%v), want lo alone", len(links), err)
		}
		if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6"); err == nil && string(b) != "1\n" {
			t.Errorf("disable_ipv6 = %q", b)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Do returned %v", err)
	}
	if here(t) != outside {
		t.Error("still inside")
	}
}

func TestNames(t *testing.T) {
	n := newNS(t, "b")
	has := func() bool {
		names, err := Names()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(names, n.Name)
	}
	if !has() {
		t.Error("a new namespace has no name")
	}
	if _, err := New(n.Name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second namespace of one name: %v", err)
	}
	if !has() {
		t.Error("the failed second one took the first one's name away")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if has() {
		t.Error("a closed namespace keeps its name")
	}
	if err := Remove(n.Name); err != nil {
		t.Errorf("removing a name that is not there: %v", err)
	}
}

func TestUnnamed(t *testing.T) {
	before, err := Names()
	if err != nil {
		t.Fatal(err)
	}
	n, err := NewUnnamed()
	must.Have(t, "veth", err)
	outside := here(t)
	if err := n.Do(func() error {
		if here(t) == outside {
			t.Error("not inside")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if after, err := Names(); err != nil || !slices.Equal(before, after) {
		t.Errorf("names before %v, after %v, %v", before, after, err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// TestHidden removes a namespace that was there when the directory was mounted over
// itself, as the first `ip netns add` does it.
func TestHidden(t *testing.T) {
	newNS(t, "e").Close() // the directory is there
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its mounts
		failed <- func() error {
			if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
				return err
			}
			n, err := New(fmt.Sprintf("bfnetns%df", os.Getpid()))
			if err != nil {
				return err
			}
			if err := unix.Mount(Dir, Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return err
			}
			if err := n.Close(); err != nil {
				return err
			}
			names, err := Names()
			if slices.Contains(names, n.Name) {
				err = fmt.Errorf("%s is still there", n.Name)
			}
			return err
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}
