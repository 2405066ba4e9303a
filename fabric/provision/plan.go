package provision

import (
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/fabric"
)

// Problem. A blade gets a table and settings for its VFs together, and neither can be
// in force before the other without harm: a VF that speaks before its rules are proved
// speaks past them; rules that go before a VF is silent leave it without any.
//
// Idea. The settings are done in two parts, with the table's change between them:
// everything that silences, and all of what is set up silent, comes first; links go on
// last, and only if the table is proved. What order blades keep among each other is
// not decided here: whoever publishes settings leaves a link off until its time has come.
//
// Invariants: between the parts every VF of ours that speaks is wanted at that address
// and speaks in the settings that are wanted; after any prefix of the steps at most
// one VF of the blade speaks for each address, if it was so before and is so in what
// is wanted; nothing is done to a VF that is not ours.

// Plan is what to do about VFs on one blade, around the change of its table.
type Plan struct {
	Before []fabric.Step // first; the table may change when they are done
	After  []fabric.Step // when the table is in force and proved
}

// Len returns the number of steps.
func (p Plan) Len() int { return len(p.Before) + len(p.After) }

// NewPlan plans from what is read to what is wanted, which says for each VF what it
// shall be once all is done; VFs of ours that are not in it are cleared. A wanted VF
// that others have set up gets a step all the same, which [Do] refuses with the reason.
// The same arguments give the same plan.
func NewPlan(blade fabric.BladeID, want []fabric.Bound, seen map[fabric.VFID]fabric.VFState) Plan {
	var p Plan
	wanted := map[fabric.VFID]bool{}
	for _, w := range want {
		wanted[w.VF] = true
	}
	for _, vf := range slices.SortedFunc(maps.Keys(seen), fabric.VFID.Compare) {
		if seen[vf].Ours && !wanted[vf] {
			p.Before = append(p.Before, fabric.Step{Kind: fabric.Clear, Blade: blade, VF: vf})
		}
	}
	var setUp []fabric.Step
	for _, w := range slices.SortedFunc(slices.Values(want), func(a, b fabric.Bound) int { return a.VF.Compare(b.VF) }) {
		now, goal := seen[w.VF].Setting, w.Setting
		quiet := goal
		quiet.Traffic = false
		step := func(kind fabric.StepKind, s fabric.Setting) fabric.Step {
			return fabric.Step{Kind: kind, Blade: blade, VF: w.VF, VNIC: w.VNIC, Setting: s}
		}
		stays := now.Traffic && goal.Traffic && now.MAC == goal.MAC && now.VLAN == goal.VLAN
		switch {
		case now == goal:
		case stays:
			setUp = append(setUp, step(fabric.Configure, goal))
		default:
			if now.Traffic { // silenced as it is: another VF may be set up at its new address only when that one is silent too
				silent := now
				silent.Traffic = false
				p.Before = append(p.Before, step(fabric.Configure, silent))
			}
			if now != quiet {
				setUp = append(setUp, step(fabric.Configure, quiet))
			}
			if goal.Traffic {
				p.After = append(p.After, step(fabric.Connect, goal))
			}
		}
	}
	p.Before = append(p.Before, setUp...)
	return p
}
