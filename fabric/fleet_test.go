package fabric

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// fleet is a fabric made for a test.
type fleet struct {
	rng  *rand.Rand
	spec Spec
	seen Snapshot
}

// newFleet makes blades in chassis of 16, all alike, with nothing on them.
func newFleet(seed uint64, blades, pfs, vfs int) *fleet {
	f := &fleet{rng: rand.New(rand.NewPCG(seed, 1)), seen: Snapshot{Blades: map[BladeID]Seen{}}}
	for i := range blades {
		chassis := Chassis{fmt.Sprintf("c%d", i/16), 16}
		if i%16 == 0 {
			f.spec = f.spec.WithChassis(chassis)
		}
		id := BladeID(fmt.Sprintf("b%03d", i))
		f.spec = f.spec.WithBlade(Blade{ID: id, Slot: Slot{chassis.Name, i%16 + 1}})
		f.seen.Blades[id] = Seen{Inventory: inventory(i, pfs, vfs)}
	}
	f.spec = f.spec.WithNetwork(Network{Name: "lan"}).WithNetwork(Network{Name: "red", VLAN: 7}).WithNetwork(Network{Name: "blue", VLAN: 8})
	return f
}

func inventory(blade, pfs, vfs int) Inventory {
	nic := NIC{Name: "nic0", Slot: "0000:03:00", Serial: fmt.Sprintf("S%d", blade)}
	for p := range pfs {
		pf := PF{Name: fmt.Sprintf("nic0/pf%d", p), Index: p, PCI: PCI{Bus: 3, Function: uint8(p)}, TotalVFs: vfs, NumVFs: vfs,
			ESwitch: ESwitchSwitchdev, Netdev: &Netdev{Speed: 100e9, Link: "up"}}
		for v := range vfs {
			vf := VF{Name: fmt.Sprintf("%s/vf%d", pf.Name, v), Index: v}
			if v%2 == 0 {
				vf.RDMA = []RDMA{{Name: "rdma"}}
			}
			pf.VFs = append(pf.VFs, vf)
		}
		nic.PFs = append(nic.PFs, pf)
	}
	return Inventory{NICs: []NIC{nic}}
}

// set returns a rule set whose rules are given as lines of text.
func set(t testing.TB, name string, tier flow.Tier, lines ...string) RuleSet {
	t.Helper()
	ports := flow.OpenPorts()
	r := RuleSet{Name: name, UID: name, Tier: tier}
	for _, line := range lines {
		rule, err := flow.ParseRule(line, ports)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		rule.ID, rule.Name, rule.Tier = flow.NewRuleID(name, rule.Name), name+"/"+rule.Name, tier
		r.Rules = append(r.Rules, rule)
	}
	r.Ports = ports.Names()
	return r
}

func mac(n int) uint64 { return 0x020000000000 | uint64(n) }

// station returns a profile of one vNIC called eth0.
func station(name string, m uint64, network string, sets ...string) Profile {
	return Profile{Name: name, VNICs: []VNIC{{Name: "eth0", MAC: m, Network: network}}, RuleSets: sets}
}

// vf returns a VF of the first PF of a blade of a fleet.
func vf(blade, index int) VFID {
	return VFID{BladeID(fmt.Sprintf("b%03d", blade)), PFID{PCI{Bus: 3}, fmt.Sprintf("S%d", blade)}, index}
}

// random returns a spec on the fleet's blades: rule sets of all kinds, and profiles
// that share them, some of them off. Profiles of one name have always the same
// number of vNICs, but not the same settings.
func (f *fleet) random(t testing.TB) Spec {
	t.Helper()
	rng, s := f.rng, f.spec
	if rng.IntN(2) == 0 {
		s = s.WithRuleSet(set(t, "sys", flow.TierSystem, fmt.Sprintf("name=arp,priority=%d,eth_type=arp actions=normal", rng.IntN(3)),
			"name=wire,priority=9,in_port=uplink,ip_proto=igmp actions=drop"))
	}
	for i := range 3 {
		name := fmt.Sprintf("set%d", i)
		s = s.WithRuleSet(set(t, name, flow.TierTenant,
			fmt.Sprintf("name=own,priority=%d,in_port=eth0,ip_proto=tcp,dst_port=%d actions=normal", 10*i, rng.IntN(2)),
			fmt.Sprintf("name=all,priority=%d,ip_proto=udp,dst_port=%d actions=drop", 10*i+1, rng.IntN(2))))
	}
	taken := map[VFID]bool{}
	macs := rng.Perm(24)
	for i := range 6 {
		if rng.IntN(6) == 0 {
			continue
		}
		p := Profile{Name: fmt.Sprintf("p%d", i)}
		for j := range i%2 + 1 {
			p.VNICs = append(p.VNICs, VNIC{Name: fmt.Sprintf("eth%d", j), MAC: mac(macs[2*i+j] % 12), Network: []string{"lan", "red"}[macs[2*i+j]/12],
				QoS: QoS{BitsPerSecond(rng.IntN(2)) * 1e9, 0}, Trust: rng.IntN(4) == 0})
		}
		for j := range 3 {
			if rng.IntN(2) == 0 {
				p.RuleSets = append(p.RuleSets, fmt.Sprintf("set%d", j))
			}
		}
		at := Placement{}
		blade := rng.IntN(len(f.spec.Blades))
		for _, v := range p.VNICs {
			for len(p.VNICs) > len(at) && rng.IntN(9) > 0 {
				if to := vf(blade, rng.IntN(4)); !taken[to] {
					taken[to], at[VNICName{p.Name, v.Name}] = true, to
					break
				}
			}
		}
		if len(at) < len(p.VNICs) {
			at = nil
		}
		s = s.WithProfile(p, at)
	}
	if err := s.Valid(); err != nil {
		t.Fatal(err)
	}
	return s
}

// full returns a spec in which every VF has a vNIC, with one rule set for all.
func (f *fleet) full(t testing.TB) Spec {
	t.Helper()
	s := f.spec.WithRuleSet(set(t, "template", flow.TierTenant, "name=web,in_port=eth0,ip_proto=tcp,dst_port=80 actions=normal",
		"name=dns,in_port=eth0,ip_proto=udp,dst_port=53 actions=normal"))
	s.Profiles, s.Assignments = map[string]Profile{}, Placement{}
	n := 0
	for blade := range len(f.spec.Blades) {
		for _, v := range f.seen.Blades[vf(blade, 0).Blade].Inventory.NICs[0].PFs[0].VFs {
			p := station(fmt.Sprintf("p%05d", n), mac(n), "lan", "template")
			p.VNICs[0].MAC++
			s.Profiles[p.Name], s.Assignments[VNICName{p.Name, "eth0"}] = p, vf(blade, v.Index)
			n++
		}
	}
	return s
}
