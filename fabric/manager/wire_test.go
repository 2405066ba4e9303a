package manager

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/discover"
)

// TestInventory: what a blade's own `inventory` says is what the API says, to the byte,
// and becomes the same model.
func TestInventory(t *testing.T) {
	inv := fabric.Inventory{NICs: []fabric.NIC{
		{Name: "nic0", Slot: "0000:03:00", Serial: "MT1", Part: "MCX", Vendor: 0x15b3, Device: 0x1017, NUMA: 1, PFs: []fabric.PF{{Name: "nic0/pf0", PCI: fabric.PCI{Bus: 3}, Driver: "mlx5_core", Firmware: "16.1",
			Netdev: &fabric.Netdev{Name: "eth0", MAC: 0x020000000001, MTU: 9000, Speed: 25e9, Link: "up", SwitchID: "ab", PortName: "p0"}, TotalVFs: 8, NumVFs: 2, ESwitch: fabric.ESwitchSwitchdev,
			RDMA: []fabric.RDMA{{Name: "mlx5_0", GUID: "1:2", Firmware: "16.1", Ports: []fabric.RDMAPort{{Number: 1, Layer: "Ethernet", State: "ACTIVE", Rate: "25 Gb/sec"}}}},
			VFs:  []fabric.VF{{Name: "nic0/pf0/vf0", PCI: fabric.PCI{Bus: 3, Device: 1}, Driver: "vfio-pci", Representor: &fabric.Netdev{Name: "r0"}}, {Name: "nic0/pf0/vf1", Index: 1, PCI: fabric.PCI{Bus: 3, Device: 2}, Netdev: &fabric.Netdev{Name: "v1", MAC: 2}}}}}},
		{Name: "nic1", Slot: "0001:03:00", Vendor: 0x8086, Device: 1, NUMA: -1, PFs: []fabric.PF{{Name: "nic1/pf0", PCI: fabric.PCI{Domain: 1, Bus: 3}}}},
	}}
	said, err := json.Marshal(discover.NewObject("b1", inv, []fabric.Finding{{Code: "E_X", Object: "o", Text: "t"}}))
	if err != nil {
		t.Fatal(err)
	}
	var wire api.Inventory
	if err := api.Decode(said, &wire); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(wire)
	if err != nil {
		t.Fatal(err)
	}
	if !sameJSON(said, again) {
		t.Errorf("the blade says %s, the API %s", said, again)
	}
	model, err := modelInventory(&wire)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(inv, model); diff != "" {
		t.Error(diff)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]fabric.BitsPerSecond{"": 0, "0": 0, "5000": 5000, "25G": 25e9, "2500M": 2500e6, "64K": 64e3, "1T": 1e12} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
		if s := want.String(); want > 0 && s != "-" {
			if got, err := parseRate(s); err != nil || got != want {
				t.Errorf("%d is written %s and read as %d, %v", want, s, got, err)
			}
		}
	}
	for _, text := range []string{"G", "1.5G", "-1", "1GG", "1g", "25 G", "99999999999999999999", "9999T"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
