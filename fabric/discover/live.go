package discover

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Live reads the running system and compares the reading with what netlink,
// devlink, sriovnet and rdmamap say. Our reading stands; what differs is a finding.
// From devlink comes only what sysfs does not have: the eSwitch mode, and the
// firmware of functions without RDMA; from the kernel's RDMA how namespaces share devices. Cost: the reading, and a netlink request for
// each netdev.
func Live() (fabric.Inventory, []fabric.Finding, error) {
	inv, findings, err := Read("/")
	if err != nil {
		return inv, findings, err
	}
	inv.RDMANetns, _ = netlink.RdmaSystemGetNetnsMode() // a kernel without RDMA has none
	answers, cards, failures := ask(inv)
	findings = append(findings, failures...)
	findings = append(findings, compare(inv, answers)...)
	return adopt(inv, cards), findings, nil
}

// Glance reads the running system as [Live] does, and asks nobody for what it could only be
// compared with: most of what Live costs, which grows with the square of the number of VFs.
func Glance() (fabric.Inventory, error) {
	inv, _, err := Read("/")
	if err != nil {
		return inv, err
	}
	inv.RDMANetns, _ = netlink.RdmaSystemGetNetnsMode()
	cards, _ := askDevlink(inv, func(string, string, string, string) {})
	return adopt(inv, cards), nil
}

// answer is what someone else says about one property of one object. Objects are
// PCI addresses, netdev names and "blade"; an empty value says "none".
type answer struct {
	source, object, property, value string
}

// Properties that answers are about.
const (
	propPF          = "PF"
	propIndex       = "VF index"
	propNetdev      = "netdev"
	propPCI         = "PCI address"
	propRepresentor = "representor"
	propESwitch     = "eSwitch mode"
	propMAC         = "MAC"
	propMTU         = "MTU"
	propRDMA        = "RDMA devices"
)

type question struct{ object, property string }

// facts returns what our reading says of every property that others are asked for.
func facts(inv fabric.Inventory) map[question]string {
	f := map[question]string{}
	netdev := func(d *fabric.Netdev, p fabric.PCI) {
		if d == nil {
			f[question{p.String(), propNetdev}] = ""
			return
		}
		f[question{p.String(), propNetdev}] = d.Name
		f[question{d.Name, propPCI}] = p.String()
		f[question{d.Name, propMAC}] = flow.FormatMAC(d.MAC)
		f[question{d.Name, propMTU}] = fmt.Sprint(d.MTU)
	}
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			netdev(pf.Netdev, pf.PCI)
			f[question{pf.PCI.String(), propESwitch}] = string(pf.ESwitch)
			f[question{pf.PCI.String(), propRDMA}] = rdmaSet(pf.RDMA)
			for _, vf := range pf.VFs {
				netdev(vf.Netdev, vf.PCI)
				object := vf.PCI.String()
				f[question{object, propPF}] = pf.PCI.String()
				f[question{object, propIndex}] = fmt.Sprint(vf.Index)
				f[question{object, propRDMA}] = rdmaSet(vf.RDMA)
				f[question{object, propRepresentor}] = ""
				if vf.Representor != nil {
					f[question{object, propRepresentor}] = vf.Representor.Name
				}
			}
		}
	}
	return f
}

// rdmaSet writes the names of a function's own RDMA devices so that two sets compare.
func rdmaSet(devices []fabric.RDMA) string {
	var names []string
	for _, d := range devices {
		if !d.Software {
			names = append(names, d.Name)
		}
	}
	return nameSet(names)
}

func nameSet(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	return fmt.Sprint(names)
}

// compare returns a finding for each answer that differs from our reading.
func compare(inv fabric.Inventory, answers []answer) []fabric.Finding {
	ours := facts(inv)
	var findings []fabric.Finding
	for _, a := range answers {
		value, known := ours[question{a.object, a.property}]
		if known && value == a.value {
			continue
		}
		if a.property == propESwitch && value == "" {
			continue // sysfs gave no sign of a mode: nothing to disagree with
		}
		findings = append(findings, fabric.Finding{Code: "E_DISAGREE", Object: a.object,
			Text: fmt.Sprintf("%s: %s says %q, sysfs says %q", a.property, a.source, a.value, value)})
	}
	return findings
}

// card is what devlink knows of a PF and sysfs does not.
type card struct {
	mode     fabric.ESwitch
	firmware string
}

// adopt fills in what only devlink has.
func adopt(inv fabric.Inventory, cards map[fabric.PCI]card) fabric.Inventory {
	out := inv
	out.NICs = slices.Clone(inv.NICs)
	for n := range out.NICs {
		out.NICs[n].PFs = slices.Clone(out.NICs[n].PFs)
		for p := range out.NICs[n].PFs {
			pf := &out.NICs[n].PFs[p]
			c := cards[pf.PCI]
			if c.mode != fabric.ESwitchUnknown {
				pf.ESwitch = c.mode
			}
			if pf.Firmware == "" {
				pf.Firmware = c.firmware
			}
		}
	}
	return out
}
