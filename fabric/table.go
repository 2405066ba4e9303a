package fabric

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/bladeflow/bladeflow/flow"
)

// WriteTable writes the inventory for people: one line a NIC, PF and VF. Columns
// may change; programs read the JSON form.
func (inv Inventory) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "PORT\tPCI\tDRIVER\tNETDEV\tMAC\tMTU\tSPEED\tLINK\tVFS\tESWITCH\tREPRESENTOR\tRDMA\tFIRMWARE\tNUMA\tSERIAL")
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			numa := "-"
			if n.NUMA >= 0 {
				numa = fmt.Sprint(n.NUMA)
			}
			line(tw, p.Name, p.PCI.String(), p.Driver, p.Netdev, fmt.Sprintf("%d/%d", p.NumVFs, p.TotalVFs),
				string(p.ESwitch), "", rdmaNames(p.RDMA), p.Firmware, numa, n.Serial)
			for _, v := range p.VFs {
				rep := ""
				if v.Representor != nil {
					rep = v.Representor.Name
				}
				line(tw, v.Name, v.PCI.String(), v.Driver, v.Netdev, "", "", rep, rdmaNames(v.RDMA), "", "", "")
			}
		}
	}
	return tw.Flush()
}

func line(w io.Writer, port, pci, driver string, d *Netdev, rest ...string) {
	cells := []string{port, pci, driver, "", "", "", "", ""}
	if d != nil {
		mac := ""
		if d.MAC != 0 {
			mac = flow.FormatMAC(d.MAC)
		}
		cells = append(cells[:3], d.Name, mac, fmt.Sprint(d.MTU), d.Speed.String(), d.Link)
	}
	cells = append(cells, rest...)
	for i := range cells {
		cells[i] = cmp.Or(cells[i], "-")
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

func rdmaNames(devices []RDMA) string {
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return strings.Join(names, ",")
}
