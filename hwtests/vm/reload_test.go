package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// shaped is the machine's card as provision sees it. A reading takes an emulated CPU long, so
// settings are told by what was read when the shape was last looked at.
type shaped struct {
	pfs *provision.Functions
	vfs *provision.Netlink
	pf  fabric.PFID
	inv fabric.Inventory
}

func openShaped(t *testing.T) *shaped {
	s := &shaped{}
	read := func() (inv fabric.Inventory, err error) {
		s.inv, err = discover.Glance()
		return s.inv, err
	}
	if _, err := read(); err != nil {
		t.Fatal(err)
	}
	links, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { links.Close() })
	nic := s.inv.NICs[0]
	s.pf = fabric.PFID{PCI: nic.PFs[0].PCI, Serial: nic.Serial}
	s.pfs = &provision.Functions{Inventory: read}
	s.vfs = &provision.Netlink{Blade: "b1", Links: links, Inventory: func() (fabric.Inventory, error) { return s.inv, nil }}
	return s
}

func (s *shaped) vf(index int) fabric.VFID {
	return fabric.VFID{Blade: "b1", PF: s.pf, Index: index}
}

// reload takes a driver away and brings it back.
func reload(t *testing.T, name string) {
	t.Helper()
	module, err := os.ReadFile("/modules/" + name)
	if err == nil {
		err = unix.DeleteModule(name, 0)
	}
	if err == nil {
		err = unix.InitModule(module, "")
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// count returns how many files of the card's folder have such names.
func count(t *testing.T, pattern string) int {
	names, err := filepath.Glob("/sys/bus/pci/devices/" + card + "/" + pattern)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestCardReload reloads the PF's driver, and the VFs' while they are there: what was set
// up is gone each time, and is there again when the blade is restored from what is wanted.
// A reboot is that too: this machine begins with nothing.
func TestCardReload(t *testing.T) {
	must.InMachine(t)
	c := openShaped(t)
	shapes := map[fabric.PFID]provision.Shape{c.pf: {VFs: 5, ESwitch: fabric.ESwitchSwitchdev}}
	var want []fabric.Bound
	for i, s := range []fabric.Setting{
		{MAC: station | 0xa0, VLAN: 7, Trust: true, QoS: fabric.QoS{Maximum: 100e6}, Traffic: true},
		{MAC: station | 0xa1, Spoof: true, Traffic: true},
		{MAC: station | 0xa2, VLAN: 9},
	} {
		want = append(want, fabric.Bound{VNIC: fabric.VNICName{Profile: "p", VNIC: fmt.Sprint(i)}, VF: c.vf(i + 1), Setting: s})
	}
	t.Cleanup(func() {
		if count(t, "virtfn*") > 0 { // what is set of them ends with them
			setVFs(t, 0)
		}
		setVFs(t, 7)
		linked(t, "eth0")
		linked(t, "eth1")
	})
	linked(t, "eth0")
	drivers := []string{"", "igbvf", "igb"}
	if testing.Short() { // what the VFs' driver forgets the PF's does, too
		drivers = []string{"", "igb"}
	}
	for _, driver := range drivers {
		if driver != "" {
			reload(t, driver)
			linked(t, "eth0")
		}
		if err := provision.Restore("b1", c.pfs, c.vfs, shapes, want, nil); err != nil {
			t.Fatalf("after a reload of %q: %v", driver, err)
		}
		have := shown(t)
		if len(have) != 5 {
			t.Errorf("after a reload of %q: ip shows %d VFs", driver, len(have))
		}
		for _, w := range want {
			if is := have[w.VF.Index].setting(t); is != w.Setting {
				t.Errorf("after a reload of %q: ip shows VF %d as %+v, want %+v", driver, w.VF.Index, is, w.Setting)
			}
		}
		seen, err := c.vfs.Read()
		if err != nil || len(seen) != len(want) {
			t.Errorf("after a reload of %q: set up are %v, %v", driver, seen, err)
		}
	}
	reload(t, "igb")
	linked(t, "eth0")
	if _, err := c.pfs.Shapes(); err != nil { // reads
		t.Fatal(err)
	}
	if seen, err := c.vfs.Read(); err != nil || len(seen) > 0 {
		t.Errorf("a reload leaves %v, %v: nothing was shown", seen, err)
	}
}

// TestCardShapes changes the number of VFs and the mode of the eSwitch, on a card whose
// driver changes the mode only without VFs, as ice, and on one that does not care.
func TestCardShapes(t *testing.T) {
	must.InMachine(t)
	c := openShaped(t)
	shapes := []provision.Shape{{VFs: 7, ESwitch: fabric.ESwitchLegacy}, {VFs: 2, ESwitch: fabric.ESwitchSwitchdev}, {VFs: 0, ESwitch: fabric.ESwitchLegacy}, {VFs: 7, ESwitch: fabric.ESwitchSwitchdev}}
	needs := []string{"0", "1"}
	if testing.Short() { // the machine takes seconds for each
		shapes, needs = shapes[2:], needs[1:]
	}
	for _, needs := range needs {
		parameter(t, "mode_needs_no_vfs", needs)
		for _, want := range shapes {
			if err := provision.Reshape(c.pfs, c.vfs, c.pf, want); err != nil {
				t.Fatalf("mode_needs_no_vfs=%s: %+v: %v", needs, want, err)
			}
			for what, have := range map[string]int{"VFs": count(t, "virtfn*"), "drivers": count(t, "virtfn*/driver")} {
				if have != want.VFs {
					t.Errorf("mode_needs_no_vfs=%s: %+v: %d %s", needs, want, have, what)
				}
			}
		}
	}
	err := provision.Reshape(c.pfs, c.vfs, c.pf, provision.Shape{VFs: 8})
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_PF_SHAPE" {
		t.Errorf("8 VFs: %v", err)
	}
	linked(t, "eth0")
}

// TestCardLegacy has somebody set a VF up in legacy mode, where none carries our mark: it is
// not taken away.
func TestCardLegacy(t *testing.T) {
	must.InMachine(t)
	c := openShaped(t)
	parameter(t, "mode_needs_no_vfs", "1")
	reshape := func(want provision.Shape) {
		t.Helper()
		if err := provision.Reshape(c.pfs, c.vfs, c.pf, want); err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
	}
	reshape(provision.Shape{VFs: 2, ESwitch: fabric.ESwitchLegacy})
	pf, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	give := func(mac net.HardwareAddr) {
		t.Helper()
		if err := netlink.LinkSetVfHardwareAddr(pf, 1, mac); err != nil {
			t.Fatal(err)
		}
	}
	give(net.HardwareAddr{2, 0, 0, 0, 0, 0xaa})
	err = provision.Reshape(c.pfs, c.vfs, c.pf, provision.Shape{VFs: 2, ESwitch: fabric.ESwitchSwitchdev})
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_VF_FOREIGN" || count(t, "virtfn*") != 2 {
		t.Errorf("with somebody's VF: %v, and %d VFs are left", err, count(t, "virtfn*"))
	}
	give(make(net.HardwareAddr, 6))
	reshape(provision.Shape{VFs: 7, ESwitch: fabric.ESwitchSwitchdev})
	linked(t, "eth0")
}
