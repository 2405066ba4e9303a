package discover

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/fabric"
)

// readRDMA files each RDMA device under its PCI function. One in software (rxe, siw) has a
// netdev instead, and is filed under that one's function; on a netdev that is no card's
// it belongs to no list.
func (r *reader) readRDMA() {
	for _, name := range r.list(rdmaDir) {
		dir := path.Join(rdmaDir, name)
		if !r.exists(dir) {
			r.find("E_LINK_DANGLING", dir, "points at nothing")
			continue
		}
		p, ok := r.function(dir)
		software := !ok
		if dev := cmp.Or(r.text(dir+"/ports/1/gid_attrs/ndevs/0"), r.text(dir+"/parent")); software && dev != "" {
			p, ok = r.function(path.Join(netDir, path.Base(dev)))
		}
		if !ok {
			continue
		}
		d := fabric.RDMA{Name: name, Software: software, GUID: r.text(dir + "/node_guid"), Firmware: r.text(dir + "/fw_ver")}
		for _, number := range r.list(dir + "/ports") {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				r.find("E_SYSFS_VALUE", path.Join(dir, "ports", number), "not the number of a port")
				continue
			}
			port := path.Join(dir, "ports", number)
			_, state, _ := strings.Cut(r.text(port+"/state"), ": ") // "4: ACTIVE"
			d.Ports = append(d.Ports, fabric.RDMAPort{Number: n, State: state,
				Layer: r.text(port + "/link_layer"), Rate: r.text(port + "/rate")})
		}
		slices.SortFunc(d.Ports, func(a, b fabric.RDMAPort) int { return cmp.Compare(a.Number, b.Number) })
		r.rdma[p] = append(r.rdma[p], d)
	}
}
