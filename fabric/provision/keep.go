package provision

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Keep is [Reshape] for whoever does it unasked, at every start and after every reload of a
// driver: it does nothing to a PF of which somebody uses a VF, whoever that is. It returns the
// steps that it has done, or would have to do where the error says that a VF is used.
func Keep(pfs PFs, vfs VFs, inventory func() (fabric.Inventory, error), pf fabric.PFID, want Shape) ([]ShapeStep, error) {
	now, err := shapeOf(pfs, pf)
	if err != nil {
		return nil, err
	}
	steps := PlanShape(now.Shape, want, OrderOf(now.Driver))
	if len(steps) == 0 {
		return nil, nil
	}
	if now.VFs > 0 { // every step does something to the VFs that are there
		seen, err := vfs.Read()
		if err != nil {
			return nil, err
		}
		inv, err := inventory()
		if err != nil {
			return nil, err
		}
		if vf, how := Used(inv, pf, seen); how != "" {
			return steps, &flow.Fault{Code: "E_PF_SHAPE", What: pf.PCI.String(), Why: fmt.Sprintf("wanted is %+v, it shows %+v, and for that %s would have to go, which %s", want, now.Shape, vf, how),
				Remedy: "free it, and start the agent anew; or want what is there"}
		}
	}
	return steps, Reshape(pfs, vfs, pf, want)
}

// Used returns a VF of a PF that somebody uses, and how that can be seen: it is set up, a
// driver has it and it has no netdev here, as of one that a guest or another namespace has, or
// its netdev is up. how is empty if there is none.
func Used(inv fabric.Inventory, pf fabric.PFID, seen map[fabric.VFID]fabric.VFState) (vf, how string) {
	for _, nic := range inv.NICs {
		for _, f := range nic.PFs {
			if f.PCI != pf.PCI || nic.Serial != pf.Serial {
				continue
			}
			for i := range f.VFs {
				v := &f.VFs[i]
				for id, s := range seen {
					if id.PF == pf && id.Index == v.Index {
						return v.Name, "is set up: " + s.Setting.String()
					}
				}
				switch {
				case v.Driver != "" && v.Netdev == nil:
					return v.Name, "driver " + v.Driver + " has, and no network device here: a guest or another namespace has it"
				case v.Netdev != nil && v.Netdev.Link == "up":
					return v.Name, "is up as " + v.Netdev.Name
				}
			}
		}
	}
	return "", ""
}
