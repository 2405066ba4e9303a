package lab

import (
	"fmt"
	"net"

	"github.com/bladeflow/bladeflow/hwtests/lab/internal/ethtool"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/vishvananda/netlink"
)

// MTU of every netdev of a lab. A workload's 1500 bytes and two VLAN tags fit, and
// so does the headroom of an XDP frame in the 2 KiB of an AF_XDP chunk.
const MTU = 1600

// features that every netdev of a lab needs on or off; doc.go says why.
var features = map[string]bool{
	"rx-gro":                  true,
	"tx-checksum-ip-generic":  false,
	"tx-checksum-sctp":        false,
	"tx-vlan-hw-insert":       false,
	"tx-vlan-stag-hw-insert":  false,
	"rx-vlan-hw-parse":        false,
	"rx-vlan-stag-hw-parse":   false,
	"tx-tcp-segmentation":     false,
	"tx-generic-segmentation": false,
}

// Netdev is one end of a cable.
type Netdev struct {
	NS   *netns.NS
	Name string
	MAC  net.HardwareAddr // nil lets the kernel choose
}

// String returns `namespace netdev`.
func (d Netdev) String() string { return d.NS.Name + " " + d.Name }

// link returns the netdev as rtnetlink knows it.
func (d Netdev) link() (netlink.Link, error) {
	l, err := d.NS.Links().LinkByName(d.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	return l, nil
}

// SetFeatures turns features of the netdev on or off, by the names that the kernel has
// for them (rx-gro). What the kernel does not know or the driver cannot change is left
// alone.
func (d Netdev) SetFeatures(features map[string]bool) error {
	return d.NS.Do(func() error {
		s, err := ethtool.Open()
		if err != nil {
			return err
		}
		defer s.Close()
		return s.SetFeatures(d.Name, features)
	})
}

// connect makes a veth pair between two namespaces, still down.
func connect(a, b Netdev) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.Name, MTU, a.MAC
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerMTU: MTU, PeerHardwareAddr: b.MAC,
		PeerNamespace: netlink.NsFd(b.NS.FD()), PeerTxQLen: -1}
	if err := a.NS.Links().LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s to %s: %w", a, b, err)
	}
	return nil
}

// tune sets the features of netdevs of one namespace, which are down, and gives each
// a queueing discipline: without one, veth drops what does not fit into its ring;
// with one, it tells the sender to wait.
func tune(ns *netns.NS, netdevs []string) error {
	var s *ethtool.Socket
	err := ns.Do(func() (err error) {
		s, err = ethtool.Open()
		return err
	})
	if err != nil {
		return err
	}
	defer s.Close()
	for _, name := range netdevs {
		d := Netdev{NS: ns, Name: name}
		l, err := d.link()
		if err != nil {
			return err
		}
		if err := s.SetFeatures(name, features); err != nil {
			return err
		}
		queue := &netlink.GenericQdisc{QdiscType: "pfifo", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}}
		if err := ns.Links().QdiscAdd(queue); err != nil {
			return fmt.Errorf("%s: queueing discipline: %w", d, err)
		}
	}
	return nil
}

// start brings netdevs of one namespace up. All of the lab's have to be tuned
// before: what a veth can be redirected to is decided when it goes up, from whether
// its peer will have NAPI.
func start(ns *netns.NS, netdevs []string) error {
	for _, name := range netdevs {
		d := Netdev{NS: ns, Name: name}
		l, err := d.link()
		if err == nil {
			err = ns.Links().LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("%s: up: %w", d, err)
		}
	}
	return nil
}
