package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// function is what lspci says of a PCI function.
type function struct {
	pci                           string
	class, vendor, device         string
	driver, serial                string
	hasVFs                        bool
	vfs, totalVFs, offset, stride int
}

var (
	lspciHead   = regexp.MustCompile(`^(\S+) ([0-9a-f]{4}): ([0-9a-f]{4}):([0-9a-f]{4})`)
	lspciDriver = regexp.MustCompile(`Kernel driver in use: (\S+)`)
	lspciSerial = regexp.MustCompile(`Device Serial Number (\S+)`)
	lspciVFs    = regexp.MustCompile(`Total VFs: (\d+), Number of VFs: (\d+)`)
	lspciPlace  = regexp.MustCompile(`VF offset: (\d+), stride: (\d+)`)
	rdmaNetns   = regexp.MustCompile(`netns (\w+)`)
	speedLine   = regexp.MustCompile(`Speed: (\d+)Mb/s`)
)

// functions are the network controllers that lspci lists.
func functions(t *testing.T) []function {
	t.Helper()
	var out []function
	for block := range strings.SplitSeq(printed(t, "lspci", "-D", "-n", "-vvv"), "\n\n") {
		m := lspciHead.FindStringSubmatch(strings.TrimSpace(block))
		if m == nil || !strings.HasPrefix(m[2], "02") {
			continue
		}
		f := function{pci: m[1], class: m[2], vendor: m[3], device: m[4], driver: word(lspciDriver, block), serial: word(lspciSerial, block)}
		if m := lspciVFs.FindStringSubmatch(block); m != nil {
			p := lspciPlace.FindStringSubmatch(block)
			f.hasVFs, f.totalVFs, f.vfs, f.offset, f.stride = true, digits(t, m[1]), digits(t, m[2]), digits(t, p[1]), digits(t, p[2])
		}
		out = append(out, f)
	}
	return out
}

// vf returns the address of a VF: routing IDs count from the PF's.
func (f function) vf(t *testing.T, i int) string {
	var domain, bus, slot, fn int
	if _, err := fmt.Sscanf(f.pci, "%x:%x:%x.%x", &domain, &bus, &slot, &fn); err != nil {
		t.Fatal(err)
	}
	id := (bus<<8 | slot<<3 | fn) + f.offset + i*f.stride
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, id>>8, id>>3&31, id&7)
}

