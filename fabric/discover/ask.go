package discover

import (
	"fmt"

	"github.com/Mellanox/rdmamap"
	"github.com/k8snetworkplumbingwg/sriovnet"
	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// ask collects what the libraries say about the functions and netdevs in inv. Only
// calls are used whose answers are right on every driver tried and that do not write
// to the standard logger: sriovnet's handles and counters log, and its list of VF
// devices returns link names instead of PCI addresses.
func ask(inv fabric.Inventory) (answers []answer, cards map[fabric.PCI]card, failures []fabric.Finding) {
	say := func(source, object, property, value string) {
		answers = append(answers, answer{source, object, property, value})
	}
	function := func(p fabric.PCI, d *fabric.Netdev) {
		object := p.String()
		say("rdmamap", object, propRDMA, nameSet(rdmamap.GetRdmaDevicesForPcidev(object)))
		if d == nil {
			return
		}
		if pci, err := sriovnet.GetPciFromNetDevice(d.Name); err == nil {
			say("sriovnet", d.Name, propPCI, pci)
		}
	}
	// With VF information a reply of a card with over 222 VFs exceeds 64 KiB and is cut.
	links, err := netlink.NewHandleWithOptions(netlink.HandleOptions{DisableVFInfoCollection: true})
	if err != nil {
		failures = append(failures, failure("netlink", err))
		links = nil
	} else {
		defer links.Close()
	}
	link := func(d *fabric.Netdev) {
		if d == nil || links == nil {
			return
		}
		l, err := links.LinkByName(d.Name)
		if err != nil {
			failures = append(failures, fabric.Finding{Code: "E_DISAGREE", Object: d.Name, Text: fmt.Sprintf("in sysfs, but netlink says %v", err)})
			return
		}
		mac, _ := flow.ParseMAC(l.Attrs().HardwareAddr.String()) // zero like ours if it is not Ethernet
		say("netlink", d.Name, propMAC, flow.FormatMAC(mac))
		say("netlink", d.Name, propMTU, fmt.Sprint(l.Attrs().MTU))
	}
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			function(pf.PCI, pf.Netdev)
			link(pf.Netdev)
			if pf.ESwitch == fabric.ESwitchSwitchdev {
				if uplink, err := sriovnet.GetUplinkRepresentor(pf.PCI.String()); err == nil {
					say("sriovnet", pf.PCI.String(), propNetdev, uplink)
				}
			}
			for _, vf := range pf.VFs {
				function(vf.PCI, vf.Netdev)
				link(vf.Netdev)
				askVF(say, pf, vf)
			}
		}
	}
	cards, err = askDevlink(inv, say)
	if err != nil {
		failures = append(failures, failure("devlink", err))
	}
	return answers, cards, failures
}

func failure(source string, err error) fabric.Finding {
	return fabric.Finding{Code: "E_NOT_ASKED", Object: source, Text: err.Error()}
}

func askVF(say func(source, object, property, value string), pf fabric.PF, vf fabric.VF) {
	object := vf.PCI.String()
	if parent, err := sriovnet.GetPfPciFromVfPci(object); err == nil {
		say("sriovnet", object, propPF, parent)
	}
	if index, err := sriovnet.GetVfIndexByPciAddress(object); err == nil {
		say("sriovnet", object, propIndex, fmt.Sprint(index))
	}
	if pf.ESwitch == fabric.ESwitchSwitchdev && pf.Netdev != nil {
		rep, err := sriovnet.GetVfRepresentor(pf.Netdev.Name, vf.Index)
		if err != nil {
			rep = ""
		}
		say("sriovnet", object, propRepresentor, rep)
	}
}

// askDevlink returns what devlink knows of each PF. A card without devlink has no
// entry; a kernel without devlink is not an error.
func askDevlink(inv fabric.Inventory, say func(source, object, property, value string)) (map[fabric.PCI]card, error) {
	pfs := map[string]fabric.PCI{}
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			pfs[pf.PCI.String()] = pf.PCI
		}
	}
	cards := map[fabric.PCI]card{}
	if len(pfs) == 0 {
		return cards, nil
	}
	if _, err := netlink.GenlFamilyGet("devlink"); err != nil {
		return cards, nil
	}
	devices, err := netlink.DevLinkGetDeviceList()
	if err != nil {
		return cards, err
	}
	for _, d := range devices {
		p, ours := pfs[d.DeviceName]
		if d.BusName != "pci" || !ours {
			continue
		}
		c := card{}
		if mode := fabric.ESwitch(d.Attrs.Eswitch.Mode); mode == fabric.ESwitchLegacy || mode == fabric.ESwitchSwitchdev {
			c.mode = mode
			say("devlink", d.DeviceName, propESwitch, string(mode))
		}
		if info, err := d.GetDevlinkInfoAsMap(); err == nil {
			c.firmware = firmware(info)
		}
		cards[p] = c
	}
	return cards, nil
}

// firmware picks the running firmware's version out of devlink's names for it:
// mlx5 says fw.version, ice fw.mgmt, others fw.
func firmware(info map[string]string) string {
	for _, key := range []string{"fw.version", "fw.mgmt", "fw"} {
		if v := info[key]; v != "" {
			return v
		}
	}
	return ""
}
