package fabric_test

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
)

// oneCard is the inventory of a blade with one card of two VFs.
func oneCard(serial string) fabric.Inventory {
	at := fabric.PCI{Bus: 3}
	return fabric.Inventory{NICs: []fabric.NIC{{Name: "nic0", Slot: at.Slot(), Serial: serial, PFs: []fabric.PF{{
		Name: "nic0/pf0", PCI: at, ESwitch: fabric.ESwitchSwitchdev, Netdev: &fabric.Netdev{Speed: 25e9, Link: "up"}, NumVFs: 2, TotalVFs: 2,
		VFs: []fabric.VF{{Name: "nic0/pf0/vf0"}, {Name: "nic0/pf0/vf1", Index: 1}},
	}}}}}
}

// A profile is put where it fits, then moved: every change is another Spec, and the plan
// is what lies between it and what is seen.
func Example() {
	spec := fabric.Spec{}.
		WithChassis(fabric.Chassis{Name: "c1", Slots: 2}).
		WithBlade(fabric.Blade{ID: "left", Slot: fabric.Slot{Chassis: "c1", Number: 1}}).
		WithBlade(fabric.Blade{ID: "right", Slot: fabric.Slot{Chassis: "c1", Number: 2}}).
		WithNetwork(fabric.Network{Name: "lan"})
	seen := fabric.Snapshot{Blades: map[fabric.BladeID]fabric.Seen{"left": {Inventory: oneCard("L1")}, "right": {Inventory: oneCard("R1")}}}

	web := fabric.Profile{Name: "web", VNICs: []fabric.VNIC{{Name: "eth0", MAC: 0x020000000001, Network: "lan", QoS: fabric.QoS{Guaranteed: 10e9}}}}
	at, _, err := fabric.Place(spec, seen, web, fabric.Spread)
	if err != nil {
		fmt.Println(err)
		return
	}
	spec = spec.WithProfile(web, at)
	plan := fabric.NewPlan(spec, seen)
	seen = seen.After(plan.Steps...)
	fmt.Println("there:", len(fabric.NewPlan(spec, seen).Steps), "steps to go")

	web.Where.Blades = []fabric.BladeID{"right"}
	at, _, err = fabric.Place(spec, seen, web, fabric.Spread)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range fabric.NewPlan(spec.WithProfile(web, at), seen).Steps {
		fmt.Println(step.Kind, step.Blade)
	}
	web.VNICs[0].QoS.Guaranteed = 25e9
	_, _, err = fabric.Place(spec, seen, web, fabric.Spread)
	fmt.Println(err)
	// Output:
	// there: 0 steps to go
	// configure right
	// prove right
	// clear left
	// connect right
	// prove left
	// profile web: blade right: nic0/pf0 for vNIC eth0: 25G are wanted, and of what its link of 25G can guarantee 22500M is left: guarantee less, or move a profile away
}
