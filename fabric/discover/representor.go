package discover

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/bladeflow/bladeflow/fabric"
)

// representor is a netdev that stands for a VF, before it is known for which.
type representor struct {
	*fabric.Netdev
	port   port
	parent fabric.PCI // valid iff onPCI
	onPCI  bool
}

// port is what a phys_port_name says of a VF representor.
type port struct {
	pf int // -1 if the name, of an old kernel, has the VF alone
	vf int
}

var (
	vfPortName = regexp.MustCompile(`^(?:pf(\d{1,3})vf)?(\d{1,5})$`)
	// A subfunction's or a whole PF's representor (on the card's own processor), and
	// every port of another controller (c1pf0vf0), is a port of something else.
	foreignPortName = regexp.MustCompile(`^(c\d+)?(pf\d+(sf\d+)?|pf\d+vf\d+)$`)
)

// vfPort parses a phys_port_name: pf0vf3, or 3 before kernel 5.0.
func vfPort(name string) (port, bool) {
	m := vfPortName.FindStringSubmatch(name)
	if m == nil {
		return port{}, false
	}
	p := port{pf: -1}
	if m[1] != "" {
		p.pf, _ = strconv.Atoi(m[1])
	}
	p.vf, _ = strconv.Atoi(m[2])
	return p, true
}

func foreignPort(name string) bool { return foreignPortName.MatchString(name) }

// assignRepresentors gives each VF its representor.
func (r *reader) assignRepresentors(inv fabric.Inventory) {
	for _, rep := range r.representors {
		vf := rep.findVF(inv)
		switch {
		case vf == nil:
			r.find("E_REPRESENTOR_ORPHAN", netDir+"/"+rep.Name, "stands for port %s of switch %s, which has no such VF", rep.PortName, rep.SwitchID)
		case vf.Representor != nil:
			r.find("E_REPRESENTOR_TWICE", netDir+"/"+rep.Name, "%s has the representor %s already", vf.Name, vf.Representor.Name)
		default:
			vf.Representor = rep.Netdev
		}
	}
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			for _, vf := range pf.VFs {
				if pf.ESwitch == fabric.ESwitchSwitchdev && vf.Representor == nil {
					r.find("E_REPRESENTOR_MISSING", vf.Name, "has no representor although its card is in switchdev mode")
				}
			}
		}
	}
}

// findVF returns the VF that the representor stands for, or nil.
func (rep *representor) findVF(inv fabric.Inventory) *fabric.VF {
	for n := range inv.NICs {
		for p := range inv.NICs[n].PFs {
			pf := &inv.NICs[n].PFs[p]
			switch {
			case pf.Netdev == nil || pf.Netdev.SwitchID != rep.SwitchID:
				continue
			case rep.port.pf >= 0 && rep.port.pf != pf.Index:
				continue
			case rep.port.pf < 0 && rep.onPCI && rep.parent != pf.PCI:
				continue
			}
			if i := slices.IndexFunc(pf.VFs, func(v fabric.VF) bool { return v.Index == rep.port.vf }); i >= 0 {
				return &pf.VFs[i]
			}
		}
	}
	return nil
}
