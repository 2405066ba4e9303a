package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Workload is a namespace with one vNIC, eth0, at one port of a blade.
type Workload struct {
	Name string // b1-w0: workload 0 of blade 1
	Eth0 Netdev
	MAC  uint64     // 48 bits, as in a flow.Key
	IP4  netip.Addr // 10.0.BLADE.10+VF, in one 10.0.0.0/16 for the whole lab
	IP6  netip.Addr // fd00::BLADE:10+VF; a name only: eth0 has IPv6 off
}

// newWorkload names workload vf of a blade; both count as the lab prints them.
func newWorkload(blade, vf int) *Workload {
	w := &Workload{
		Name: fmt.Sprintf("b%d-w%d", blade, vf),
		MAC:  0x02_00_00_00_00_00 | uint64(blade)<<16 | uint64(vf),
		IP4:  netip.AddrFrom4([4]byte{10, 0, byte(blade), byte(10 + vf)}),
		IP6:  netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(blade), 15: byte(10 + vf)}),
	}
	w.Eth0.Name = "eth0"
	w.Eth0.MAC = hardware(w.MAC)
	return w
}

func hardware(mac uint64) net.HardwareAddr {
	return net.HardwareAddr{byte(mac >> 40), byte(mac >> 32), byte(mac >> 24), byte(mac >> 16), byte(mac >> 8), byte(mac)}
}

// SetNeighbours gives the workload its IPv4 address and every other workload of the
// lab as a permanent neighbour, so that it never asks by ARP and `ping` works once
// the blades switch. Taking eth0 down loses them: call it again after.
func (l *Lab) SetNeighbours(w *Workload) error {
	link, err := w.Eth0.link()
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	address := &netlink.Addr{IPNet: &net.IPNet{IP: w.IP4.AsSlice(), Mask: net.CIDRMask(16, 32)}}
	if err := w.Eth0.NS.Links().AddrReplace(link, address); err != nil {
		return fmt.Errorf("%s: address %s: %w", w.Eth0, w.IP4, err)
	}
	for _, b := range l.Blades {
		for _, o := range b.Workloads {
			if o == w {
				continue
			}
			n := &netlink.Neigh{LinkIndex: index, IP: o.IP4.AsSlice(), HardwareAddr: o.Eth0.MAC, State: netlink.NUD_PERMANENT}
			if err := w.Eth0.NS.Links().NeighSet(n); err != nil {
				return fmt.Errorf("%s: neighbour %s: %w", w.Eth0, o.IP4, err)
			}
		}
	}
	return nil
}
