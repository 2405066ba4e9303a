package flowcache

import (
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// The tests of this file have the kernel as their oracle: run them with -count=1. They
// run the program itself on single frames, which then come in by the loopback device.

const (
	loopback = 1 // ifindex
	here     = flow.Port(3)
)

// The program's answers: enum xdp_action.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// inNamespace moves the test into a network namespace of its own, with its loopback up.

func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked where it fails: the thread is then thrown away
	home, err := netns.Get()
	must.Have(t, "veth", err)
	own, err := netns.New()
	must.Have(t, "veth", err)
	t.Cleanup(func() {
		own.Close()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
	})
	lo, err := netlink.LinkByIndex(loopback)
	if err != nil {
		t.Fatal(err)
	}
	must.Have(t, "veth", netlink.LinkSetUp(lo))
}

// open opens a cache whose port is the loopback device.
func open(t *testing.T, c Config, p PortConfig) *Cache {
	t.Helper()
	k, err := Open(c)
	must.Have(t, "xdp", err)
	must.Have(t, "xdp", k.Attach(here, loopback, p))
	t.Cleanup(func() { k.Close() })
	return k
}

// frame is a frame of a flow.
func frame(last byte) []byte {
	f := make([]byte, 60)
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, last, 0x88, 0xb5})
	return f
}

// check runs the program on a frame.
func check(t *testing.T, k *Cache, f []byte, want uint32) {
	t.Helper()
	p, err := k.program(true)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := p.Test(f)
	if err != nil || got != want {
		t.Errorf("the program says %d, %v on %x, want %d", got, err, f, want)
	}
}

var everything = func() (k flow.Key) {
	for f := range flow.NumFields {
		k.Set(f, f.Max())
	}
	return k
}()

// begin starts an epoch and returns it settled.
func begin(t *testing.T, k *Cache) uint64 {
	t.Helper()
	return beginWith(t, k, Digest{})
}

// beginWith is begin with a table.
func beginWith(t *testing.T, k *Cache, of Digest) uint64 {
	t.Helper()
	epoch, err := k.Prepare(everything, of)
	k.Begin(epoch)
	if err := errors.Join(err, k.Settle()); err != nil {
		t.Fatal(err)
	}
	return epoch
}

// put installs a verdict for a frame.
func put(t *testing.T, k *Cache, epoch uint64, f []byte, v Verdict, want bool) {
	t.Helper()
	key, err := flow.Parse(f, here)
	if err != nil {
		t.Fatal(err)
	}
	if got := k.Install(epoch, []Flow{{&key, v, 42}}) == 1; got != want {
		t.Errorf("Install: %v, want %v", got, want)
	}
}

// TestVerdicts installs each kind of verdict and runs the program, in this epoch and the next.
func TestVerdicts(t *testing.T) {
	inNamespace(t)
	k := open(t, Config{}, PortConfig{Fail: ToKernel})
	if mode, _, ok := k.Port(here); !ok || mode != Generic { // a loopback device has no XDP of its own
		t.Errorf("attached: %v, mode %q", ok, mode)
	}
	if k.reach[here] {
		t.Error("a loopback device takes XDP frames")
	}
	if err := k.openWay(here, loopback, true); err != nil {
		t.Fatal(err)
	}
	epoch := begin(t, k)
	put(t, k, epoch, frame(1), Verdict{Op: Drop}, true)
	put(t, k, epoch, frame(2), Verdict{Op: Pass}, true)
	put(t, k, epoch, frame(3), Verdict{Op: Forward, Port: here}, true)
	put(t, k, epoch, frame(4), Verdict{Op: Forward, Port: 77}, false) // no way out
	for range 2 {
		check(t, k, frame(1), xdpDrop)
		check(t, k, frame(2), xdpPass)
		check(t, k, frame(3), xdpRedirect)
		check(t, k, frame(4), xdpPass) // nobody listens
	}
	if diff := cmp.Diff(map[flow.RuleID]flow.Counter{42: {Packets: 6, Bytes: 360}}, k.Counters()); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if _, s, _ := k.Port(here); s.Unheard != 2 || s.Upcalls != 0 {
		t.Errorf("port: %+v", s)
	}
	old := epoch
	epoch = begin(t, k)
	put(t, k, old, frame(1), Verdict{Op: Drop}, false)
	check(t, k, frame(1), xdpPass)
	put(t, k, epoch, frame(1), Verdict{Op: Drop}, true)
	check(t, k, frame(1), xdpDrop)
	if s := k.Stats(); s.Flows != 1 || s.Installed != 4 || s.Late != 1 {
		t.Errorf("stats: %+v", s)
	}
	if k.Counters()[42].Packets != 7 {
		t.Errorf("counters: %v", k.Counters())
	}
}

