package provision

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Problem. Before VFs can be set up they have to be there, as many as are wanted, on a
// card whose eSwitch is in the mode that is wanted; a reboot or a reload of the driver
// takes all of that away. Drivers demand different orders of it: the kernel lets nobody
// resize a PF that has VFs; ice changes the mode of its eSwitch only without VFs; mlx5
// only while no driver is bound to any.
//
// Idea. What is to be done follows from what is, what is wanted and what the driver
// demands: a list of small steps, each of which can be done again. It takes no VF away
// that can stay.
//
// Invariant: a PF that is in shape gets no step; every other gets there by its steps; no
// step is one that a driver with these demands refuses.

// Shape is what a PF has to be before its VFs are set up.
type Shape struct {
	VFs     int
	ESwitch fabric.ESwitch // fabric.ESwitchUnknown leaves it as it is
}

// ShapeOf returns the shape that a PF has.
func ShapeOf(pf *fabric.PF) Shape { return Shape{pf.NumVFs, pf.ESwitch} }

// Order is what a driver demands of whoever changes the mode of its eSwitch.
type Order struct {
	Empty   bool // there are no VFs
	Unbound bool // no driver is bound to a VF
}

// OrderOf returns the demands of a PF's driver, as its source has them; of a driver that
// is not known, the order that none refuses.
func OrderOf(driver string) Order {
	switch driver {
	case "mlx5_core":
		return Order{Unbound: true}
	case "bnxt_en", "nfp":
		return Order{}
	default: // ice, and octeontx2 of kernels that have its representors
		return Order{Empty: true}
	}
}

// ShapeKind is what a [ShapeStep] does.
type ShapeKind uint8

// The steps by which a PF gets its shape.
const (
	SetVFs     ShapeKind = iota // makes VFs, or takes all away if VFs is 0
	SetESwitch                  // changes the mode
	UnbindVFs                   // takes the drivers off all VFs
	BindVFs                     // lets the kernel look for their drivers again
)

// ShapeStep is one of them.
type ShapeStep struct {
	Kind    ShapeKind
	VFs     int            // of SetVFs
	ESwitch fabric.ESwitch // of SetESwitch
}

// String says what the step does.
func (s ShapeStep) String() string {
	switch s.Kind {
	case SetVFs:
		return fmt.Sprintf("%d VFs", s.VFs)
	case SetESwitch:
		return "eSwitch in mode " + string(s.ESwitch)
	case UnbindVFs:
		return "drivers off VFs"
	default:
		return "drivers on VFs"
	}
}

// PlanShape plans from the shape that a PF has to the one that is wanted. The same
// arguments give the same plan.
func PlanShape(now, want Shape, o Order) []ShapeStep {
	var steps []ShapeStep
	vfs := func(n int) {
		if now.VFs != n {
			steps, now.VFs = append(steps, ShapeStep{Kind: SetVFs, VFs: n}), n
		}
	}
	mode := want.ESwitch != fabric.ESwitchUnknown && want.ESwitch != now.ESwitch
	if now.VFs != want.VFs || mode && o.Empty {
		vfs(0)
	}
	if mode && o.Unbound {
		vfs(want.VFs) // such a driver is asked in legacy mode, as most of its firmware has it
	}
	bound := mode && o.Unbound && now.VFs > 0
	if bound {
		steps = append(steps, ShapeStep{Kind: UnbindVFs})
	}
	if mode {
		steps = append(steps, ShapeStep{Kind: SetESwitch, ESwitch: want.ESwitch})
	}
	if bound {
		steps = append(steps, ShapeStep{Kind: BindVFs})
	}
	vfs(want.VFs)
	return steps
}

// PFs are the physical functions of one blade.
type PFs interface {
	// Shapes returns every PF that can have VFs, with its driver.
	Shapes() (map[fabric.PFID]PFState, error)

	// Reshape carries out a step.
	Reshape(pf fabric.PFID, s ShapeStep) error
}

// PFState is a PF as it is read.
type PFState struct {
	Shape
	Total  int // VFs that it can have
	Driver string
}

// Reshape gives a PF the shape that is wanted, and reads back. VFs that others than we have
// set up are not taken away. An error says what was wanted and what is; the next plan is
// made from what is read.
func Reshape(pfs PFs, vfs VFs, pf fabric.PFID, want Shape) error {
	now, err := shapeOf(pfs, pf)
	if err != nil {
		return err
	}
	if want.VFs < 0 || want.VFs > now.Total {
		return &flow.Fault{Code: "E_PF_SHAPE", What: pf.PCI.String(), Why: fmt.Sprintf("%d VFs are wanted, and it can have %d", want.VFs, now.Total),
			Remedy: "want fewer, or allow more in the card's firmware"}
	}
	steps := PlanShape(now.Shape, want, OrderOf(now.Driver))
	if len(steps) > 0 && now.VFs > 0 {
		seen, err := vfs.Read()
		if err != nil {
			return err
		}
		for id, s := range seen {
			if id.PF == pf && !s.Ours {
				return foreign(id, s.Setting)
			}
		}
	}
	for _, step := range steps {
		if err := pfs.Reshape(pf, step); err != nil {
			return &flow.Fault{Code: "E_PF_SHAPE", What: fmt.Sprintf("%s: %s", pf.PCI, step), Why: err.Error(),
				Remedy: "see what its driver demands; it is tried again from what is there then", Err: err}
		}
	}
	if now, err = shapeOf(pfs, pf); err != nil {
		return err
	}
	if now.VFs != want.VFs || want.ESwitch != fabric.ESwitchUnknown && now.ESwitch != want.ESwitch {
		return &flow.Fault{Code: "E_PF_SHAPE", What: pf.PCI.String(), Why: fmt.Sprintf("wanted is %+v, and it shows %+v", want, now.Shape),
			Remedy: "see the kernel's log for what its driver says"}
	}
	return nil
}

func shapeOf(pfs PFs, pf fabric.PFID) (PFState, error) {
	all, err := pfs.Shapes()
	if err != nil {
		return PFState{}, err
	}
	now, ok := all[pf]
	if !ok {
		return PFState{}, &flow.Fault{Code: "E_PF_SHAPE", What: pf.PCI.String(), Why: "the blade has no such PF that can have VFs", Remedy: "see bladeflow inventory"}
	}
	return now, nil
}
