package provision

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
)

// TestState: a VF that was set up is somebody else's if it does not carry our mark, also
// where it has no representor to carry one, as in legacy mode.
func TestState(t *testing.T) {
	representor := func(alias string) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Alias: alias}}
	}
	given := fabric.Setting{MAC: 0x0201, Spoof: true}
	check := func(at place, ours, set bool) {
		t.Helper()
		if s, is := at.state(); is != set || s.Ours != ours || s.Setting != at.setting {
			t.Errorf("%+v: %+v, set up %t", at, s, is)
		}
	}
	check(place{representor: representor(""), setting: given}, false, true)
	check(place{representor: representor(mark), setting: given}, true, true)
	check(place{representor: representor(mark)}, true, true)
	check(place{representor: representor("")}, false, false)
	check(place{setting: given}, false, true)
	check(place{setting: given, byChance: true}, false, false)
	check(place{setting: fabric.Setting{Spoof: true, Traffic: true}}, false, false)
}
