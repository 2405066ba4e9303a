package discover

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// How the tree is read. Everything hangs on PCI functions of class network:
//
//	sys/bus/pci/devices/A     class, vendor, device, numa_node, driver → name,
//	                          sriov_totalvfs, sriov_numvfs, virtfnN → VF, physfn → PF, vpd, config
//	sys/class/net/D           → …/A/net/D on a real system, or D/device → A; its attributes
//	sys/class/infiniband/R    → …/A/infiniband/R, or R/device → A; its attributes
//
// A function with a physfn is a VF, every other one a PF. A VF is filed under the
// PF and index that the PF's virtfn link says. A netdev whose phys_port_name is
// that of a VF is the VF's representor, whatever function it hangs under: since
// kernel 5.8 that is the PF, before it none. Its PF is the one with its switch id
// whose function number is the name's pf number, as drivers number them.

const (
	pciDir  = "sys/bus/pci/devices"
	netDir  = "sys/class/net"
	rdmaDir = "sys/class/infiniband"
)

// Read reads the tree below a directory: "/" for the running system or a recorded
// tree. Links never lead out of the directory.
func Read(root string) (fabric.Inventory, []fabric.Finding, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fabric.Inventory{}, nil, &flow.Fault{Code: "E_ROOT", What: "inventory root " + root, Why: err.Error(),
			Remedy: "name a directory that has a sys folder in it", Err: err}
	}
	defer dir.Close()
	if _, err := dir.Stat("sys"); err != nil {
		return fabric.Inventory{}, nil, &flow.Fault{Code: "E_ROOT", What: "inventory root " + root, Why: "it has no sys folder",
			Remedy: "name the directory above it", Err: err}
	}
	inv, findings := ReadFS(filesOf(root, dir))
	return inv, findings, nil
}

// filesOf returns the files below a directory that is open. Nothing leads out of "/", and there
// the kernel follows links itself: one call, where [os.Root] makes one for each part of a path.
func filesOf(root string, dir *os.Root) fs.FS {
	if root == "/" {
		return os.DirFS(root)
	}
	return dir.FS()
}

// ReadFS reads a tree. The same tree gives the same answer. Cost: a handful of small
// reads for each network function and network device.
func ReadFS(fsys fs.FS) (fabric.Inventory, []fabric.Finding) {
	r := reader{sysfs: sysfs{fsys: fsys}, netdevs: map[fabric.PCI][]*fabric.Netdev{}, rdma: map[fabric.PCI][]fabric.RDMA{}}
	r.readNetdevs()
	r.readRDMA()
	inv := fabric.Inventory{NICs: r.nics()}
	r.assignRepresentors(inv)
	slices.SortStableFunc(r.findings, func(a, b fabric.Finding) int { return cmp.Compare(a.Object, b.Object) })
	return inv, r.findings
}

type reader struct {
	sysfs
	netdevs      map[fabric.PCI][]*fabric.Netdev // own devices of functions, without representors
	representors []representor
	rdma         map[fabric.PCI][]fabric.RDMA
}

// function returns the PCI function that a class device hangs under.
func (r *reader) function(dir string) (p fabric.PCI, ok bool) {
	for _, link := range []string{r.link(dir), r.link(dir + "/device")} {
		for parts := strings.Split(link, "/"); len(parts) > 0; parts = parts[:len(parts)-1] {
			if p, err := fabric.ParsePCI(parts[len(parts)-1]); err == nil {
				return p, true
			}
		}
	}
	return fabric.PCI{}, false
}

