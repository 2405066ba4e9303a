package agent

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// TestInShape: what a configuration does not say is as it is wanted, and a mode that is lost
// while the VFs stay is seen.
func TestInShape(t *testing.T) {
	const switchdev, legacy = fabric.ESwitchSwitchdev, fabric.ESwitchLegacy
	check := func(want, now provision.Shape, is bool, becomes provision.Shape) {
		t.Helper()
		s := shaper{want: want}
		if got := s.wanted(now); got != becomes || inShape(now, got) != is {
			t.Errorf("%+v, wanted %+v: becomes %+v, in shape %v", now, want, got, inShape(now, got))
		}
	}
	both := provision.Shape{VFs: 4, ESwitch: switchdev}
	check(both, both, true, both)
	check(both, provision.Shape{ESwitch: switchdev}, false, both)
	check(both, provision.Shape{VFs: 4, ESwitch: legacy}, false, both)
	mode := provision.Shape{ESwitch: switchdev}
	check(mode, both, true, both)
	check(mode, mode, true, mode)
	check(mode, provision.Shape{VFs: 2, ESwitch: legacy}, false, provision.Shape{VFs: 2, ESwitch: switchdev})
	vfs := provision.Shape{VFs: 4}
	check(vfs, provision.Shape{VFs: 4, ESwitch: legacy}, true, vfs)
	check(vfs, provision.Shape{VFs: 2, ESwitch: switchdev}, false, vfs)
}
