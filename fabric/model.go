package fabric

import (
	"cmp"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// Chassis is an enclosure that blades sit in.
type Chassis struct {
	Name  string
	Slots int // numbered from 1
}

// Slot is a place in a chassis. The zero value is no place: a server that stands alone.
type Slot struct {
	Chassis string
	Number  int
}

// BladeID is the name of a blade: its certificate's, and its agent's.
type BladeID string

// Blade is one server that bladeflow manages.
type Blade struct {
	ID     BladeID
	Slot   Slot
	Uplink string // name of the PF to which unknown addresses go; empty takes the blade's first
}

// Network is one layer-2 domain of the fabric: the VLAN that tables see its frames
// in, 0 for untagged. No two networks have the same. docs/adr/0006 says who tags.
type Network struct {
	Name   string
	Tenant string // only its profiles may use it; DefaultTenant's are everybody's
	VLAN   uint16
}

// DefaultTenant owns what is nobody's in particular.
const DefaultTenant = "default"

// QoS is the rate of a vNIC in sending direction.
type QoS struct {
	Guaranteed BitsPerSecond // 0 guarantees nothing
	Maximum    BitsPerSecond // 0 is the link's
}

// Profile is one workload's I/O: its vNICs and the rule sets that hold where it is.
// All its vNICs are on one blade.
type Profile struct {
	Name     string
	Tenant   string
	VNICs    []VNIC
	RuleSets []string // names; sets of tier tenant hold on a blade only by this
	Where    Pool
}

// VNIC is what a workload sees of a VF.
type VNIC struct {
	Name    string // unique in its profile
	MAC     uint64 // as in flow.Station; unique in its network
	Network string
	QoS     QoS
	Trust   bool // the workload may become promiscuous and change its address
	Spoof   bool // the workload may send from other addresses than its own: no spoof check
	RDMA    bool // it needs a VF with an RDMA device
}

// Pool says where a profile may live. The zero value is anywhere.
type Pool struct {
	Chassis []string  // on any blade of these
	Blades  []BladeID // or on these
	PF      string    // and there only on the PF of this name, nicN/pfN; empty allows all
}

// Holds reports whether the pool has the blade.
func (p Pool) Holds(b Blade) bool {
	if len(p.Chassis) == 0 && len(p.Blades) == 0 {
		return true
	}
	for _, c := range p.Chassis {
		if c == b.Slot.Chassis {
			return true
		}
	}
	for _, id := range p.Blades {
		if id == b.ID {
			return true
		}
	}
	return false
}

// VNICName is the full name of a vNIC, `profile/vnic`. Rules may say it for a port.
type VNICName struct{ Profile, VNIC string }

// String returns `profile/vnic`.
func (n VNICName) String() string { return n.Profile + "/" + n.VNIC }

// Compare orders by profile, then vNIC.
func (n VNICName) Compare(o VNICName) int {
	return cmp.Or(cmp.Compare(n.Profile, o.Profile), cmp.Compare(n.VNIC, o.VNIC))
}

// PFID is the identity of a PF on its blade. The serial is its card's, empty if the
// card has none, so that another card in the same slot is another PF.
type PFID struct {
	PCI    PCI
	Serial string
}

// VFID is the identity of a VF in the fabric.
type VFID struct {
	Blade BladeID
	PF    PFID
	Index int
}

// Compare orders by blade, PF and index.
func (v VFID) Compare(o VFID) int {
	return cmp.Or(cmp.Compare(v.Blade, o.Blade), v.PF.PCI.Compare(o.PF.PCI),
		cmp.Compare(v.PF.Serial, o.PF.Serial), cmp.Compare(v.Index, o.Index))
}

// String returns `blade 0000:03:00.0 vf 3`.
func (v VFID) String() string { return fmt.Sprintf("%s %s vf %d", v.Blade, v.PF.PCI, v.Index) }

// Setting is what a PF's driver can be told about one VF. The zero value is a clean
// VF, as it is when nobody has it: no address, spoof check on, link off.
type Setting struct {
	MAC     uint64
	VLAN    uint16
	QoS     QoS
	Trust   bool
	Spoof   bool
	Traffic bool // the VF's link is on
}

// address is where a station is reached: no two VFs may be reached at one.
type address struct {
	vlan uint16
	mac  uint64
}

func (s Setting) address() address { return address{s.VLAN, s.MAC} }

// quiet returns s with the link off.
func (s Setting) quiet() Setting {
	s.Traffic = false
	return s
}

// String returns the settings as `ip link` words.
func (s Setting) String() string {
	if s == (Setting{}) {
		return "clean"
	}
	return fmt.Sprintf("mac %s vlan %d min %s max %s trust %t spoofchk %t traffic %t", flow.FormatMAC(s.MAC), s.VLAN,
		s.QoS.Guaranteed, s.QoS.Maximum, s.Trust, !s.Spoof, s.Traffic)
}

// RuleSet is a rule set of the fabric, parsed. Its rules know no blade, so the ports
// in them are numbers in the set's own Ports: port n is the one called Ports[n-1],
// as package ruleset reads them with [flow.OpenPorts]. [Compile] gives each name its
// meaning on a blade.
type RuleSet struct {
	Name    string
	UID     string // in RuleIDs
	Tenant  string
	Tier    flow.Tier
	Default flow.Actions // nil if the set does not say
	Rules   []flow.Rule  // complete: Name is `set/rule`, ID and Tier are set
	Ports   []string
}

// PF returns the PF with this identity.
func (inv Inventory) PF(id PFID) (*PF, bool) {
	for i := range inv.NICs {
		n := &inv.NICs[i]
		for j := range n.PFs {
			if n.Serial == id.Serial && n.PFs[j].PCI == id.PCI {
				return &n.PFs[j], true
			}
		}
	}
	return nil, false
}

// VF returns the VF with this index.
func (p *PF) VF(index int) (*VF, bool) {
	for i := range p.VFs {
		if p.VFs[i].Index == index {
			return &p.VFs[i], true
		}
	}
	return nil, false
}
