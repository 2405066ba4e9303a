package packet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestSend sends a batch over a veth and receives it again at the other end.
func TestSend(t *testing.T) {
	ns, err := netns.New(fmt.Sprintf("bfpacket%d", os.Getpid()))
	must.Have(t, "veth", err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	for _, name := range []string{"a", "b"} {
		l, err := ns.Links().LinkByName(name)
		if err == nil {
			err = ns.Links().LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var s *Socket
	var tap int
	err = ns.Do(func() (err error) {
		if _, err = Open("gone"); err == nil {
			return errors.New("a netdev that is not there was opened")
		}
		if s, err = Open("a"); err != nil {
			return err
		}
		b, err := ns.Links().LinkByName("b")
		if err != nil {
			return err
		}
		const everything = 3 << 8 // ETH_P_ALL, big endian
		if tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, everything); err != nil {
			return err
		}
		return unix.Bind(tap, &unix.SockaddrLinklayer{Ifindex: b.Attrs().Index, Protocol: everything})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer unix.Close(tap)
	if err := unix.SetsockoptTimeval(tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		t.Fatal(err)
	}

	frames := make([][]byte, Batch)
	for i := range frames {
		frames[i] = append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5}, bytes.Repeat([]byte{byte(i)}, 46+i)...)
	}
	for rest := frames; len(rest) > 0; {
		n, err := s.Send(rest)
		if err != nil && !Passing(err) {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	got := make([]byte, 2048)
	for i, want := range frames {
		n, err := unix.Read(tap, got)
		for err == unix.EINTR {
			n, err = unix.Read(tap, got)
		}
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("frame %d: %v: got %x, want %x", i, err, got[:max(0, n)], want)
		}
	}
	if n, err := s.Send([][]byte{make([]byte, 3000)}); n != 0 || err != unix.EMSGSIZE || Passing(err) {
		t.Errorf("a frame beyond the MTU: %d, %v", n, err)
	}
}