func (r *reader) readNetdevs() {
	for _, name := range r.list(netDir) {
		dir := path.Join(netDir, name)
		if !r.exists(dir) {
			r.find("E_LINK_DANGLING", dir, "points at nothing")
			continue
		}
		if name == "bonding_masters" {
			continue
		}
		d := &fabric.Netdev{
			Name:     name,
			MTU:      int(r.number(dir+"/mtu", 0, 1<<31, 0)),
			Link:     r.text(dir + "/operstate"),
			SwitchID: r.text(dir + "/phys_switch_id"),
			PortName: r.text(dir + "/phys_port_name"),
		}
		if mbit := r.number(dir+"/speed", -1, 1<<32-1, -1); mbit > 0 && mbit != 1<<32-1 { // both mean unknown
			d.Speed = fabric.BitsPerSecond(mbit) * 1e6
		}
		const ethernet = 1 // ARPHRD_ETHER
		if mac := r.text(dir + "/address"); mac != "" && r.number(dir+"/type", 0, 0xffff, ethernet) == ethernet {
			var err error
			if d.MAC, err = flow.ParseMAC(mac); err != nil {
				r.find("E_SYSFS_VALUE", dir+"/address", "%q is not a MAC", mac)
			}
		}
		const random = 1 // NET_ADDR_RANDOM
		d.ByChance = r.number(dir+"/addr_assign_type", 0, 255, 0) == random
		p, onPCI := r.function(dir)
		switch v, isRep := vfPort(d.PortName); {
		case isRep && d.SwitchID != "":
			r.representors = append(r.representors, representor{Netdev: d, port: v, parent: p, onPCI: onPCI})
		case onPCI && !foreignPort(d.PortName):
			r.netdevs[p] = append(r.netdevs[p], d)
		}
	}
}

// nics reads every network function and files VFs under PFs and PFs under cards.
func (r *reader) nics() []fabric.NIC {
	functions := map[fabric.PCI]string{} // to the PF of a VF, as its physfn says; "" for a PF
	for _, name := range r.list(pciDir) {
		dir := path.Join(pciDir, name)
		p, err := fabric.ParsePCI(name)
		if err != nil {
			r.find("E_PCI_ADDRESS", dir, "not a PCI address")
			continue
		}
		if !r.exists(dir) {
			r.find("E_LINK_DANGLING", dir, "points at nothing")
			continue
		}
		if class := r.number(dir+"/class", 0, 0xffffff, 0); class>>16 == 0x02 { // network controller
			functions[p] = r.base(dir + "/physfn")
		}
	}
	claimed := map[fabric.PCI]bool{}
	bySlot := map[string]*fabric.NIC{}
	var slots []string
	for _, p := range sorted(functions) {
		if functions[p] != "" {
			continue
		}
		nic := bySlot[p.Slot()]
		if nic == nil {
			nic = r.card(p, fmt.Sprintf("nic%d", len(slots)))
			bySlot[p.Slot()] = nic
			slots = append(slots, p.Slot())
		}
		nic.PFs = append(nic.PFs, r.pf(p, nic.Name, functions, claimed))
	}
	for _, p := range sorted(functions) {
		if pf := functions[p]; pf != "" && !claimed[p] {
			r.find("E_VF_ORPHAN", path.Join(pciDir, p.String()), "says it is a VF of %s, which does not list it", pf)
		}
	}
	var nics []fabric.NIC
	for _, slot := range slots {
		nics = append(nics, *bySlot[slot])
	}
	return nics
}

func sorted[V any](m map[fabric.PCI]V) []fabric.PCI {
	var keys []fabric.PCI
	for p := range m {
		keys = append(keys, p)
	}
	slices.SortFunc(keys, fabric.PCI.Compare)
	return keys
}

// card reads what all functions of a card share from its first function.
func (r *reader) card(p fabric.PCI, name string) *fabric.NIC {
	dir := path.Join(pciDir, p.String())
	nic := &fabric.NIC{
		Name: name, Slot: p.Slot(),
		Vendor: uint16(r.number(dir+"/vendor", 0, 0xffff, 0)),
		Device: uint16(r.number(dir+"/device", 0, 0xffff, 0)),
		NUMA:   int(r.number(dir+"/numa_node", -1, 1<<16, -1)),
	}
	if vpd := r.bytes(dir + "/vpd"); vpd != nil {
		fields, ok := parseVPD(vpd)
		if !ok {
			r.find("E_VPD", dir+"/vpd", "vital product data cannot be read")
		}
		nic.Serial, nic.Part = fields["SN"], fields["PN"]
	}
	if nic.Serial == "" {
		nic.Serial = deviceSerial(r.bytes(dir + "/config"))
	}
	return nic
}

