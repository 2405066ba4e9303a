package afxdp

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// What links and kernels do is tested in fallback, where they meet; here is what
// they refuse. The kernel is the oracle: run these with -count=1.

// veth moves the test into a network namespace of its own, with a veth pair of so
// many receive queues, and returns the ifindex of one end.
func veth(t *testing.T, queues int) int {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	must.Have(t, "veth", err)
	t.Cleanup(func() { home.Close() })
	own, err := netns.New()
	must.Have(t, "veth", err)
	t.Cleanup(func() {
		own.Close()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "rep0", queues, queues
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0"}))
	for _, name := range []string{"far0", "rep0"} {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			t.Fatal(err)
		}
		attrs = *dev.Attrs()
	}
	return attrs.Index
}

func checkFault(t *testing.T, err error, code string) {
	t.Helper()
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != code || f.Remedy == "" {
		t.Errorf("got %v, want a fault %s with a remedy", err, code)
	}
}

func TestNoDevice(t *testing.T) {
	veth(t, 1)
	_, err := Open(1 << 20)
	checkFault(t, err, "E_AFXDP")
}

func TestSeveralQueues(t *testing.T) {
	_, err := Open(veth(t, 4))
	checkFault(t, err, "E_AFXDP")
}

func TestTwice(t *testing.T) {
	ifindex := veth(t, 1)
	l, err := Open(ifindex)
	must.Have(t, "afxdp", err)
	defer l.Close()
	_, err = Open(ifindex)
	checkFault(t, err, "E_AFXDP")
}

// TestTooLong covers frames that do not fit a piece of packet memory.
func TestTooLong(t *testing.T) {
	l, err := Open(veth(t, 1))
	must.Have(t, "afxdp", err)
	defer l.Close()
	if err := l.Send(make([]byte, MaxFrame+1)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("too long: %v", err)
	}
	if err := errors.Join(l.Send(make([]byte, MaxFrame)), l.Close()); err != nil {
		t.Error(err)
	}
	if err := l.Flush(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("flush of a closed link: %v", err)
	}
	if _, _, dropped := l.Stats(); dropped != 0 {
		t.Errorf("%d dropped", dropped)
	}
}

// TestOthersDrops: what others could not send by a device that has a tap is no reason to have sent
// less than nothing, and is not forgotten with the device.
func TestOthersDrops(t *testing.T) {
	ifindex := veth(t, 1)
	l, err := Open(ifindex)
	must.Have(t, "afxdp", err)
	defer l.Close()
	must.Have(t, "afxdp", l.Redirect(func() int { return 1514 }))
	far, err := netlink.LinkByName("far0")
	if err == nil {
		err = netlink.LinkSetDown(far)
	}
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(other)
		err = unix.SetsockoptInt(other, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	const theirs = 10
	for range theirs { // the device has no carrier: the error says so, or nothing does
		_ = unix.Sendto(other, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: ifindex})
	}
	if err := l.Send(make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if _, sent, dropped := l.Stats(); sent != 0 || dropped != theirs {
			t.Errorf("%d sent, %d dropped, want 0 and %d", sent, dropped, theirs)
		}
	}
	check()
	if err := netlink.LinkDel(far); err != nil {
		t.Fatal(err)
	}
	check()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestKernelClosed(t *testing.T) {
	k, err := OpenKernel(map[flow.Port]int{1: veth(t, 1)})
	must.Have(t, "xdp", err)
	if err := errors.Join(k.Close(), k.Close()); err != nil {
		t.Error(err)
	}
	if err := k.Deliver(1, make([]byte, 60)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("deliver after close: %v", err)
	}
}

// TestKernelNoDevice tries each device when it opens, and shows what a user reads.
func TestKernelNoDevice(t *testing.T) {
	veth(t, 1)
	_, err := OpenKernel(map[flow.Port]int{3: 999})
	checkFault(t, err, "E_LIVE_FRAMES")
	const want = "pass to the kernel by XDP live frames: try port 3, interface 999: no such device: use a tap device instead"
	if err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
