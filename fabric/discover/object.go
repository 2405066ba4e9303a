package discover

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// NewObject returns the wire form of what was read on the blade called name: what
// `bladeflow inventory` prints and what its agent reports. What is unknown is absent.
// It is the one place where an inventory is written; the manager reads it back.
func NewObject(name string, inv fabric.Inventory, findings []fabric.Finding) api.Inventory {
	o := api.Inventory{Head: api.NewHead(api.KindInventory, name), Status: api.InventoryStatus{NICs: []api.NIC{}, RDMANetns: inv.RDMANetns, Findings: []api.Finding{}}}
	for _, n := range inv.NICs {
		nic := api.NIC{Name: n.Name, Slot: n.Slot, Serial: n.Serial, Part: n.Part,
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
		o.Status.Findings = append(o.Status.Findings, api.Finding(f))
	}
	return o
}

func pfObject(p fabric.PF) api.PF {
	out := api.PF{Name: p.Name, PCI: p.PCI.String(), Driver: p.Driver, Firmware: p.Firmware, Netdev: netdevObject(p.Netdev),
		TotalVFs: p.TotalVFs, NumVFs: p.NumVFs, ESwitch: string(p.ESwitch), RDMA: rdmaObjects(p.RDMA), VFs: []api.VF{}}
	for _, v := range p.VFs {
		out.VFs = append(out.VFs, api.VF{Name: v.Name, Index: v.Index, PCI: v.PCI.String(), Driver: v.Driver,
			Netdev: netdevObject(v.Netdev), RDMA: rdmaObjects(v.RDMA), Representor: netdevObject(v.Representor)})
	}
	return out
}

func netdevObject(d *fabric.Netdev) *api.Netdev {
	if d == nil {
		return nil
	}
	out := &api.Netdev{Name: d.Name, MTU: d.MTU, BitsPerSecond: uint64(d.Speed), Link: d.Link, SwitchID: d.SwitchID, PortName: d.PortName}
	if d.MAC != 0 {
		out.MAC = flow.FormatMAC(d.MAC)
	}
	return out
}

func rdmaObjects(devices []fabric.RDMA) []api.RDMA {
	var out []api.RDMA
	for _, d := range devices {
		r := api.RDMA{Name: d.Name, Software: d.Software, GUID: d.GUID, Firmware: d.Firmware}
		for _, p := range d.Ports {
			r.Ports = append(r.Ports, api.RDMAPort(p))
		}
		out = append(out, r)
	}
	return out
}
