package hwtests

import (
	"context"
	"path/filepath"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// Membership makes the blades of a chassis members of a fabric: what is wanted of them
// comes from its store, and what they are goes there.
type Membership struct {
	Dial func(ctx context.Context, blade string) (store.Store, error) // with the blade's own certificate
	Keep string                                                       // directory for the last generations
}

// join makes the blade's agent a member's.
func (b *Blade) join(m *Membership, c Config) error {
	look := func() (fabric.Inventory, []fabric.Finding, error) { return discover.Read(b.SysRoot) }
	inv, _, err := look()
	if err != nil {
		return err
	}
	b.Member, err = agent.NewFabric(agent.FabricConfig{Blade: b.Name, Ports: b.Ports, Inventory: look, Log: c.Log, Keep: filepath.Join(m.Keep, b.Name+".json"),
		Dial: func(ctx context.Context) (store.Store, error) { return m.Dial(ctx, b.Name) }})
	if err != nil {
		return err
	}
	config := b.Agent.Config
	config.Source, config.Wake, config.Report = b.Member, b.Member.Wake(), b.Member.Report
	config.Blade, config.VFs = fabric.BladeID(b.Name), VFs(b.Blade, inv)
	config.Devices[0].PFs = []string{b.Ports.Name(lab.Uplink)}
	b.Agent = agent.New(config)
	return nil
}

// VFs returns what the blade's emulated VFs are made of.
func VFs(b *lab.Blade, inv fabric.Inventory) *provision.Emulated {
	netdev := func(d lab.Netdev) provision.Netdev { return provision.Netdev{Links: d.NS.Links(), Name: d.Name} }
	parts := map[string]provision.Parts{}
	for _, at := range b.Attached {
		parts[at.Name] = provision.Parts{Workload: netdev(at.Outside), Card: netdev(at.Front), Representor: netdev(at.Representor)}
	}
	out := &provision.Emulated{VFs: map[fabric.VFID]provision.Parts{}}
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			for _, vf := range pf.VFs {
				if p, ok := parts[vf.Name]; ok {
					out.VFs[fabric.VFID{Blade: fabric.BladeID(b.Name), PF: fabric.PFID{PCI: pf.PCI, Serial: n.Serial}, Index: vf.Index}] = p
				}
			}
		}
	}
	return out
}
