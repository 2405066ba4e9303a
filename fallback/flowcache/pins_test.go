package flowcache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// What is pinned: who comes after an owner, and what one that came to nothing leaves.

// pinDir is a directory to be on a bpffs of the test's own.
func pinDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must.Have(t, "xdp", unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "cache")
}

// TestAdopt pins a cache, lets go of it and adopts it: what it knows it answers all the
// time, and counters go on.
func TestAdopt(t *testing.T) {
	inNamespace(t)
	dir := pinDir(t)
	k := open(t, Config{PinDir: dir}, PortConfig{})
	epoch := begin(t, k)
	put(t, k, epoch, frame(1), Verdict{Op: Pass}, true)
	check(t, k, frame(1), xdpPass)
	check(t, k, frame(2), xdpDrop)
	if _, err := Open(Config{PinDir: dir}); err == nil {
		t.Error("opened twice")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if dev, err := netlink.LinkByIndex(loopback); err != nil || dev.Attrs().Xdp == nil || !dev.Attrs().Xdp.Attached {
		t.Errorf("nothing answers without an owner: %v", err)
	}
	k = open(t, Config{PinDir: dir}, PortConfig{Fail: ToKernel})
	check(t, k, frame(1), xdpPass)
	check(t, k, frame(2), xdpPass)
	if k.Counters()[42].Packets != 2 {
		t.Errorf("counters: %v", k.Counters())
	}
	if _, s, _ := k.Port(here); s.Unheard != 2 {
		t.Errorf("port: %+v", s)
	}
	if next := begin(t, k); next != epoch+1 {
		t.Errorf("epoch %d after %d", next, epoch)
	}
	check(t, k, frame(1), xdpPass) // by default
	if k.Counters()[42].Packets != 2 {
		t.Errorf("counters: %v", k.Counters())
	}

	// Another size is another cache, on the same ports.
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t, Config{PinDir: dir, Flows: 64}, PortConfig{})
	check(t, k, frame(1), xdpDrop)
	if len(k.Counters()) != 0 {
		t.Errorf("counters: %v", k.Counters())
	}

	// Ports that nobody attaches are let go of with the first epoch.
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k, err := Open(Config{PinDir: dir, Flows: 64})
	if err != nil {
		t.Fatal(err)
	}
	begin(t, k)
	if dev, err := netlink.LinkByIndex(loopback); err != nil || dev.Attrs().Xdp != nil && dev.Attrs().Xdp.Attached {
		t.Errorf("still attached: %v", err)
	}
	if err := k.Attach(here, loopback, PortConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

// TestResume restarts owners with the same table and with another one: the first loses no
// flow, and nobody is asked between Open and Begin.
func TestResume(t *testing.T) {
	inNamespace(t)
	dir := pinDir(t)
	k := open(t, Config{PinDir: dir}, PortConfig{})
	first := Digest{1}
	epoch := beginWith(t, k, first)
	put(t, k, epoch, frame(1), Verdict{Op: Pass}, true)
	for range 3 {
		identity := k.Stats().Identity
		k.Close()
		k = open(t, Config{PinDir: dir}, PortConfig{})
		hangUp := listen(t, k)
		check(t, k, frame(1), xdpPass)
		check(t, k, frame(2), xdpDrop)
		if again := beginWith(t, k, first); again != epoch || k.Stats().Identity != identity {
			t.Fatalf("epoch %d after %d, of another cache: %t", again, epoch, k.Stats().Identity != identity)
		}
		check(t, k, frame(1), xdpPass)
		check(t, k, frame(2), xdpRedirect)
		hangUp()
	}
	put(t, k, epoch, frame(3), Verdict{Op: Drop}, true)
	k.Close()
	k = open(t, Config{PinDir: dir}, PortConfig{Fail: ToKernel})
	check(t, k, frame(3), xdpDrop)
	if next := beginWith(t, k, Digest{2}); next != epoch+1 {
		t.Errorf("epoch %d after %d", next, epoch)
	}
	check(t, k, frame(3), xdpPass) // forgotten, and nobody listens
	identity := k.Stats().Identity
	k.Close()
	other, err := Open(Config{PinDir: dir, Flows: 64})
	if err != nil {
		t.Fatal(err)
	}
	if other.Stats().Identity == identity {
		t.Error("another memory has the same identity")
	}
	other.Destroy()
}

// TestUnused closes a cache that never had a table: nothing of it stays, unless there was
// something before.
func TestUnused(t *testing.T) {
	inNamespace(t)
	dir := pinDir(t)
	k := open(t, Config{PinDir: dir}, PortConfig{})
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	k = open(t, Config{PinDir: dir}, PortConfig{})
	begin(t, k)
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		k = open(t, Config{PinDir: dir}, PortConfig{})
		if k.fresh {
			t.Error("what was in use is gone")
		}
	}
}

// TestPinsHalfReplaced kills an owner while it puts new maps over those of another size: who
// comes next adopts nothing of the mixture.
func TestPinsHalfReplaced(t *testing.T) {
	inNamespace(t)
	dir := pinDir(t)
	k := open(t, Config{PinDir: dir}, PortConfig{})
	put(t, k, beginWith(t, k, Digest{1}), frame(1), Verdict{Op: Pass}, true)
	identity := k.Stats().Identity
	k.Close()
	if err := os.Remove(filepath.Join(dir, xdp.CacheMapControl)); err != nil { // the first step
		t.Fatal(err)
	}
	k = open(t, Config{PinDir: dir}, PortConfig{})
	if s := k.Stats(); s.Identity == identity || s.Flows != 0 {
		t.Errorf("adopted: %+v", s)
	}
	begin(t, k)
	k.Close()
	k = open(t, Config{PinDir: dir}, PortConfig{})
	if k.fresh {
		t.Error("the new maps are not pinned")
	}
}
