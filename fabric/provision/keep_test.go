package provision_test

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/provision/provisiontest"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestKeep has PFs of every shape, some with a VF that somebody uses, in one of the ways that
// show: a PF in shape is left alone, one whose VFs nobody uses gets its shape, and to one with a
// VF in use nothing is done, and it is said what would have been.
func TestKeep(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	refused := map[int]int{}
	for round := range 2000 {
		driver := []string{"mlx5_core", "ice", "bnxt_en"}[rng.IntN(3)]
		now := provision.Shape{VFs: rng.IntN(4), ESwitch: modes[1+rng.IntN(2)]}
		want := provision.Shape{VFs: rng.IntN(4), ESwitch: modes[rng.IntN(3)]}
		vfs := provisiontest.New(vf(0), vf(1), vf(2), vf(3))
		p := &pf{PFState: provision.PFState{Shape: now, Total: 8, Driver: driver}, demands: provision.OrderOf(driver), bound: now.VFs > 0, vfs: vfs}
		own := fabric.PF{Name: "nic0/pf0", PCI: pfID.PCI}
		for i := range now.VFs {
			own.VFs = append(own.VFs, fabric.VF{Name: "nic0/pf0/vf", Index: i, Driver: "drv", Netdev: &fabric.Netdev{Name: "eth", Link: "down"}})
		}
		how := 0
		if now.VFs > 0 {
			i := rng.IntN(now.VFs)
			switch how = rng.IntN(5); how {
			case 1, 2:
				vfs.Set(vf(i), fabric.VFState{Setting: fabric.Setting{MAC: 0x02aa}, Ours: how == 1})
			case 3:
				own.VFs[i].Netdev = nil
			case 4:
				own.VFs[i].Netdev.Link = "up"
			}
		}
		inv := func() (fabric.Inventory, error) {
			return fabric.Inventory{NICs: []fabric.NIC{{PFs: []fabric.PF{own}}}}, nil
		}
		steps, err := provision.Keep(p, vfs, inv, pfID, want)
		needs := len(provision.PlanShape(now, want, provision.OrderOf(driver)))
		switch {
		case needs == 0:
			if len(steps) != 0 || err != nil || p.steps > 0 {
				t.Fatalf("round %d: in shape, and %v was done, %v", round, steps, err)
			}
		case how > 0:
			wantFault(t, err, "E_PF_SHAPE")
			if refused[how]++; p.steps > 0 || len(steps) != needs {
				t.Fatalf("round %d: %d steps were done with a VF in use, %v", round, p.steps, steps)
			}
		default:
			if err != nil || p.VFs != want.VFs || want.ESwitch != fabric.ESwitchUnknown && p.ESwitch != want.ESwitch {
				t.Fatalf("round %d: %+v to %+v is %+v, %v", round, now, want, p.Shape, err)
			}
		}
	}
	if len(refused) != 4 {
		t.Errorf("refused %v", refused)
	}
}
