package discover

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Object is the stable JSON form of an inventory: `{apiVersion, kind: Inventory,
// metadata, status}`. Fields are added, never changed. What is unknown is absent.
type Object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Status     Status   `json:"status"`
}

// Metadata names the blade.
type Metadata struct {
	Name string `json:"name"`
}

// Status is what was read. Lists are never null.
type Status struct {
	NICs     []NIC     `json:"nics"`
	Findings []Finding `json:"findings"`
}

// NIC is the JSON form of [fabric.NIC]; vendor and device are 0x15b3.
type NIC struct {
	Name   string `json:"name"`
	Slot   string `json:"slot"`
	Serial string `json:"serial,omitempty"`
	Part   string `json:"part,omitempty"`
	Vendor string `json:"vendor"`
	Device string `json:"device"`
	NUMA   *int   `json:"numa,omitempty"`
	PFs    []PF   `json:"pfs"`
}

// PF is the JSON form of [fabric.PF].
type PF struct {
	Name     string  `json:"name"`
	PCI      string  `json:"pci"`
	Driver   string  `json:"driver,omitempty"`
	Firmware string  `json:"firmware,omitempty"`
	Netdev   *Netdev `json:"netdev,omitempty"`
	TotalVFs int     `json:"totalVFs"`
	NumVFs   int     `json:"numVFs"`
	ESwitch  string  `json:"eswitch,omitempty"`
	RDMA     []RDMA  `json:"rdma,omitempty"`
	VFs      []VF    `json:"vfs"`
}

// VF is the JSON form of [fabric.VF].
type VF struct {
	Name        string  `json:"name"`
	Index       int     `json:"index"`
	PCI         string  `json:"pci"`
	Driver      string  `json:"driver,omitempty"`
	Netdev      *Netdev `json:"netdev,omitempty"`
	RDMA        []RDMA  `json:"rdma,omitempty"`
	Representor *Netdev `json:"representor,omitempty"`
}

// Netdev is the JSON form of [fabric.Netdev].
type Netdev struct {
	Name          string `json:"name"`
	MAC           string `json:"mac,omitempty"`
	MTU           int    `json:"mtu,omitempty"`
	SpeedBitsPerS uint64 `json:"speedBitsPerSecond,omitempty"`
	Link          string `json:"link,omitempty"`
	SwitchID      string `json:"switchID,omitempty"`
	PhysicalName  string `json:"portName,omitempty"`
}

// RDMA is the JSON form of [fabric.RDMA].
type RDMA struct {
	Name     string     `json:"name"`
	GUID     string     `json:"guid,omitempty"`
	Firmware string     `json:"firmware,omitempty"`
	Ports    []RDMAPort `json:"ports,omitempty"`
}

// RDMAPort is the JSON form of [fabric.RDMAPort].
type RDMAPort struct {
	Number int    `json:"number"`
	Layer  string `json:"layer,omitempty"`
	State  string `json:"state,omitempty"`
	Rate   string `json:"rate,omitempty"`
}

// Finding is the JSON form of [fabric.Finding].
type Finding struct {
	Code   string `json:"code"`
	Object string `json:"object"`
	Text   string `json:"text"`
}

// NewObject returns the JSON form of what was read on the blade called name.
func NewObject(name string, inv fabric.Inventory, findings []fabric.Finding) Object {
	o := Object{APIVersion: "bladeflow/v1", Kind: "Inventory", Metadata: Metadata{Name: name},
		Status: Status{NICs: []NIC{}, Findings: []Finding{}}}
	for _, n := range inv.NICs {
		nic := NIC{Name: n.Name, Slot: n.Slot, Serial: n.Serial, Part: n.Part,
			Vendor: fmt.Sprintf("0x%04x", n.Vendor), Device: fmt.Sprintf("0x%04x", n.Device)}
		if n.NUMA >= 0 {
			nic.NUMA = &n.NUMA
		}
		for _, p := range n.PFs {
			nic.PFs = append(nic.PFs, pfObject(p))
		}
		o.Status.NICs = append(o.Status.NICs, nic)
	}
	for _, f := range findings {
		o.Status.Findings = append(o.Status.Findings, Finding(f))
	}
	return o
}

func pfObject(p fabric.PF) PF {
	out := PF{Name: p.Name, PCI: p.PCI.String(), Driver: p.Driver, Firmware: p.Firmware, Netdev: netdevObject(p.Netdev),
		TotalVFs: p.TotalVFs, NumVFs: p.NumVFs, ESwitch: string(p.ESwitch), RDMA: rdmaObjects(p.RDMA), VFs: []VF{}}
	for _, v := range p.VFs {
		out.VFs = append(out.VFs, VF{Name: v.Name, Index: v.Index, PCI: v.PCI.String(), Driver: v.Driver,
			Netdev: netdevObject(v.Netdev), RDMA: rdmaObjects(v.RDMA), Representor: netdevObject(v.Representor)})
	}
	return out
}

func netdevObject(d *fabric.Netdev) *Netdev {
	if d == nil {
		return nil
	}
	out := &Netdev{Name: d.Name, MTU: d.MTU, SpeedBitsPerS: uint64(d.Speed), Link: d.Link, SwitchID: d.SwitchID, PhysicalName: d.PortName}
	if d.MAC != 0 {
		out.MAC = flow.FormatMAC(d.MAC)
	}
	return out
}

func rdmaObjects(devices []fabric.RDMA) []RDMA {
	var out []RDMA
	for _, d := range devices {
		r := RDMA{Name: d.Name, GUID: d.GUID, Firmware: d.Firmware}
		for _, p := range d.Ports {
			r.Ports = append(r.Ports, RDMAPort(p))
		}
		out = append(out, r)
	}
	return out
}
