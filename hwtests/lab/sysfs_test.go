package lab

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/google/go-cmp/cmp"
)

// TestSysfs reads the blades' trees as the agent does: its ports are the lab's, with
// the lab's representors, and there is nothing to complain about.
func TestSysfs(t *testing.T) {
	l := up(t, Config{Blades: 2, VFs: 9, Bare: true, Sequences: 1}) // nine VFs reach into the next PCI device
	serials := map[string]bool{}
	for _, b := range l.Blades {
		inv, findings, err := discover.Read(b.SysRoot)
		if err != nil || len(findings) > 0 {
			t.Fatalf("%v %v", err, findings)
		}
		if len(inv.NICs) != 1 || len(inv.NICs[0].PFs) != 1 {
			t.Fatalf("%+v", inv)
		}
		nic, pf := inv.NICs[0], inv.NICs[0].PFs[0]
		serials[nic.Serial] = true
		if nic.Vendor != 0x15b3 || nic.NUMA != 0 || pf.Driver != "mlx5_core" || pf.ESwitch != fabric.ESwitchSwitchdev || pf.NumVFs != 9 || len(pf.RDMA) != 1 {
			t.Errorf("%+v", nic)
		}
		for n := flow.Port(1); int(n) <= b.Ports.Len(); n++ {
			p := b.At(n)
			if inv.Ports().Name(n) != p.Name {
				t.Errorf("port %d is %s, want %s", n, inv.Ports().Name(n), p.Name)
			}
			link, err := p.Representor.link()
			if err != nil {
				t.Fatal(err)
			}
			mac, err := flow.ParseMAC(link.Attrs().HardwareAddr.String())
			if err != nil {
				t.Fatal(err)
			}
			rep, ok := inv.Representor(p.Name)
			if !ok {
				t.Fatalf("%s has no representor", p.Name)
			}
			want := fabric.Netdev{Name: p.Representor.Name, MAC: mac, MTU: MTU, Link: "up", Speed: 100e9, SwitchID: rep.SwitchID, PortName: rep.PortName}
			if d := cmp.Diff(want, *rep); d != "" {
				t.Errorf("%s: %s", p.Name, d)
			}
		}
	}
	if len(serials) != 2 {
		t.Errorf("the cards' serial numbers are %v", serials)
	}
}