func word(re *regexp.Regexp, text string) string {
	if m := re.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

func digits(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// printed returns what a tool prints.
func printed(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}

// answer decodes what a tool prints with -j.
func answer[T any](t *testing.T, name string, args ...string) (out T) {
	t.Helper()
	if err := json.Unmarshal([]byte(printed(t, name, args...)), &out); err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// link is what `ip -j -d link` says of a netdev.
type link struct {
	Name     string `json:"ifname"`
	MTU      int
	Flags    []string
	State    string `json:"operstate"`
	Address  string
	Parent   string `json:"parentdev"`
	PortName string `json:"phys_port_name"`
	SwitchID string `json:"phys_switch_id"`
}

// netdev returns the link of a function that chosen picks, in the words of inventory.
func netdev(t *testing.T, links []link, chosen func(link) bool) *api.Netdev {
	i := slices.IndexFunc(links, chosen)
	if i < 0 {
		return nil
	}
	l := links[i]
	d := &api.Netdev{Name: l.Name, MAC: l.Address, MTU: l.MTU, Link: strings.ToLower(l.State), SwitchID: l.SwitchID, PortName: l.PortName}
	if mbit := word(speedLine, printed(t, "ethtool", l.Name)); mbit != "" && slices.Contains(l.Flags, "UP") { // igbvf tells a speed of what is down
		d.BitsPerSecond = uint64(digits(t, mbit)) * 1e6
	}
	return d
}

// addRDMA makes an RDMA device in software on a netdev: the machine's cards have none.
func addRDMA(t *testing.T, name, netdev string) {
	t.Helper()
	printed(t, "rdma", "link", "add", name, "type", "rxe", "netdev", netdev)
}

// rdmaOf returns the RDMA devices on a netdev, in the words of inventory.
func rdmaOf(t *testing.T, netdev string) (out []api.RDMA) {
	t.Helper()
	type device struct {
		Name   string `json:"ifname"`
		GUID   string `json:"node_guid"`
		FW     string
		Port   int
		State  string
		Netdev string
	}
	devices := answer[[]device](t, "rdma", "-j", "dev")
	for _, port := range answer[[]device](t, "rdma", "-j", "link") {
		if port.Netdev != netdev {
			continue
		}
		d := devices[slices.IndexFunc(devices, func(d device) bool { return d.Name == port.Name })]
		rate, err := os.ReadFile("/sys/class/infiniband/" + port.Name + "/ports/1/rate") // which rdma does not show
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, api.RDMA{Name: d.Name, Software: true, GUID: d.GUID, Firmware: d.FW,
			Ports: []api.RDMAPort{{Number: port.Port, Layer: "Ethernet", State: port.State, Rate: strings.TrimSpace(string(rate))}}})
	}
	return out
}

// TestCardInventory compares what inventory prints with what lspci, ip, devlink, ethtool and rdma
// say, field by field.
func TestCardInventory(t *testing.T) {
	must.InMachine(t)
	links := answer[[]link](t, "ip", "-j", "-d", "link")
	type devlinkInfo struct {
		Driver   string
		Versions struct{ Running map[string]string }
	}
	info := answer[struct{ Info map[string]devlinkInfo }](t, "devlink", "-j", "dev", "info").Info
	addRDMA(t, "rxe0", "eth1")
	defer printed(t, "rdma", "link", "delete", "rxe0")
	all := functions(t)
	var vfs []string
	for _, f := range all {
		for i := range f.vfs {
			vfs = append(vfs, f.vf(t, i))
		}
	}
	want := []api.NIC{}
	for _, f := range all {
		if slices.Contains(vfs, f.pci) {
			continue
		}
		slot, fn, _ := strings.Cut(f.pci, ".")
		name := fmt.Sprintf("nic%d", len(want))
		pf := api.PF{Name: name + "/pf" + fn, PCI: f.pci, Driver: f.driver, NumVFs: f.vfs, VFs: []api.VF{}}
		if f.hasVFs {
			pf.TotalVFs = f.totalVFs - 1 // igb keeps one of its eight queue pairs for the PF
		}
		handle := "pci/" + f.pci
		if d, ok := info[handle]; ok {
			pf.Firmware = d.Versions.Running["fw.version"]
			pf.ESwitch = answer[struct {
				Dev map[string]struct{ Mode string }
			}](t, "devlink", "-j", "dev", "eswitch", "show", handle).Dev[handle].Mode
		}
		uplink := "p" + fn
		pf.Netdev = netdev(t, links, func(l link) bool { return l.Parent == f.pci && l.PortName == uplink })
		if pf.Netdev == nil {
			pf.Netdev = netdev(t, links, func(l link) bool { return l.Parent == f.pci })
		}
		for i := range f.vfs {
			vf := api.VF{Name: fmt.Sprintf("%s/vf%d", pf.Name, i), Index: i, PCI: f.vf(t, i)}
			vf.Driver = all[slices.IndexFunc(all, func(f function) bool { return f.pci == vf.PCI })].driver
			vf.Netdev = netdev(t, links, func(l link) bool { return l.Parent == vf.PCI })
			vf.Representor = netdev(t, links, func(l link) bool {
				return l.SwitchID != "" && l.SwitchID == pf.Netdev.SwitchID && l.PortName == fmt.Sprintf("pf%svf%d", fn, i)
			})
			pf.VFs = append(pf.VFs, vf)
		}
		pf.RDMA = rdmaOf(t, pf.Netdev.Name)
		want = append(want, api.NIC{Name: name, Slot: slot, Serial: f.serial, Vendor: "0x" + f.vendor, Device: "0x" + f.device, PFs: []api.PF{pf}})
	}
	if len(want) != 2 || len(want[0].PFs[0].VFs) != 7 || want[0].PFs[0].ESwitch != "switchdev" || len(want[1].PFs[0].RDMA) != 1 {
		t.Errorf("the tools see other cards than this machine has: %+v", want)
	}
	inv, findings, err := discover.Live()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(discover.NewObject("vm", inv, findings)) // what inventory -o json prints
	if err != nil {
		t.Fatal(err)
	}
	var have api.Inventory
	if err := json.Unmarshal(text, &have); err != nil {
		t.Fatal(err)
	}
	if mode := word(rdmaNetns, printed(t, "rdma", "system")); mode != have.Status.RDMANetns { // -j is none to it in some versions
		t.Errorf("rdma says %q of namespaces, inventory %q", mode, have.Status.RDMANetns)
	}
	if diff := cmp.Diff(want, have.Status.NICs); diff != "" {
		t.Errorf("the tools (-) and inventory (+) differ:\n%s", diff)
	}
	for _, f := range have.Status.Findings {
		if f.Code != "E_NETDEVS" { // the function has igb's netdev and the uplink's representor
			t.Errorf("finding: %+v", f)
		}
	}
}
