// Package provision carries out one step of a vNIC plan: it tells a PF's driver the
// address, VLAN, rates, trust, spoof check and link of one VF, reads back what the
// driver then shows, and makes of any difference an error. It also gives a PF its VFs and
// the mode of its eSwitch, where that is asked for: [Reshape], and [Restore] for all of a
// blade after a reboot.
//
// [VFs] has two implementations: [Netlink] for real cards, and [Emulated] for the
// VFs of a lab, which are veth pairs. It leaves alone what others have set up. Which steps
// there are to do is decided elsewhere: package fabric plans for all blades, [NewPlan] for
// one, [PlanShape] for a PF. Start reading with [Do].
package provision

import (
	"fmt"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// VFs are the virtual functions of one blade. An implementation remembers nothing:
// what it reads is what kernel and driver say, and so is whether we set it up.
type VFs interface {
	// Read returns the VFs that are not clean.
	Read() (map[fabric.VFID]fabric.VFState, error)

	// Write gives a VF the setting and our mark; the clean setting takes the mark
	// off. A VF whose link goes off is silent before anything else changes, one
	// whose link goes on speaks after everything else has.
	Write(vf fabric.VFID, s fabric.Setting) error
}

// Do carries out a step, which must not be a Prove, and reads back. An error says what was
// wanted and what is; the VF may be anywhere between then, and the next plan is made
// from what is read. Doing a step again is harmless. Cost: two readings of all VFs.
func Do(vfs VFs, step fabric.Step) error {
	if step.Kind == fabric.Prove {
		panic("provision: a step that is not about a VF")
	}
	if err := check(step); err != nil {
		return err
	}
	before, err := vfs.Read()
	if err != nil {
		return err
	}
	if was, set := before[step.VF]; set && !was.Ours {
		return foreign(step.VF, was.Setting)
	}
	if err := vfs.Write(step.VF, step.Setting); err != nil {
		return err
	}
	after, err := vfs.Read()
	if err != nil {
		return err
	}
	if is := after[step.VF].Setting; is != step.Setting {
		return &flow.Fault{Code: "E_VF_READBACK", What: step.VF.String(), Why: fmt.Sprintf("its driver took %s and shows %s", step.Setting, is),
			Remedy: "see what the card's driver supports; the step is done again in a moment"}
	}
	return nil
}

// check refuses what no driver can be told: kernels count rates in Mbit/s.
func check(step fabric.Step) error {
	for _, rate := range []fabric.BitsPerSecond{step.Setting.QoS.Guaranteed, step.Setting.QoS.Maximum} {
		if rate%megabit != 0 {
			return &flow.Fault{Code: "E_VF_RATE", What: step.VF.String(), Why: fmt.Sprintf("a rate of %d bit/s: cards count in Mbit/s", uint64(rate)), Remedy: "use whole megabits"}
		}
	}
	return nil
}

const megabit fabric.BitsPerSecond = 1_000_000

func foreign(vf fabric.VFID, is fabric.Setting) error {
	return &flow.Fault{Code: "E_VF_FOREIGN", What: vf.String(), Why: fmt.Sprintf("somebody else has set it up: %s", is),
		Remedy: "clear it by hand, or move the profile"}
}

func unknown(vf fabric.VFID) error {
	return &flow.Fault{Code: "E_VF_UNKNOWN", What: vf.String(), Why: "the blade has no such VF with a representor",
		Remedy: "create it, and set the card's eSwitch to switchdev mode"}
}

// refused is what a driver said about one property of a VF.
func refused(vf fabric.VFID, property string, err error) error {
	return &flow.Fault{Code: "E_VF_REFUSED", What: fmt.Sprintf("%s: %s", vf, property), Why: err.Error(),
		Remedy: "see what the card's driver supports", Err: err}
}
