package agent

import (
	"errors"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestEmulatedRefuses has VFs made of what is not there, and ports that are no VFs.
func TestEmulatedRefuses(t *testing.T) {
	inv := fabric.Inventory{NICs: []fabric.NIC{{Name: "nic0", PFs: []fabric.PF{{Name: "nic0/pf0", VFs: []fabric.VF{{Name: "nic0/pf0/vf0"}}}}}}}
	maps := []PortMap{{Name: "nic0/pf0", Netdev: "uprep"}, {Name: "nic0/pf0/vf0", Netdev: "rep0"}}
	open := func(vfs ...VFParts) error {
		d := &Daemon{file: File{Blade: "b", VFs: vfs}}
		defer d.Close()
		_, err := d.emulated(inv, maps, inv.Ports())
		return err
	}
	check := func(err error, code string) {
		t.Helper()
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != code || f.Remedy == "" {
			t.Errorf("%v, want %s", err, code)
		}
	}
	nowhere := NetdevIn{"bladeflow-nowhere", "eth0"}
	check(open(VFParts{"vf0", nowhere, nowhere}), "E_NETNS")
	check(open(VFParts{"vf7", nowhere, nowhere}), "E_PORT_UNKNOWN")

	here := NetdevIn{"bladeflow-agent-test", "lo"}
	must.Have(t, "veth", makeSpace(here.Netns))
	t.Cleanup(func() {
		if err := netns.DeleteNamed(here.Netns); err != nil {
			t.Error(err)
		}
	})
	check(open(VFParts{"nic0/pf0", here, here}), "E_PORTS")
	check(open(VFParts{"vf0", here, here}, VFParts{"nic0/pf0/vf0", here, here}), "E_PORTS")
	if err := open(VFParts{"vf0", here, here}); err != nil {
		t.Error(err)
	}
}

// makeSpace makes a named namespace, and leaves the calling goroutine where it is.
func makeSpace(name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		space, err := netns.NewNamed(name)
		if err == nil {
			err = space.Close()
		}
		done <- err
	}()
	return <-done
}
