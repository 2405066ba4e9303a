package discover

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bladeflow/bladeflow/fabric"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// unpack writes a recorded tree of testdata into a directory of its own.
func unpack(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".tree"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := ParseTree(string(text))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := tree.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

var trees = []string{"mlx5_switchdev", "intel_legacy", "no_sriov", "broken"}

// TestRead compares inventory and findings of every recorded tree with golden files.
func TestRead(t *testing.T) {
	for _, name := range trees {
		t.Run(name, func(t *testing.T) {
			inv, findings, err := Read(unpack(t, name))
			if err != nil {
				t.Fatal(err)
			}
			var table bytes.Buffer
			if err := inv.WriteTable(&table); err != nil {
				t.Fatal(err)
			}
			for _, f := range findings {
				fmt.Fprintf(&table, "%s %s\n", f.Code, f)
			}
			golden(t, name+".txt", table.String())
			object, err := json.MarshalIndent(NewObject("blade", inv, findings), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", string(object)+"\n")
			if name != "broken" && len(findings) > 0 {
				t.Errorf("findings on a sane tree: %v", findings)
			}
		})
	}
}

func TestReadNoRoot(t *testing.T) {
	for _, root := range []string{filepath.Join(t.TempDir(), "absent"), t.TempDir()} {
		if _, _, err := Read(root); err == nil || !strings.Contains(err.Error(), root) {
			t.Errorf("Read(%s) = %v, want an error naming the root", root, err)
		}
	}
}

// TestLinksStayInside checks that a recorded tree cannot make the reader look at the
// running system.
func TestLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "address"), []byte("02:00:00:00:00:66\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := Tree{Nodes: []Node{
		{Path: "sys/bus/pci/devices/0000:01:00.0/class", Data: []byte("0x020000\n")},
		{Path: "sys/bus/pci/devices/0000:01:00.0/numa_node", Link: "/proc/self/stat"},
		{Path: "sys/class/net/a/device", Link: "../../../0000:01:00.0"},
		{Path: "sys/class/net/a/address", Link: outside + "/address"},
	}}
	dir := t.TempDir()
	if err := tree.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	inv, findings, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := inv.NICs[0].PFs[0].Netdev; d.MAC != 0 {
		t.Errorf("MAC %x was read outside the tree", d.MAC)
	}
	if len(findings) != 2 {
		t.Errorf("findings %v, want one for each link that leads out", findings)
	}
}

