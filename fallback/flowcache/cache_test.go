package flowcache

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
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

// TestPortsChange restarts an owner whose ports have other devices. By what the one before
// has put in, frames would leave elsewhere, so it is forgotten; and the ways out of ports
// that are no more are closed.
func TestPortsChange(t *testing.T) {
	inNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"}))
	index := func(name string) int {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Index
	}
	out := func(k *Cache, n flow.Port) (ifindex uint32) {
		k.maps.Out.Lookup(uint32(n), &ifindex) // 0 if nothing is there
		return ifindex
	}
	dir := pinDir(t)
	for _, c := range []struct {
		name  string
		ports map[flow.Port]int
		known bool
	}{
		{"the same", map[flow.Port]int{here: loopback, 7: index("a")}, true},
		{"one less", map[flow.Port]int{here: loopback}, true},
		{"another device", map[flow.Port]int{here: loopback, 7: index("b")}, false},
		{"another number", map[flow.Port]int{here: loopback, 8: index("a")}, false},
		{"swapped", map[flow.Port]int{7: loopback, here: index("a")}, false},
	} {
		k := open(t, Config{PinDir: dir}, PortConfig{})
		if err := errors.Join(k.Attach(7, index("a"), PortConfig{}), k.openWay(7, index("a"), true), k.openWay(9, loopback, true)); err != nil {
			t.Fatal(err)
		}
		epoch := beginWith(t, k, Digest{1})
		put(t, k, epoch, frame(1), Verdict{Op: Pass}, true)
		k.Close()

		k, err := Open(Config{PinDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for n, ifindex := range c.ports {
			if err := errors.Join(k.Attach(n, ifindex, PortConfig{}), k.openWay(n, ifindex, true)); err != nil {
				t.Fatal(c.name, err)
			}
		}
		if known := k.Stats().Flows == 1; known != c.known {
			t.Errorf("%s: known %t, want %t", c.name, known, c.known)
		}
		if again := beginWith(t, k, Digest{1}); again == epoch != c.known {
			t.Errorf("%s: epoch %d after %d", c.name, again, epoch)
		}
		for n := flow.Port(1); n < 12; n++ {
			if got := out(k, n); int(got) != c.ports[n] || int(k.table.mem.Ports[n].Ifindex) != c.ports[n] {
				t.Errorf("%s: port %d leaves by %d, and its device is %d, want %d", c.name, n, got, k.table.mem.Ports[n].Ifindex, c.ports[n])
			}
		}
		for n, ifindex := range c.ports {
			if got := k.table.mem.Devices[ifindex]; got != uint64(n) {
				t.Errorf("%s: the device of port %d is known as that of port %d", c.name, n, got)
			}
		}
		if err := k.Destroy(); err != nil {
			t.Error(err)
		}
	}
}

// TestWayBack has a port's device leave the namespace and come back before anybody looks:
// the kernel has taken its way out then, and the next look makes it again.
func TestWayBack(t *testing.T) {
	inNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"}))
	l, err := netlink.LinkByName("a")
	if err != nil {
		t.Fatal(err)
	}
	ifindex := l.Attrs().Index
	k := open(t, Config{}, PortConfig{})
	if err := errors.Join(k.Attach(7, ifindex, PortConfig{}), k.openWay(7, ifindex, true)); err != nil {
		t.Fatal(err)
	}
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	away, err := netns.New() // and the thread is in it
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	if err := errors.Join(netns.Set(home), netlink.LinkSetNsFd(l, int(away)), netns.Set(away), netlink.LinkSetNsFd(l, int(home)), netns.Set(home)); err != nil {
		t.Fatal(err)
	}
	if l, err = netlink.LinkByName("a"); err != nil || l.Attrs().Index != ifindex {
		t.Fatal("the device has another number", err)
	}
	var out uint32
	if err := k.maps.Out.Lookup(uint32(7), &out); err == nil {
		t.Fatal("the kernel kept the way out")
	}
	if err := k.openWay(7, ifindex, true); err != nil {
		t.Fatal(err)
	}
	if err := k.maps.Out.Lookup(uint32(7), &out); err != nil || int(out) != ifindex {
		t.Errorf("the way out is %d, want %d: %v", out, ifindex, err)
	}
}

// TestReview turns a veth's peer into one that takes XDP frames and back: flows leave by
// it from the cache only meanwhile.
func TestReview(t *testing.T) {
	inNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"}))
	index := map[string]int{}
	for _, name := range []string{"a", "b"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
		index[name] = l.Attrs().Index
	}
	netdev, err := family()
	if err == nil {
		_, err = takes(netdev, loopback)
	}
	must.Have(t, "xdp", err)
	k := open(t, Config{}, PortConfig{Fail: ToKernel})
	if err := k.Attach(7, index["a"], PortConfig{}); err != nil {
		t.Fatal(err)
	}
	epoch := begin(t, k)
	to := Verdict{Op: Forward, Port: 7}
	put(t, k, epoch, frame(1), to, false)
	for range 3 {
		p, err := k.program(true)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index["b"], Flags: link.XDPDriverMode})
		must.Have(t, "xdp", err)
		if err := k.Review(); err != nil {
			t.Fatal(err)
		}
		put(t, k, epoch, frame(1), to, true)
		check(t, k, frame(1), xdpRedirect)
		if err := errors.Join(peer.Close(), k.Review()); err != nil {
			t.Fatal(err)
		}
		put(t, k, epoch, frame(1), to, false)
		check(t, k, frame(1), xdpPass) // unknown again
	}
	if n := k.Counters()[42].Packets; n != 3 {
		t.Errorf("%d packets were answered by the cache, want 3", n)
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

// addVeth lays a veth pair a, b with this number for a, or any if it is 0, and returns it.
func addVeth(t *testing.T, ifindex int) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "a", ifindex
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"}))
	l, err := netlink.LinkByName("a")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

// TestDistant attaches a device whose number is beyond those in memory.
func TestDistant(t *testing.T) {
	inNamespace(t)
	const number = 1<<16 + 5
	if got := addVeth(t, number); got != number {
		t.Fatalf("the device has number %d", got)
	}
	dir := pinDir(t)
	k := open(t, Config{PinDir: dir}, PortConfig{})
	if err := k.Attach(7, number, PortConfig{Fail: ToKernel}); err != nil {
		t.Fatal(err)
	}
	beginWith(t, k, Digest{1})
	p, err := k.program(false)
	if err != nil {
		t.Fatal(err)
	}
	context := make([]byte, 24) // struct xdp_md
	binary.NativeEndian.PutUint32(context[4:], 60)
	binary.NativeEndian.PutUint32(context[12:], number)
	if got, err := p.Run(&ebpf.RunOptions{Data: frame(1), Context: context}); err != nil || got != xdpPass {
		t.Errorf("the program says %d, %v, want %d", got, err, xdpPass)
	}
	if _, s, _ := k.Port(7); s.Unheard != 1 {
		t.Errorf("port: %+v", s)
	}
	k.Close()
	k = open(t, Config{PinDir: dir}, PortConfig{})
	if got := k.portOf(number); got != 7 {
		t.Errorf("adopted as the device of port %d", got)
	}
	beginWith(t, k, Digest{1}) // nobody has attached it
	if got := k.portOf(number); got != 0 {
		t.Errorf("still the device of port %d", got)
	}
}

// TestAttachAgain attaches a port that is attached: its settings are new, its link is not.
func TestAttachAgain(t *testing.T) {
	inNamespace(t)
	k := open(t, Config{}, PortConfig{})
	id := func() link.ID {
		i, err := k.ports[here].link.Info()
		if err != nil {
			t.Fatal(err)
		}
		return i.ID
	}
	first := id()
	check(t, k, frame(1), xdpDrop)
	if err := k.Attach(here, loopback, PortConfig{Fail: ToKernel}); err != nil {
		t.Fatal(err)
	}
	check(t, k, frame(1), xdpPass)
	if again := id(); again != first {
		t.Errorf("link %d became %d", first, again)
	}
}

// TestLonger changes a device's MTU: longer frames than it can send are not the cache's.
func TestLonger(t *testing.T) {
	inNamespace(t)
	ifindex := addVeth(t, 0)
	k := open(t, Config{}, PortConfig{Fail: ToKernel})
	if err := k.Attach(7, ifindex, PortConfig{}); err != nil {
		t.Fatal(err)
	}
	long := append(frame(1), make([]byte, 1000)...)
	put(t, k, begin(t, k), long, Verdict{Op: Drop}, true)
	dev, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	for _, mtu := range []int{1500, 1000, 1046, 1045} {
		if err := errors.Join(netlink.LinkSetMTU(dev, mtu), k.Review()); err != nil {
			t.Fatal(err)
		}
		want := uint32(xdpDrop)
		if len(long) > mtu+14 {
			want = xdpPass
		}
		check(t, k, long, want)
	}
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
