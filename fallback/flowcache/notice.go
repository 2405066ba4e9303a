package flowcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel says at once when a device takes no XDP frames any more: a workload's kernel has
// only to turn GRO off or to end a program for that, and what leaves until it is known is
// lost. What the kernel says is heeded where it closes a way. To open one is left to
// [Cache.Review], which is called every few seconds anyway and in the right namespace.

const netdevChanged = 4 // NETDEV_CMD_DEV_CHANGE_NTF

// listen has the kernel tell of the devices of the calling thread's network namespace, from
// the first call on. Where it does not, Review finds out. mu is held.
func (k *Cache) listen() error {
	if k.notices != nil {
		return nil
	}
	f, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return fmt.Errorf("hear which interfaces take XDP frames: %w", err)
	}
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return fmt.Errorf("hear which interfaces take XDP frames: %w", err)
	}
	for _, g := range f.Groups {
		if g.Name == "mgmt" {
			err = errors.Join(err, unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g.ID)))
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("hear which interfaces take XDP frames: %w", err), s.Close())
	}
	k.notices, k.heard = s, make(chan struct{})
	go k.heed(s, f.ID)
	return nil
}

// heed closes ways until s is closed.
func (k *Cache) heed(s *nl.NetlinkSocket, family uint16) {
	defer close(k.heard)
	for {
		messages, from, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // some are lost: Review finds out
			continue
		case err != nil:
			return
		case from.Pid != nl.PidKernel:
			continue
		}
		for _, m := range messages {
			if ifindex, closed := closing(m.Header.Type, m.Data, family); closed {
				k.closeWays(ifindex)
			}
		}
	}
}

// closing reports whether a message says that a device takes no XDP frames now, and which.
func closing(kind uint16, message []byte, family uint16) (ifindex int, closed bool) {
	if kind != family || len(message) < nl.SizeofGenlmsg || message[0] != netdevChanged {
		return 0, false
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofGenlmsg:])
	if err != nil {
		return 0, false
	}
	for _, x := range attrs {
		switch {
		case x.Attr.Type == netdevIfindex && len(x.Value) == 4:
			ifindex = int(binary.NativeEndian.Uint32(x.Value))
		case x.Attr.Type == netdevXDPFeatures && len(x.Value) == 8:
			closed = binary.NativeEndian.Uint64(x.Value)&featureTransmit == 0
		}
	}
	return ifindex, closed && ifindex > 0
}

// closeWays takes the way out from the port that has a device.
func (k *Cache) closeWays(ifindex int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, p := range k.ports {
		if p.ifindex == ifindex {
			k.closings++
			k.openWay(n, ifindex, false) // cannot fail
		}
	}
}

// hush ends listening.
func (k *Cache) hush() error {
	if k.notices == nil {
		return nil
	}
	err := k.notices.Close()
	<-k.heard
	k.notices = nil
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