// TestPorts checks names and order of a blade's ports and who represents them.
func TestPorts(t *testing.T) {
	inv, _, err := Read(unpack(t, "mlx5_switchdev"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1", "nic0/pf0/vf2", "nic0/pf0/vf3", "nic0/pf1"}
	if diff := cmp.Diff(want, inv.PortNames()); diff != "" {
		t.Error(diff)
	}
	for port, netdev := range map[string]string{"nic0/pf0": "enp3s0f0np0", "nic0/pf0/vf3": "enp3s0f0npf0vf3", "nic0/pf1": "", "nic9/pf0": ""} {
		dev, ok := inv.Representor(port)
		if ok != (netdev != "") || ok && dev.Name != netdev {
			t.Errorf("Representor(%s) = %v, %v, want %q", port, dev, ok, netdev)
		}
	}
	if p, err := inv.Ports().Find("vf2"); err != nil || p != 4 {
		t.Errorf("vf2 is port %d, %v, want 4", p, err)
	}
}

// TestOldKernel checks that representors without a PCI parent and with the VF's
// number alone as port name are found through the switch id.
func TestOldKernel(t *testing.T) {
	tree, err := ParseTree(`
-- sys/bus/pci/devices/0000:01:00.0/class --
0x020000
-- sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs --
4
-- sys/bus/pci/devices/0000:01:00.0/sriov_numvfs --
1
-- sys/bus/pci/devices/0000:01:00.0/virtfn0 -> ../0000:01:00.1 --
-- sys/bus/pci/devices/0000:01:00.1/class --
0x020000
-- sys/bus/pci/devices/0000:01:00.1/physfn -> ../0000:01:00.0 --
-- sys/class/net/up/device -> ../../../0000:01:00.0 --
-- sys/class/net/up/phys_switch_id --
beef
-- sys/class/net/eth7 -> ../../devices/virtual/net/eth7 --
-- sys/devices/virtual/net/eth7/phys_switch_id --
beef
-- sys/devices/virtual/net/eth7/phys_port_name --
0
`)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := tree.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	inv, findings, err := Read(dir)
	if err != nil || len(findings) > 0 {
		t.Fatal(findings, err)
	}
	if rep := inv.NICs[0].PFs[0].VFs[0].Representor; rep == nil || rep.Name != "eth7" {
		t.Errorf("representor %v, want eth7", rep)
	}
}

// TestCompare checks that every answer that differs is a finding, and no other.
func TestCompare(t *testing.T) {
	inv, _, err := Read(unpack(t, "mlx5_switchdev"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string, a answer) {
		t.Helper()
		var got string
		for _, f := range compare(inv, []answer{a}) {
			got += f.String()
		}
		if got != want {
			t.Errorf("%+v: got %q, want %q", a, got, want)
		}
	}
	check("", answer{"sriovnet", "0000:03:00.3", propIndex, "1"})
	check("0000:03:00.3: VF index: sriovnet says \"6\", sysfs says \"1\"", answer{"sriovnet", "0000:03:00.3", propIndex, "6"})
	check("", answer{"sriovnet", "0000:03:00.5", propRepresentor, "enp3s0f0npf0vf3"})
	check("0000:03:00.5: representor: sriovnet says \"\", sysfs says \"enp3s0f0npf0vf3\"", answer{"sriovnet", "0000:03:00.5", propRepresentor, ""})
	check("", answer{"rdmamap", "0000:03:00.0", propRDMA, "[mlx5_0]"})
	check("0000:03:00.0: RDMA devices: rdmamap says \"[]\", sysfs says \"[mlx5_0]\"", answer{"rdmamap", "0000:03:00.0", propRDMA, "[]"})
	check("", answer{"netlink", "enp3s0f0np0", propMTU, "9000"})
	check("enp3s0f0np0: MAC: netlink says \"02:00:00:00:00:00\", sysfs says \"0c:42:a1:03:e8:b2\"", answer{"netlink", "enp3s0f0np0", propMAC, "02:00:00:00:00:00"})
	check("0000:03:00.0: eSwitch mode: devlink says \"legacy\", sysfs says \"switchdev\"", answer{"devlink", "0000:03:00.0", propESwitch, "legacy"})
	check("", answer{"devlink", "0000:03:00.1", propESwitch, "legacy"}) // sysfs cannot tell
	check("ghost: PCI address: sriovnet says \"0000:03:00.0\", sysfs says \"\"", answer{"sriovnet", "ghost", propPCI, "0000:03:00.0"})
}

func TestAdopt(t *testing.T) {
	inv, _, err := Read(unpack(t, "intel_legacy"))
	if err != nil {
		t.Fatal(err)
	}
	p := inv.NICs[0].PFs[0].PCI
	got := adopt(inv, map[fabric.PCI]card{p: {mode: fabric.ESwitchSwitchdev, firmware: "7.10"}})
	if pf := got.NICs[0].PFs[0]; pf.ESwitch != fabric.ESwitchSwitchdev || pf.Firmware != "7.10" {
		t.Errorf("devlink's answer was not taken: %+v", pf)
	}
	if pf := inv.NICs[0].PFs[0]; pf.ESwitch != fabric.ESwitchLegacy {
		t.Error("adopt changed its argument")
	}
	if pf := got.NICs[1].PFs[0]; pf.ESwitch != fabric.ESwitchLegacy {
		t.Errorf("a card devlink does not know changed: %+v", pf)
	}
}

// TestLive reads this machine. What it has is not known here; that reading never
// fails, and that a recording of it reads alike, is.
func TestLive(t *testing.T) {
	inv, findings, err := Live()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Log(f.Code, f)
	}
	glance, err := Glance()
	if diff := cmp.Diff(inv, glance, cmpopts.IgnoreTypes(fabric.Netdev{})); diff != "" || err != nil { // netdevs may come and go
		t.Errorf("%v, Live (-) and Glance (+):\n%s", err, diff)
	}
	recorded, err := Record("/")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := recorded.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	again, _ := ReadFS(os.DirFS(dir))
	if diff := cmp.Diff(inv.PortNames(), again.PortNames()); diff != "" {
		t.Errorf("recorded tree (-live +recorded):\n%s", diff)
	}
}

// TestRecord checks that a recording reads like what was recorded, binary files and
// all, also when it went through its text form.
func TestRecord(t *testing.T) {
	for _, name := range []string{"mlx5_switchdev", "intel_legacy", "no_sriov"} {
		root := unpack(t, name)
		want, _, err := Read(root)
		if err != nil {
			t.Fatal(err)
		}
		recorded, err := Record(root)
		if err != nil {
			t.Fatal(err)
		}
		if recorded, err = ParseTree(recorded.String()); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := recorded.Unpack(dir); err != nil {
			t.Fatal(err)
		}
		got, findings, err := Read(dir)
		if err != nil || len(findings) > 0 {
			t.Errorf("%s: findings %v, %v", name, findings, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-tree +recorded):\n%s", name, diff)
		}
	}
}

// TestNetlinkVersion pins the netlink module: sriovnet alone would select a commit
// of 2025-11-01, which corrupts the flags of flower filters.
func TestNetlinkVersion(t *testing.T) {
	const pinned = "v1.3.2-0.20260629151558-4e35dc940f49"
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "github.com/vishvananda/netlink" {
			if older(f[1], pinned) {
				t.Errorf("netlink %s is older than %s", f[1], pinned)
			}
			return
		}
	}
	t.Error("go.mod does not require netlink itself")
}

// older compares two versions of the forms v1.3.1 and v1.3.2-0.DATE-COMMIT.
func older(v, than string) bool {
	parse := func(v string) (n [3]int, pre string) {
		release, pre, _ := strings.Cut(v, "-")
		fmt.Sscanf(release, "v%d.%d.%d", &n[0], &n[1], &n[2])
		if pre == "" {
			pre = "~" // a release is newer than its pre-releases
		}
		return n, pre
	}
	a, aPre := parse(v)
	b, bPre := parse(than)
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return aPre < bPre
}

func TestOlder(t *testing.T) {
	check := func(v string, want bool) {
		t.Helper()
		if got := older(v, "v1.3.2-0.20260629151558-4e35dc940f49"); got != want {
			t.Errorf("older(%s) = %v", v, got)
		}
	}
	check("v1.3.1", true)
	check("v1.3.2-0.20251101000000-000000000000", true)
	check("v1.3.2-0.20260629151558-4e35dc940f49", false)
	check("v1.3.2-0.20270101000000-000000000000", false)
	check("v1.3.2", false)
	check("v1.10.0", false)
}