func (r *reader) pf(p fabric.PCI, nic string, functions map[fabric.PCI]string, claimed map[fabric.PCI]bool) fabric.PF {
	dir := path.Join(pciDir, p.String())
	pf := fabric.PF{
		Name: fmt.Sprintf("%s/pf%d", nic, p.Function), Index: int(p.Function), PCI: p,
		Driver:   r.base(dir + "/driver"),
		TotalVFs: int(r.number(dir+"/sriov_totalvfs", 0, 0xffff, 0)),
		NumVFs:   int(r.number(dir+"/sriov_numvfs", 0, 0xffff, 0)),
		Netdev:   r.own(p, dir),
		RDMA:     r.rdma[p],
	}
	for _, d := range pf.RDMA {
		pf.Firmware = cmp.Or(pf.Firmware, d.Firmware)
	}
	for _, name := range r.list(dir) {
		index, is := strings.CutPrefix(name, "virtfn")
		if !is {
			continue
		}
		if vf, ok := r.vf(path.Join(dir, name), index, pf, functions, claimed); ok {
			pf.VFs = append(pf.VFs, vf)
		}
	}
	slices.SortFunc(pf.VFs, func(a, b fabric.VF) int { return cmp.Compare(a.Index, b.Index) })
	if len(pf.VFs) != pf.NumVFs {
		r.find("E_VF_COUNT", dir+"/sriov_numvfs", "says %d VFs, %d can be read", pf.NumVFs, len(pf.VFs))
	}
	if pf.NumVFs > pf.TotalVFs {
		r.find("E_VF_COUNT", dir+"/sriov_totalvfs", "says at most %d VFs, there are %d", pf.TotalVFs, pf.NumVFs)
	}
	// sysfs has no eSwitch mode; only a card in switchdev mode gives its ports a switch id.
	switch {
	case pf.Netdev == nil:
	case pf.Netdev.SwitchID != "":
		pf.ESwitch = fabric.ESwitchSwitchdev
	case pf.NumVFs > 0:
		pf.ESwitch = fabric.ESwitchLegacy
	}
	return pf
}

// vf follows one virtfn link.
func (r *reader) vf(link, index string, pf fabric.PF, functions map[fabric.PCI]string, claimed map[fabric.PCI]bool) (fabric.VF, bool) {
	i, err := strconv.Atoi(index)
	if err != nil || i < 0 || i > 0xffff || strconv.Itoa(i) != index {
		r.find("E_VF_LINK", link, "%q is not the index of a VF", index)
		return fabric.VF{}, false
	}
	p, err := fabric.ParsePCI(r.base(link))
	if err != nil {
		r.find("E_VF_LINK", link, "does not point at a PCI function")
		return fabric.VF{}, false
	}
	physfn, there := functions[p]
	switch {
	case !there:
		r.find("E_LINK_DANGLING", link, "there is no network function %s", p)
		return fabric.VF{}, false
	case claimed[p]:
		r.find("E_VF_TWICE", link, "%s is another VF already", p)
		return fabric.VF{}, false
	case physfn != pf.PCI.String():
		r.find("E_VF_LINK", link, "%s does not say it is a VF of %s", p, pf.PCI)
		return fabric.VF{}, false
	}
	claimed[p] = true
	dir := path.Join(pciDir, p.String())
	return fabric.VF{
		Name: fmt.Sprintf("%s/vf%d", pf.Name, i), Index: i, PCI: p,
		Driver: r.base(dir + "/driver"),
		Netdev: r.own(p, dir),
		RDMA:   r.rdma[p],
	}, true
}

// own returns the netdev of a function, nil if it has none. Of several, the one that
// is a port of an eSwitch is taken, or the first.
func (r *reader) own(p fabric.PCI, dir string) *fabric.Netdev {
	devices := r.netdevs[p]
	if len(devices) == 0 {
		return nil
	}
	if len(devices) > 1 {
		var names []string
		for _, d := range devices {
			names = append(names, d.Name)
		}
		r.find("E_NETDEVS", dir, "has several network devices, %s: one is taken", strings.Join(names, ", "))
	}
	uplink := slices.IndexFunc(devices, func(d *fabric.Netdev) bool { return d.SwitchID != "" })
	return devices[max(0, uplink)]
}
