package softnic

//go:generate bpf2go -go-package softnic -target bpfel -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -no-global-types tap internal/xdp/bpf/tap.c

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// cables are the netdevs of a card with three ports and their far ends, in two
// namespaces without names: the card's, and the world, where every end has a tap.
type cables struct {
	card, world netns.NsHandle
	ports       []Port
	links       *netlink.Handle // in the world
	taps        tapObjects
	frames      *ringbuf.Reader
	ends        map[uint32]end // by ifindex in the world
}

// end is the far end of a cable: the workload of a port, or its representor.
type end struct {
	port flow.Port
	rep  bool
}

// String returns the netdev's name.
func (e end) String() string {
	if e.rep {
		return fmt.Sprintf("rep%d", e.port)
	}
	return fmt.Sprintf("eth%d", e.port)
}

// arrival is a frame that a tap saw.
type arrival struct {
	at    end
	bytes []byte
}

// in runs f on a thread inside a namespace. The thread ends with f.
func in(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the goroutine takes the thread with it
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// newNamespace makes a namespace in which no netdev speaks of its own accord.
func newNamespace(tb testing.TB) netns.NsHandle {
	tb.Helper()
	var ns netns.NsHandle
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		var err error
		if ns, err = netns.New(); err == nil {
			for _, conf := range []string{"all", "default"} {
				err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", []byte("1"), 0))
			}
			if errors.Is(err, os.ErrNotExist) {
				err = nil // a kernel without IPv6
			}
		}
		done <- err
	}()
	must.Have(tb, "veth", <-done)
	tb.Cleanup(func() { ns.Close() })
	return ns
}

func newCables(tb testing.TB) *cables {
	tb.Helper()
	c := &cables{card: newNamespace(tb), world: newNamespace(tb), ends: map[uint32]end{}}
	var err error
	if c.links, err = netlink.NewHandleAt(c.world); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.links.Close() })
	must.Have(tb, "xdp", loadTapObjects(&c.taps, nil))
	tb.Cleanup(func() { c.taps.Close() })
	if c.frames, err = ringbuf.NewReader(c.taps.Records); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.frames.Close() })
	for p := flow.Port(1); p <= 3; p++ {
		c.ports = append(c.ports, Port{p, fmt.Sprintf("v%d", p), fmt.Sprintf("r%d", p)})
		c.lay(tb, end{p, false}, fmt.Sprintf("v%d", p))
		c.lay(tb, end{p, true}, fmt.Sprintf("r%d", p))
	}
	c.hold(tb)
	return c
}

// hold puts the send program on a netdev that nobody uses. The kernel calls XDP
// programs through a table; to put a program into it and out of it again for one
// test run takes 27 ms.
func (c *cables) hold(tb testing.TB) {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "spare"
	if err := c.links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "unused", PeerTxQLen: -1}); err != nil {
		tb.Fatal(err)
	}
	err := in(c.world, func() error {
		spare, err := netlink.LinkByName("spare")
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: c.taps.Send, Interface: spare.Attrs().Index, Flags: link.XDPDriverMode})
		if err == nil {
			tb.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// lay makes one cable and puts a tap on its far end, which also gives it NAPI:
// without, frames redirected to it vanish.
func (c *cables) lay(tb testing.TB, e end, near string) {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = e.String(), 1600
	must.Have(tb, "veth", c.links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: near, PeerMTU: 1600, PeerTxQLen: -1, PeerNamespace: netlink.NsFd(c.card)}))
	far, err := c.links.LinkByName(e.String())
	if err != nil {
		tb.Fatal(err)
	}
	c.ends[uint32(far.Attrs().Index)] = e
	err = in(c.world, func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: c.taps.Tap, Interface: far.Attrs().Index, Flags: link.XDPDriverMode})
		if err == nil {
			tb.Cleanup(func() { l.Close() })
		}
		return errors.Join(err, c.links.LinkSetUp(far))
	})
	must.Have(tb, "xdp", err)
	err = in(c.card, func() error {
		l, err := netlink.LinkByName(near)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// plug makes a card of the cables' near ends.
func (c *cables) plug(tb testing.TB, entries int) *NIC {
	tb.Helper()
	var n *NIC
	dir := pinDir(tb)
	err := in(c.card, func() (err error) {
		n, err = Create(Config{Name: "cables", Ports: c.ports, Entries: entries, PinDir: dir})
		return err
	})
	must.Have(tb, "xdp", err)
	tb.Cleanup(func() {
		if err := n.Destroy(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// ifindex returns the far end's number in the world.
func (c *cables) ifindex(at end) uint32 {
	for i, e := range c.ends {
		if e == at {
			return i
		}
	}
	panic("no end " + at.String())
}

// transmit sends a frame out of a far end as its owner does: through a socket, so
// that it arrives at the card as a socket buffer.
func (c *cables) transmit(from end, frame []byte) error {
	return in(c.world, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(c.ifindex(from))})
	})
}

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES.
const liveFrames = 2

// blast sends copies of a frame out of a far end as XDP frames, at most 64 at once.
func (c *cables) blast(from end, frame []byte, copies int) error {
	return in(c.world, func() error {
		if err := c.taps.Cable.Put(uint32(0), c.ifindex(from)); err != nil {
			return err
		}
		for {
			_, err := c.taps.Send.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(copies), Flags: liveFrames})
			if !errors.Is(err, unix.EAGAIN) {
				return err
			}
		}
	})
}

// arrivals returns the next n frames that taps see, fewer if none comes for a while.
func (c *cables) arrivals(tb testing.TB, n int) []arrival {
	tb.Helper()
	var out []arrival
	var r ringbuf.Record
	for len(out) < n {
		c.frames.SetDeadline(time.Now().Add(2 * time.Second))
		if !c.next(tb, &r, &out) {
			break
		}
	}
	return out
}

// rest returns the frames that have come already.
func (c *cables) rest(tb testing.TB) []arrival {
	tb.Helper()
	var out []arrival
	var r ringbuf.Record
	for c.frames.SetDeadline(time.Now().Add(-time.Second)); c.next(tb, &r, &out); {
	}
	return out
}

func (c *cables) next(tb testing.TB, r *ringbuf.Record, out *[]arrival) bool {
	tb.Helper()
	err := c.frames.ReadInto(r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if err != nil {
		tb.Fatal(err)
	}
	size := binary.NativeEndian.Uint32(r.RawSample[4:])
	*out = append(*out, arrival{c.ends[binary.NativeEndian.Uint32(r.RawSample)], append([]byte(nil), r.RawSample[8:8+size]...)})
	return true
}
