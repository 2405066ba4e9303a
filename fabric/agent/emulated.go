package agent

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
)

// emulated returns the VFs of an emulated card, as the configuration says what they are
// made of: only who made the card knows.
func (d *Daemon) emulated(inv fabric.Inventory, maps []PortMap, ports *flow.Ports) (*provision.Emulated, error) {
	here, err := netlink.NewHandle()
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, func() error { here.Close(); return nil })
	parts := map[string]provision.Parts{}
	for i, vf := range d.file.VFs {
		port, err := ports.Find(vf.Port)
		if err != nil {
			return nil, fmt.Errorf("spec.device.vfs[%d]: %w", i, err)
		}
		var p provision.Parts
		if p.Workload, err = d.netdev(vf.Workload); err != nil {
			return nil, err
		}
		if p.Card, err = d.netdev(vf.Card); err != nil {
			return nil, err
		}
		p.Representor = provision.Netdev{Links: here, Name: maps[port-1].Netdev}
		parts[ports.Name(port)] = p
	}
	out := provision.NewEmulated(fabric.BladeID(d.file.Blade), inv, parts)
	if len(out.VFs) < len(d.file.VFs) {
		return nil, &flow.Fault{Code: "E_PORTS", What: "spec.device.vfs", Why: fmt.Sprintf("%d of the %d ports are VFs of the inventory, each once", len(out.VFs), len(d.file.VFs)), Remedy: "name VFs, as `bladeflow inventory` does"}
	}
	return out, nil
}

// netdev opens the way to a netdev in another namespace.
func (d *Daemon) netdev(n NetdevIn) (provision.Netdev, error) {
	space, err := netns.GetFromName(n.Netns)
	if err != nil {
		return provision.Netdev{}, &flow.Fault{Code: "E_NETNS", What: "network namespace " + n.Netns, Why: err.Error(), Remedy: "name it as `ip netns` shows it", Err: err}
	}
	defer space.Close()
	links, err := netlink.NewHandleAt(space)
	if err != nil {
		return provision.Netdev{}, err
	}
	d.closers = append(d.closers, func() error { links.Close(); return nil })
	return provision.Netdev{Links: links, Name: n.Netdev}, nil
}
