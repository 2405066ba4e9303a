package provision_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/provision/provisiontest"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// pf is a PF in memory whose driver refuses what real ones do.
type pf struct {
	provision.PFState
	demands  provision.Order
	bound    bool // drivers are on its VFs
	steps    int
	refusals int // of the next steps
	vfs      *provisiontest.VFs
}

var (
	_     provision.PFs = (*pf)(nil)
	pfID                = fabric.PFID{PCI: fabric.PCI{Bus: 3}}
	modes               = []fabric.ESwitch{fabric.ESwitchUnknown, fabric.ESwitchLegacy, fabric.ESwitchSwitchdev}
)

func (p *pf) Shapes() (map[fabric.PFID]provision.PFState, error) {
	return map[fabric.PFID]provision.PFState{pfID: p.PFState}, nil
}

func (p *pf) Reshape(id fabric.PFID, s provision.ShapeStep) error {
	if p.steps++; p.refusals > 0 {
		p.refusals--
		return errors.New("not now")
	}
	switch s.Kind {
	case provision.SetVFs:
		if p.VFs > 0 && s.VFs > 0 {
			return errors.New("device or resource busy")
		}
		p.VFs, p.bound = s.VFs, s.VFs > 0
		if p.vfs != nil { // whatever was set up is gone with the VFs
			now, _ := p.vfs.Read()
			for vf := range now {
				p.vfs.Set(vf, fabric.VFState{})
			}
		}
	case provision.SetESwitch:
		if p.demands.Empty && p.VFs > 0 || p.demands.Unbound && p.bound {
			return errors.New("operation not supported")
		}
		p.ESwitch = s.ESwitch
	case provision.UnbindVFs:
		p.bound = false
	case provision.BindVFs:
		p.bound = p.VFs > 0
	}
	return nil
}

// TestPlanShape carries out plans from every shape to every other, for every driver's
// demands: none is refused, all get there with drivers on their VFs, a PF that is in shape
// is left alone, and VFs that can stay do.
func TestPlanShape(t *testing.T) {
	for _, driver := range []string{"mlx5_core", "ice", "bnxt_en", "unheard of"} {
		o := provision.OrderOf(driver)
		for _, nowVFs := range []int{0, 1, 4} {
			for _, wantVFs := range []int{0, 1, 4} {
				for _, nowMode := range modes[1:] {
					for _, wantMode := range modes {
						now, want := provision.Shape{VFs: nowVFs, ESwitch: nowMode}, provision.Shape{VFs: wantVFs, ESwitch: wantMode}
						name := fmt.Sprintf("%s: %+v to %+v", driver, now, want)
						p := &pf{PFState: provision.PFState{Shape: now, Total: 8, Driver: driver}, demands: o, bound: nowVFs > 0}
						steps := provision.PlanShape(now, want, o)
						least := nowVFs
						for _, s := range steps {
							if err := p.Reshape(pfID, s); err != nil {
								t.Errorf("%s: %s: %v", name, s, err)
							}
							least = min(least, p.VFs)
						}
						if p.VFs != wantVFs || wantMode != fabric.ESwitchUnknown && p.ESwitch != wantMode || p.bound != (p.VFs > 0) {
							t.Errorf("%s: became %+v, drivers on VFs %t, by %v", name, p.Shape, p.bound, steps)
						}
						mode := wantMode != fabric.ESwitchUnknown && wantMode != nowMode
						if may := nowVFs == wantVFs && !(mode && o.Empty); may && least < nowVFs {
							t.Errorf("%s: took VFs away: %v", name, steps)
						}
						if again := provision.PlanShape(p.Shape, want, o); len(again) > 0 {
							t.Errorf("%s: then still %v", name, again)
						}
					}
				}
			}
		}
	}
}

