package provision

import (
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
)

// Netlink tells real cards, by rtnetlink through their PFs, as `ip link set PF vf N`
// does. It has run on an emulated igb only: TestNetlink skips where there is no card
// with VFs in switchdev mode.
//
// A kernel keeps no note of who set a VF up, so our mark is the alias of the VF's
// representor, which lives as long as the VF does. A VF without it is clean as long
// as nobody gave it an address, a VLAN, a rate or trust: spoof check and link have
// different defaults in different drivers. An address that its own driver made up and
// told the PF, as igbvf does, was given by nobody.
//
// Only what differs is told, because drivers refuse requests about what they do not
// have even where nothing would change.
type Netlink struct {
	Blade     fabric.BladeID
	Links     *netlink.Handle // of the namespace that PFs and representors are in: this process's
	Inventory func() (fabric.Inventory, error)
}

var _ VFs = (*Netlink)(nil)

// mark is the alias that says we set a VF up. What follows it is for people and, in a
// lab, for [Emulated].
const mark = "bladeflow"

// Read implements VFs. Cost: a reading of the inventory, a request for each PF and
// one for each representor.
func (n *Netlink) Read() (map[fabric.VFID]fabric.VFState, error) {
	out := map[fabric.VFID]fabric.VFState{}
	err := n.each(func(id fabric.VFID, at place) error {
		if state, set := at.state(); set {
			out[id] = state
		}
		return nil
	})
	return out, err
}

// touched reports whether somebody set up a VF that does not carry our mark.
func touched(s fabric.Setting) bool {
	s.Spoof, s.Traffic = false, false
	return s != fabric.Setting{}
}

// place is where a VF is told things, and what it is now.
type place struct {
	pf          netlink.Link
	representor netlink.Link // nil if it has none: then it is not ours, and we do not set it up
	setting     fabric.Setting
	byChance    bool // there is nothing but an address, which the VF's driver made up
}

func (p place) marked() bool {
	return p.representor != nil && strings.HasPrefix(p.representor.Attrs().Alias, mark)
}

// state is what Read says of the VF; set is false if it is clean.
func (p place) state() (s fabric.VFState, set bool) {
	ours := p.marked()
	return fabric.VFState{Setting: p.setting, Ours: ours}, ours || touched(p.setting) && !p.byChance
}

// each calls f for every VF that the kernel tells of.
func (n *Netlink) each(f func(fabric.VFID, place) error) error {
	inv, err := n.Inventory()
	if err != nil {
		return err
	}
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			if pf.Netdev == nil || len(pf.VFs) == 0 {
				continue
			}
			// The library's reading of a PF asks for all of its VFs with counters: see readVFs.
			dev, err := net.InterfaceByName(pf.Netdev.Name)
			if err != nil {
				return fmt.Errorf("PF %s: %w", pf.Netdev.Name, err)
			}
			link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: dev.Name, Index: dev.Index}}
			infos, err := readVFs(dev.Index)
			if err != nil {
				return fmt.Errorf("VFs of %s: %w", pf.Netdev.Name, err)
			}
			shown := map[int]fabric.Setting{}
			for _, info := range infos {
				shown[info.ID] = settingOf(info)
			}
			for _, vf := range pf.VFs {
				s, ok := shown[vf.Index]
				if !ok {
					continue
				}
				chosen := s
				chosen.MAC = 0
				at := place{pf: link, setting: s, byChance: vf.Netdev != nil && vf.Netdev.ByChance && vf.Netdev.MAC == s.MAC && !touched(chosen)}
				if vf.Representor != nil {
					if at.representor, err = n.Links.LinkByName(vf.Representor.Name); err != nil {
						return fmt.Errorf("representor %s: %w", vf.Representor.Name, err)
					}
				}
				if err := f(fabric.VFID{Blade: n.Blade, PF: fabric.PFID{PCI: pf.PCI, Serial: nic.Serial}, Index: vf.Index}, at); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// settingOf is what the kernel shows of a VF. Drivers that have no trust or no
// spoof check show all ones for them.
func settingOf(info netlink.VfInfo) fabric.Setting {
	s := fabric.Setting{VLAN: uint16(info.Vlan), Trust: info.Trust == 1, Spoof: !info.Spoofchk, Traffic: info.LinkState != netlink.VF_LINK_STATE_DISABLE}
	s.QoS = fabric.QoS{Guaranteed: fabric.BitsPerSecond(info.MinTxRate) * megabit, Maximum: fabric.BitsPerSecond(info.MaxTxRate) * megabit}
	for _, b := range info.Mac {
		s.MAC = s.MAC<<8 | uint64(b)
	}
	return s
}

// Write implements VFs.
func (n *Netlink) Write(vf fabric.VFID, s fabric.Setting) error {
	var at place
	err := n.each(func(id fabric.VFID, p place) error {
		if id == vf {
			at = p
		}
		return nil
	})
	if err != nil {
		return err
	}
	if at.representor == nil {
		return unknown(vf)
	}
	now := at.setting
	clean := s == fabric.Setting{}
	if !clean && !at.marked() {
		if err := n.Links.LinkSetAlias(at.representor, mark); err != nil {
			return refused(vf, "mark", err)
		}
	}
	rate := func(b fabric.BitsPerSecond) int { return int(b / megabit) }
	for _, do := range []struct {
		property string
		needed   bool
		tell     func() error
	}{
		{"link off", now.Traffic && !s.Traffic, func() error { return n.Links.LinkSetVfState(at.pf, vf.Index, netlink.VF_LINK_STATE_DISABLE) }},
		{"mac", now.MAC != s.MAC, func() error { return n.Links.LinkSetVfHardwareAddr(at.pf, vf.Index, hardwareAddr(s.MAC)) }},
		{"vlan", now.VLAN != s.VLAN, func() error { return n.Links.LinkSetVfVlan(at.pf, vf.Index, int(s.VLAN)) }},
		{"rates", now.QoS != s.QoS, func() error {
			return n.Links.LinkSetVfRate(at.pf, vf.Index, rate(s.QoS.Guaranteed), rate(s.QoS.Maximum))
		}},
		{"trust", now.Trust != s.Trust, func() error { return n.Links.LinkSetVfTrust(at.pf, vf.Index, s.Trust) }},
		{"spoof check", now.Spoof != s.Spoof, func() error { return n.Links.LinkSetVfSpoofchk(at.pf, vf.Index, !s.Spoof) }},
		{"link on", !now.Traffic && s.Traffic, func() error { return n.Links.LinkSetVfState(at.pf, vf.Index, netlink.VF_LINK_STATE_ENABLE) }},
		{"mark", clean && at.marked(), func() error { return n.Links.LinkSetAlias(at.representor, "") }},
	} {
		if !do.needed {
			continue
		}
		if err := do.tell(); err != nil {
			return refused(vf, do.property, err)
		}
	}
	return nil
}

func hardwareAddr(mac uint64) net.HardwareAddr {
	out := make(net.HardwareAddr, 6)
	for i := range out {
		out[i] = byte(mac >> (40 - 8*i))
	}
	return out
}
