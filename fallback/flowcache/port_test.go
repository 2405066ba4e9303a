package flowcache

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// Ports and their devices, which come, go, and change.

// TestPortsChange restarts an owner whose ports have other devices. By what the one before
// has put in, frames would leave elsewhere, so it is forgotten; and the ways out of ports
// that are no more are closed. Ways are opened by hand, whatever the kernel says of the devices.
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
		if err := errors.Join(k.Attach(7, index("a"), PortConfig{}), k.hush(), k.openWay(7, index("a"), true), k.openWay(9, loopback, true)); err != nil {
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
			if err := errors.Join(k.Attach(n, ifindex, PortConfig{}), k.hush(), k.openWay(n, ifindex, true)); err != nil {
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
	if err := errors.Join(k.Attach(7, ifindex, PortConfig{}), k.hush(), k.openWay(7, ifindex, true)); err != nil {
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
	for round := range 3 {
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
		if round == 0 { // the kernel says so itself
			if err := peer.Close(); err != nil {
				t.Fatal(err)
			}
			for k.Takes(7) != 0 {
				runtime.Gosched()
			}
		}
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
