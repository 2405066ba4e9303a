package provision

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Emulated tells the VFs of a lab, where a VF is a veth pair from a workload to an
// emulated card. The kernel holds all of it, so a new process reads the same:
//
//   - the MAC really is the workload's netdev's;
//   - the link really goes off: the card's end of the pair is taken down, and the
//     workload sees no carrier;
//   - VLAN, rates, trust and spoof check are held, not enforced: a veth pair cannot.
//     They are noted in the alias of the representor, behind our mark, with the
//     address that the workload had before.
type Emulated struct {
	VFs map[fabric.VFID]Parts // what each VF is made of
}

// Parts are the netdevs of one emulated VF.
type Parts struct {
	Workload    Netdev // eth0
	Card        Netdev // the other end of that cable
	Representor Netdev
}

// Netdev is a netdev by its name in the namespace that Links speaks in.
type Netdev struct {
	Links *netlink.Handle
	Name  string
}

// NewEmulated returns the VFs of an inventory that parts has, which are by the names of
// ports.
func NewEmulated(blade fabric.BladeID, inv fabric.Inventory, parts map[string]Parts) *Emulated {
	e := &Emulated{VFs: map[fabric.VFID]Parts{}}
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			for _, vf := range pf.VFs {
				if p, ok := parts[vf.Name]; ok {
					e.VFs[fabric.VFID{Blade: blade, PF: fabric.PFID{PCI: pf.PCI, Serial: n.Serial}, Index: vf.Index}] = p
				}
			}
		}
	}
	return e
}

func (d Netdev) find() (netlink.Link, error) {
	link, err := d.Links.LinkByName(d.Name)
	if err != nil {
		return nil, fmt.Errorf("netdev %s: %w", d.Name, err)
	}
	return link, nil
}

var _ VFs = (*Emulated)(nil)

// note is the alias: the factory's address, and what a veth pair cannot hold.
const note = mark + " factory %s vlan %d min %d max %d trust %t spoof %t"

// Read implements VFs. Cost: up to three requests for each VF.
func (e *Emulated) Read() (map[fabric.VFID]fabric.VFState, error) {
	out := map[fabric.VFID]fabric.VFState{}
	for id, parts := range e.VFs {
		s, _, ours, err := parts.read()
		if err != nil {
			return nil, err
		}
		if ours {
			out[id] = fabric.VFState{Setting: s, Ours: true}
		}
	}
	return out, nil
}

// read returns the setting of a VF that carries our mark, and the address it had before.
func (p Parts) read() (s fabric.Setting, factory uint64, ours bool, err error) {
	rep, err := p.Representor.find()
	if err != nil || !strings.HasPrefix(rep.Attrs().Alias, mark) {
		return s, 0, false, err
	}
	var text string
	if _, err := fmt.Sscanf(rep.Attrs().Alias, note, &text, &s.VLAN, &s.QoS.Guaranteed, &s.QoS.Maximum, &s.Trust, &s.Spoof); err != nil {
		return s, 0, false, fmt.Errorf("alias of %s: %w", p.Representor.Name, err)
	}
	if factory, err = flow.ParseMAC(text); err != nil {
		return s, 0, false, fmt.Errorf("alias of %s: %w", p.Representor.Name, err)
	}
	workload, err := p.Workload.find()
	if err != nil {
		return s, 0, false, err
	}
	card, err := p.Card.find()
	if err != nil {
		return s, 0, false, err
	}
	s.MAC = address(workload)
	s.Traffic = card.Attrs().RawFlags&1 != 0 // IFF_UP
	return s, factory, true, nil
}

func address(l netlink.Link) (mac uint64) {
	for _, b := range l.Attrs().HardwareAddr {
		mac = mac<<8 | uint64(b)
	}
	return mac
}

// Write implements VFs.
func (e *Emulated) Write(vf fabric.VFID, s fabric.Setting) error {
	p, ok := e.VFs[vf]
	if !ok {
		return unknown(vf)
	}
	_, factory, ours, err := p.read()
	if err != nil {
		return err
	}
	clean := s == fabric.Setting{}
	if clean && !ours {
		return nil
	}
	rep, err := p.Representor.find()
	if err != nil {
		return err
	}
	workload, err := p.Workload.find()
	if err != nil {
		return err
	}
	card, err := p.Card.find()
	if err != nil {
		return err
	}
	if !ours {
		factory = address(workload)
	}
	mac, alias := s.MAC, fmt.Sprintf(note, flow.FormatMAC(factory), s.VLAN, uint64(s.QoS.Guaranteed), uint64(s.QoS.Maximum), s.Trust, s.Spoof)
	if clean {
		mac, alias = factory, ""
	}
	if !s.Traffic {
		if err := p.Card.Links.LinkSetDown(card); err != nil {
			return refused(vf, "link off", err)
		}
	}
	if err := p.Workload.Links.LinkSetHardwareAddr(workload, hardwareAddr(mac)); err != nil {
		return refused(vf, "mac", err)
	}
	if err := p.Representor.Links.LinkSetAlias(rep, alias); err != nil {
		return refused(vf, "mark", err)
	}
	if s.Traffic {
		if err := p.Card.Links.LinkSetUp(card); err != nil {
			return refused(vf, "link on", err)
		}
	}
	return nil
}