// TestReshapeSpares refuses to take away VFs that others have set up, and more VFs than a
// PF can have.
func TestReshapeSpares(t *testing.T) {
	vfs := provisiontest.New(vf(0), vf(1))
	vfs.Set(vf(1), fabric.VFState{Setting: fabric.Setting{MAC: 0x02aa}})
	p := &pf{PFState: provision.PFState{Shape: provision.Shape{VFs: 2, ESwitch: fabric.ESwitchSwitchdev}, Total: 8, Driver: "ice"}, demands: provision.OrderOf("ice"), vfs: vfs}
	wantFault(t, provision.Reshape(p, vfs, pfID, provision.Shape{VFs: 4}), "E_VF_FOREIGN")
	wantFault(t, provision.Reshape(p, vfs, pfID, provision.Shape{VFs: 9}), "E_PF_SHAPE")
	wantFault(t, provision.Reshape(p, vfs, fabric.PFID{}, provision.Shape{VFs: 2}), "E_PF_SHAPE")
	if p.steps > 0 {
		t.Errorf("%d steps were done", p.steps)
	}
	if err := provision.Reshape(p, vfs, pfID, provision.Shape{VFs: 2, ESwitch: fabric.ESwitchSwitchdev}); err != nil || p.steps > 0 {
		t.Errorf("in shape already: %d steps, %v", p.steps, err)
	}
	p.Shape = provision.Shape{}
	p.refusals = 1
	wantFault(t, provision.Reshape(p, vfs, pfID, provision.Shape{VFs: 2}), "E_PF_SHAPE")
}

// TestRestore takes a blade from random states to what is wanted of it, with drivers that
// are reloaded at random times, with whatever was set up: in the end all is as wanted, no
// link went on before the table was in force, and then nothing more is done.
func TestRestore(t *testing.T) {
	seed := flowtest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	vfs := provisiontest.New(vf(0), vf(1), vf(2))
	for round := range 2000 {
		driver := []string{"mlx5_core", "ice", "bnxt_en"}[rng.IntN(3)]
		p := &pf{PFState: provision.PFState{Total: 8, Driver: driver}, demands: provision.OrderOf(driver), vfs: vfs}
		for i := range 3 { // the driver was reloaded: nothing is left
			vfs.Set(vf(i), fabric.VFState{})
		}
		shapes := map[fabric.PFID]provision.Shape{pfID: {VFs: 3, ESwitch: fabric.ESwitchSwitchdev}}
		var want []fabric.Bound
		for i := range 3 {
			if rng.IntN(3) > 0 {
				want = append(want, fabric.Bound{VF: vf(i), Setting: fabric.Setting{MAC: uint64(0x0201 + i), VLAN: uint16(rng.IntN(10)), Traffic: rng.IntN(2) == 0}})
			}
		}
		inForce := false
		vfs.Wrote = func(now map[fabric.VFID]fabric.VFState) {
			for id, s := range now {
				if s.Traffic && !inForce {
					t.Errorf("round %d: %s speaks before its rules are in force", round, id)
				}
			}
		}
		p.refusals = rng.IntN(2)
		first := provision.Restore("b1", p, vfs, shapes, want, func() error { inForce = true; return nil })
		if first != nil { // a driver that did not want to: the next time begins with what is there
			wantFault(t, first, "E_PF_SHAPE")
			if inForce {
				t.Errorf("round %d: went on after %v", round, first)
			}
			first = provision.Restore("b1", p, vfs, shapes, want, func() error { inForce = true; return nil })
		}
		if first != nil || p.Shape != shapes[pfID] {
			t.Fatalf("round %d: %+v, %v", round, p.Shape, first)
		}
		now, _ := vfs.Read()
		if len(now) != len(want) {
			t.Fatalf("round %d: %v, want %v", round, now, want)
		}
		for _, w := range want {
			if now[w.VF].Setting != w.Setting {
				t.Fatalf("round %d: %s is %s, want %s", round, w.VF, now[w.VF].Setting, w.Setting)
			}
		}
		steps, wrote := p.steps, 0
		vfs.Wrote = func(map[fabric.VFID]fabric.VFState) { wrote++ }
		if err := provision.Restore("b1", p, vfs, shapes, want, nil); err != nil || p.steps != steps || wrote > 0 {
			t.Fatalf("round %d: again: %d steps, %d writes, %v", round, p.steps-steps, wrote, err)
		}
	}
}
