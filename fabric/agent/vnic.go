package agent

import (
	"slices"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// planVFs plans for the VFs as they were just read. For what is only restored, a link
// that is on stays on and none goes on: the address may be somebody else's by now.
func (a *Agent) planVFs(want *Wanted) provision.Plan {
	if a.VFs == nil {
		return provision.Plan{}
	}
	vnics := slices.Clone(want.VNICs)
	for i := range vnics {
		if s := &vnics[i].Setting; want.Restored && !a.vfs[vnics[i].VF].Traffic {
			s.Traffic = false
		}
	}
	return provision.NewPlan(a.Blade, vnics, a.vfs)
}

// provision does steps until one fails, and keeps what is read after them.
func (a *Agent) provision(steps []fabric.Step) error {
	if len(steps) == 0 {
		return nil
	}
	var err error
	for _, s := range steps {
		if err = provision.Do(a.VFs, s); err != nil {
			break
		}
		a.Log.Info("a VF is set up", "step", s.String())
	}
	if now, e := a.VFs.Read(); e == nil {
		a.vfs = now
	} else if err == nil {
		err = e
	}
	return err
}
