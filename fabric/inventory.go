// Package fabric is the model of what bladeflow manages: blades, the NICs in them,
// their physical and virtual functions, the networks and profiles wanted on them,
// where each vNIC is, and the plan from what is seen to what is wanted.
// It holds plain values, decides, and does no I/O:
// package discover fills inventories in, package agent acts. Start reading with
// [Inventory] for what there is, [Spec] for what is wanted, then [NewPlan], [Place]
// and [Compile].
package fabric

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// Inventory is what one blade has, in the order of PCI addresses.
type Inventory struct {
	NICs []NIC

	// RDMANetns says whether network namespaces share the RDMA devices ("shared") or each
	// has its own ("exclusive"); empty if it cannot be read.
	RDMANetns string
}

// NIC is one card: the physical functions that share a PCI slot. Its identity is
// Slot and Serial; names of netdevs change and identify nothing.
type NIC struct {
	Name   string // nicN, counted in the order of PCI addresses
	Slot   string // 0000:03:00
	Serial string // from the card's vital product data or its PCI serial number; empty if neither can be read
	Part   string // part number; empty if it cannot be read
	Vendor uint16 // PCI vendor and device number of the first function
	Device uint16
	NUMA   int // node the card is attached to, -1 if the machine has none
	PFs    []PF
}

// PF is one physical function.
type PF struct {
	Name     string // nicN/pfN; N is the PCI function, as in the port names that drivers give representors
	Index    int
	PCI      PCI
	Driver   string // empty if none is bound
	Firmware string // empty if it cannot be read
	Netdev   *Netdev
	TotalVFs int // 0 if the function has no SR-IOV
	NumVFs   int
	ESwitch  ESwitch
	RDMA     []RDMA
	VFs      []VF // by index
}

// VF is one virtual function. Its identity is its PF and Index.
type VF struct {
	Name        string // nicN/pfN/vfN
	Index       int
	PCI         PCI
	Driver      string  // empty if none is bound
	Netdev      *Netdev // nil if the function is in a guest or another namespace
	RDMA        []RDMA
	Representor *Netdev // nil unless the eSwitch is in switchdev mode
}

// ESwitch is the mode of the switch inside a card.
type ESwitch string

// The modes of an eSwitch.
const (
	ESwitchUnknown   ESwitch = ""          // no sign of either
	ESwitchLegacy    ESwitch = "legacy"    // forwards by MAC and VLAN; software never sees traffic between VFs
	ESwitchSwitchdev ESwitch = "switchdev" // what hardware does not answer comes to the representors
)

// Netdev is one network device as the kernel shows it now.
type Netdev struct {
	Name     string
	MAC      uint64 // as in flow.Station; 0 if it is not an Ethernet device
	ByChance bool   // the kernel made the MAC up: nobody chose it
	MTU      int
	Speed    BitsPerSecond // 0 if unknown, as it is while the link is down
	Link     string        // the kernel's operstate: up, down, dormant, …
	SwitchID string        // phys_switch_id; equal for all ports of one eSwitch
	PortName string        // phys_port_name: p0, pf0vf3, …
}

// BitsPerSecond is a rate.
type BitsPerSecond uint64

// String writes a rate the way cards are sold: 25G, 100M.
func (b BitsPerSecond) String() string {
	switch {
	case b == 0:
		return "-"
	case b%1e9 == 0:
		return fmt.Sprintf("%dG", b/1e9)
	case b%1e6 == 0:
		return fmt.Sprintf("%dM", b/1e6)
	}
	return fmt.Sprintf("%d", uint64(b))
}

// RDMA is one RDMA device.
type RDMA struct {
	Name     string
	Software bool   // the kernel emulates it on the function's netdev (rxe, siw)
	GUID     string // node GUID
	Firmware string
	Ports    []RDMAPort
}

// RDMAPort is one port of an RDMA device.
type RDMAPort struct {
	Number int
	Layer  string // Ethernet or InfiniBand
	State  string // the kernel's word: ACTIVE, DOWN, …
	Rate   string // the kernel's words: "100 Gb/sec (4X EDR)"
}

// Finding is something about a blade that is not as it should be and does not stop
// the reading: a file with an odd value, a dangling link, two sources that disagree.
type Finding struct {
	Code   string // stable, E_…
	Object string // a path or a function
	Text   string
}

// String returns `object: text`.
func (f Finding) String() string { return f.Object + ": " + f.Text }

// PortNames returns the names of the blade's ports in the order in which they are
// numbered: each PF, the uplink, before its VFs.
func (inv Inventory) PortNames() []string {
	var names []string
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			names = append(names, p.Name)
			for _, v := range p.VFs {
				names = append(names, v.Name)
			}
		}
	}
	return names
}

// Ports returns the ports named by [Inventory.PortNames].
func (inv Inventory) Ports() *flow.Ports { return flow.NewPorts(inv.PortNames()...) }

// Representor returns the netdev through which the blade's software sees the port:
// for a VF its representor, for a PF in switchdev mode its own netdev. ok is false
// for a port that is unknown or that software cannot see.
func (inv Inventory) Representor(port string) (dev *Netdev, ok bool) {
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			if p.Name == port {
				return p.Netdev, p.Netdev != nil && p.ESwitch == ESwitchSwitchdev
			}
			for _, v := range p.VFs {
				if v.Name == port {
					return v.Representor, v.Representor != nil
				}
			}
		}
	}
	return nil, false
}
