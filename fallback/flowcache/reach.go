package flowcache

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// A device takes XDP frames or drops them without a word: a veth takes them while its peer
// has NAPI, that is an XDP program or GRO, which may change at any time. So a flow may
// leave from the cache only by a device that says it takes them, and by others from Go. A
// kernel that cannot tell (before 6.3) has none.

// The kernel's netdev family: include/uapi/linux/netdev.h.
const (
	netdevGetDevice   = 1 // NETDEV_CMD_DEV_GET
	netdevIfindex     = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDPFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES
	featureTransmit   = 4 // NETDEV_XDP_ACT_NDO_XMIT
)

// family is the number of the kernel's netdev family.
func family() (uint16, error) {
	f, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return 0, fmt.Errorf("ask which interfaces take XDP frames: %w", err)
	}
	return f.ID, nil
}

// takes reports whether a device of the calling thread's network namespace takes XDP
// frames. It asks for one device at a time: the kernel's list of all is not marked as one,
// which ends it for the library after the first.
func takes(family uint16, ifindex int) (bool, error) {
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("ask whether interface %d takes XDP frames: %w", ifindex, err)
	}
	ask := nl.NewNetlinkRequest(int(family), 0)
	ask.AddData(&nl.Genlmsg{Command: netdevGetDevice, Version: 1})
	ask.AddData(nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(uint32(ifindex))))
	answers, err := ask.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return fail(err)
	}
	for _, a := range answers {
		attrs, err := nl.ParseRouteAttr(a[nl.SizeofGenlmsg:])
		if err != nil {
			return fail(err)
		}
		for _, x := range attrs {
			if x.Attr.Type == netdevXDPFeatures && len(x.Value) == 8 {
				return binary.NativeEndian.Uint64(x.Value)&featureTransmit != 0, nil
			}
		}
	}
	return false, nil
}

// Review looks again which devices of ports take XDP frames, and how long ones. Flows that
// leave by one that takes none any more go to Go from now on, and so do frames that are too
// long for some port. The calling thread must be in the devices' network namespace. To be
// called often: a way that the kernel closes is known at once, one that it opens only then, and so is how
// long frames may be. The kernel is asked without the lock that [Cache.Install] needs.
func (k *Cache) Review() error {
	k.mu.Lock()
	devices := map[flow.Port]int{}
	for n, p := range k.ports {
		devices[n] = p.ifindex
	}
	closings := k.closings
	k.mu.Unlock()
	netdev, missing := family()
	open := map[flow.Port]bool{} // none is, if the kernel cannot tell
	lengths := map[flow.Port]int{}
	errs := []error{missing}
	for n, ifindex := range devices {
		if missing == nil {
			takes, err := takes(netdev, ifindex)
			open[n], errs = takes, append(errs, err)
		}
		dev, err := netlink.LinkByIndex(ifindex)
		if err == nil {
			lengths[n] = longest(dev)
		}
		errs = append(errs, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for n, ifindex := range devices {
		if p := k.ports[n]; p != nil && p.ifindex == ifindex { // else it has changed meanwhile, and Attach has asked
			// What was asked may be older than what the kernel has said since.
			errs = append(errs, k.openWay(n, ifindex, open[n] && (k.closings == closings || k.reach[n])))
			if lengths[n] != 0 {
				p.longest = lengths[n]
			}
		}
	}
	k.limit()
	return errors.Join(errs...)
}

// openWay makes a device a port's way out, or takes it away with the flows that use it. It
// writes the way each time: the kernel takes out a device that leaves the namespace, also
// if it is back, under its number, before anybody looks.
func (k *Cache) openWay(n flow.Port, ifindex int, open bool) error {
	if !open {
		k.reach[n] = false
		k.takes[n].Store(0)
		k.maps.Out.Delete(uint32(n)) // may not be there
		k.table.expel(n)
		return nil
	}
	if err := k.maps.Out.Put(uint32(n), uint32(ifindex)); err != nil {
		return fmt.Errorf("make it a way out: %w", err)
	}
	k.reach[n] = true
	return nil
}
