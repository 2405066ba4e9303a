package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The sysfs tree of a blade, laid out as Linux lays it out for an mlx5 card in
// switchdev mode: devices are directories below sys/devices, and sys/bus and
// sys/class are links to them. The PF's netdev is the uplink's representor; the
// VFs' netdevs are in the workloads' namespaces, so the blade does not see them.
// Names, addresses and MTU of netdevs are those of the lab's own.

// The card as PCI sees it: one function with VFs behind a bridge.
const (
	pciBridge  = "pci0000:00/0000:00:02.0"
	pciVendor  = "0x15b3"
	pciPF      = "0x101d" // ConnectX-6 Dx
	pciVF      = "0x101e"
	totalVFs   = 64
	netClass   = "0x020000"
	driverName = "mlx5_core"
)

// pciAddress returns the address of a function: 0 is the PF, n+1 VF n.
func pciAddress(function int) string {
	return fmt.Sprintf("0000:03:%02x.%d", function/8, function%8)
}

// tree writes files and links below a root and keeps the first error.
type tree struct {
	root string
	err  error
}

func (t *tree) file(path string, content string) {
	full := filepath.Join(t.root, path)
	if t.err == nil {
		t.err = os.MkdirAll(filepath.Dir(full), 0o755)
	}
	if t.err == nil {
		t.err = os.WriteFile(full, []byte(content), 0o644)
	}
}

// attributes writes one line per file of a directory.
func (t *tree) attributes(dir string, values map[string]any) {
	for name, v := range values {
		t.file(dir+"/"+name, fmt.Sprintf("%v\n", v))
	}
}

// link makes path a link to target, another path below the root, said relatively as
// sysfs does.
func (t *tree) link(path, target string) {
	full := filepath.Join(t.root, path)
	relative, err := filepath.Rel(filepath.Dir(path), target)
	if t.err = errors.Join(t.err, err); t.err == nil {
		t.err = os.MkdirAll(filepath.Dir(full), 0o755)
	}
	if t.err == nil {
		t.err = os.Symlink(relative, full)
	}
}

// describe writes the blade's tree below SysRoot.
func (b *Blade) describe() error {
	t := &tree{root: b.SysRoot}
	for function := range len(b.Attached) {
		t.function(b, function)
	}
	for _, p := range b.Attached {
		t.netdev(b, p)
	}
	if t.err != nil {
		return fmt.Errorf("sysfs of blade %s: %w", b.Name, t.err)
	}
	return nil
}

func pciDir(function int) string { return "sys/devices/" + pciBridge + "/" + pciAddress(function) }

// function writes one PCI function and its RDMA device.
func (t *tree) function(b *Blade, function int) {
	dir := pciDir(function)
	t.attributes(dir, map[string]any{"class": netClass, "vendor": pciVendor, "numa_node": 0})
	if function == 0 {
		vfs := len(b.Workloads)
		t.attributes(dir, map[string]any{"device": pciPF, "sriov_totalvfs": totalVFs, "sriov_numvfs": vfs})
		t.file(dir+"/vpd", vpd(b))
		for vf := range vfs {
			t.link(fmt.Sprintf("%s/virtfn%d", dir, vf), pciDir(vf+1))
		}
	} else {
		t.attributes(dir, map[string]any{"device": pciVF})
		t.link(dir+"/physfn", pciDir(0))
	}
	driver := "sys/bus/pci/drivers/" + driverName
	t.file(driver+"/module/version", "lab\n")
	t.link(dir+"/driver", driver)
	t.link(driver+"/"+pciAddress(function), dir)
	t.link("sys/bus/pci/devices/"+pciAddress(function), dir)

	rdma := fmt.Sprintf("mlx5_%d", function)
	t.attributes(dir+"/infiniband/"+rdma, map[string]any{
		"node_guid":          fmt.Sprintf("b8ce:f603:%04x:%04x", b.Number, function),
		"fw_ver":             "22.39.2048",
		"ports/1/state":      "4: ACTIVE",
		"ports/1/link_layer": "Ethernet",
		"ports/1/rate":       "100 Gb/sec (4X EDR)",
	})
	t.link(dir+"/infiniband/"+rdma+"/device", dir)
	t.link("sys/class/infiniband/"+rdma, dir+"/infiniband/"+rdma)
}

// netdev writes a representor. All of them hang under the PF.
func (t *tree) netdev(b *Blade, p *Attachment) {
	link, err := p.Representor.link()
	if err != nil {
		t.err = errors.Join(t.err, err)
		return
	}
	port := "p0"
	if p.Workload != nil {
		port = fmt.Sprintf("pf0vf%d", p.Port-Uplink-1)
	}
	dir := pciDir(0) + "/net/" + p.Representor.Name
	t.attributes(dir, map[string]any{
		"address":        link.Attrs().HardwareAddr,
		"ifindex":        link.Attrs().Index,
		"type":           1, // ARPHRD_ETHER
		"mtu":            MTU,
		"operstate":      "up",
		"carrier":        1,
		"speed":          100_000,
		"phys_switch_id": fmt.Sprintf("%04xb80003f6ceb8", b.Number),
		"phys_port_name": port,
	})
	t.link(dir+"/device", pciDir(0))
	t.link("sys/class/net/"+p.Representor.Name, dir)
}

// vpd returns the card's vital product data (PCI 3.0, appendix I): its name, then
// part and serial number.
func vpd(b *Blade) string {
	var fields []byte
	for _, f := range [][2]string{{"PN", "BLADEFLOW-LAB"}, {"SN", fmt.Sprintf("LAB%05d", b.Number)}} {
		fields = append(append(fields, f[0]...), byte(len(f[1])))
		fields = append(fields, f[1]...)
	}
	var out []byte
	for _, r := range []struct {
		tag  byte
		data []byte
	}{{0x82, []byte("bladeflow emulated card")}, {0x90, fields}} {
		out = binary.LittleEndian.AppendUint16(append(out, r.tag), uint16(len(r.data)))
		out = append(out, r.data...)
	}
	return string(append(out, 0x78)) // the end tag
}
