package hwtests

import (
	"errors"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// TestFindCard refuses whatever scenarios cannot run on, and says what to do.
func TestFindCard(t *testing.T) {
	rep, dev := &fabric.Netdev{Name: "rep0"}, &fabric.Netdev{Name: "eth0"}
	at := fabric.PCI{Bus: 3}
	good := fabric.PF{Name: "nic0/pf0", PCI: at, Driver: "mlx5_core", Netdev: dev, TotalVFs: 8, NumVFs: 3, ESwitch: fabric.ESwitchSwitchdev, VFs: []fabric.VF{
		{Index: 0, PCI: fabric.PCI{Bus: 3, Function: 1}, Representor: rep}, {Index: 1, Representor: rep}, {Index: 2}}}
	inventory := func(change func(*fabric.PF)) fabric.Inventory {
		pf := good
		change(&pf)
		return fabric.Inventory{NICs: []fabric.NIC{{Name: "nic0", Serial: "S", PFs: []fabric.PF{pf}}}}
	}
	k, err := findCard(inventory(func(*fabric.PF) {}), at)
	if err != nil || len(k.free) != 2 || k.id != (fabric.PFID{PCI: at, Serial: "S"}) || k.modelName() != "mlx5" {
		t.Fatalf("%+v, %v", k, err)
	}
	refused := func(inv fabric.Inventory, at fabric.PCI, words string) {
		t.Helper()
		_, err := findCard(inv, at)
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_CARD" || f.Remedy == "" || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want E_CARD with %q", err, words)
		}
	}
	refused(fabric.Inventory{}, at, "no network card on PCI")
	refused(inventory(func(*fabric.PF) {}), fabric.PCI{Bus: 4}, "name one of nic:0000:03:00.0")
	refused(inventory(func(*fabric.PF) {}), fabric.PCI{Bus: 3, Function: 1}, "it is a VF")
	refused(inventory(func(pf *fabric.PF) { pf.Driver = "" }), at, "no driver")
	refused(inventory(func(pf *fabric.PF) { pf.Netdev = nil }), at, "in this namespace")
	refused(inventory(func(pf *fabric.PF) { pf.TotalVFs = 0 }), at, "SR-IOV")
	refused(inventory(func(pf *fabric.PF) { pf.ESwitch = fabric.ESwitchLegacy }), at, "mode switchdev")
	refused(inventory(func(pf *fabric.PF) { pf.VFs = pf.VFs[1:] }), at, "sriov_numvfs")
}

// TestRunCardRefuses has no card: nothing is touched.
func TestRunCardRefuses(t *testing.T) {
	check := func(pci, code string) {
		t.Helper()
		_, err := RunCard(t.Context(), pci, RunConfig{Terms: Terms{Say: t.Logf}})
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != code {
			t.Errorf("nic:%s: %v, want %s", pci, err, code)
		}
	}
	check("eth0", "E_USAGE")
	check("ffff:ff:1f.7", "E_CARD")
}

// TestPlugOf knows the kinds of cards, and where tcamsim is not to be had.
func TestPlugOf(t *testing.T) {
	if plug, err := plugOf("softnic"); plug != nil || err != nil {
		t.Errorf("softnic: %v", err)
	}
	var f *flow.Fault
	if _, err := plugOf("softcard"); !errors.As(err, &f) || f.Code != "E_USAGE" {
		t.Errorf("softcard: %v", err)
	}
}