// listen makes somebody listen to the port: a socket, which for a frame by itself need
// not be bound.
func listen(t *testing.T, k *Cache) (hangUp func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must.Have(t, "afxdp", err)
	must.Have(t, "afxdp", k.Sockets().Put(Place(here, 0), uint32(fd)))
	return func() { unix.Close(fd) }
}

// TestListening sends unknown frames up only while there is a table and a socket.
func TestListening(t *testing.T) {
	inNamespace(t)
	k := open(t, Config{}, PortConfig{Fail: ToKernel, Upcalls: 1, Burst: 2})
	hangUp := listen(t, k)
	for range 10 {
		check(t, k, frame(1), xdpPass) // no table yet: the socket is asked nothing
	}
	begin(t, k)
	check(t, k, frame(1), xdpRedirect)
	hangUp()
	for range 10 { // and nothing of the bucket is used
		check(t, k, frame(1), xdpPass)
	}
	if _, s, _ := k.Port(here); s != (PortStats{Upcalls: 1, Unheard: 20}) {
		t.Errorf("port: %+v", s)
	}
}

// TestBucket lets through what a port may send up, and drops the rest.
func TestBucket(t *testing.T) {
	inNamespace(t)
	k := open(t, Config{}, PortConfig{Fail: ToKernel, Upcalls: 1, Burst: 10})
	defer listen(t, k)()
	begin(t, k)
	p, err := k.program(true)
	if err != nil {
		t.Fatal(err)
	}
	passed := uint64(0)
	for range 100 {
		action, _, err := p.Test(frame(1))
		if err != nil {
			t.Fatal(err)
		}
		if action == xdpRedirect {
			passed++
		}
	}
	_, s, _ := k.Port(here)
	if passed < 10 || passed > 60 || s.Upcalls != passed || s.Limited != 100-passed { // a second more, a frame more
		t.Errorf("%d frames let through, %+v", passed, s)
	}
}

// TestRefusals are the errors.
func TestRefusals(t *testing.T) {
	inNamespace(t)
	k := open(t, Config{Flows: 4}, PortConfig{})
	refused := func(err error, code string) {
		t.Helper()
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != code || f.Remedy == "" {
			t.Errorf("got %v, want a fault %s with a remedy", err, code)
		}
	}
	refused(k.Attach(0, loopback, PortConfig{}), "E_FLOWCACHE_PORT")
	refused(k.Attach(MaxPort+1, loopback, PortConfig{}), "E_FLOWCACHE_PORT")
	refused(k.Attach(4, 12345, PortConfig{}), "E_FLOWCACHE_PORT")
	refused(k.Attach(4, loopback, PortConfig{}), "E_FLOWCACHE_PORT") // port 3 has it
	for _, c := range []Config{{Flows: 3}, {Flows: 2 * MaxFlows}, {PinDir: filepath.Join(t.TempDir(), "no", "bpffs")}} {
		_, err := Open(c)
		refused(err, "E_FLOWCACHE")
	}
	if got := flow.Port(k.table.mem.Devices[loopback]); got != here {
		t.Errorf("a refused port took the device: it is port %d's", got)
	}
	if err := k.Detach(here); err != nil {
		t.Error(err)
	}
	if err := k.Detach(here); err != nil {
		t.Error("again:", err)
	}
}
