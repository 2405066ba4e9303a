package fabric

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// good is a valid spec with one of everything.
func good(t testing.TB) (Spec, *fleet) {
	f := newFleet(1, 2, 1, 4)
	return f.spec.WithRuleSet(set(t, "rules", flow.TierTenant, "name=a,in_port=eth0 actions=normal")).
		WithProfile(station("web", mac(1), "lan", "rules"), Placement{{"web", "eth0"}: vf(0, 0)}).
		WithProfile(Profile{Name: "pair", VNICs: []VNIC{{Name: "eth0", MAC: mac(1), Network: "red"}, {Name: "eth1", MAC: mac(2), Network: "red"}}},
			Placement{{"pair", "eth0"}: vf(0, 1), {"pair", "eth1"}: vf(0, 2)}), f
}

func TestValid(t *testing.T) {
	s, f := good(t)
	if err := s.Valid(); err != nil {
		t.Fatal(err)
	}
	if err := s.Fits(f.seen); err != nil {
		t.Fatal(err)
	}
	if err := (Spec{}).Valid(); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
	fails := func(s Spec, code string, words ...string) {
		t.Helper()
		wantFault(t, s.Valid(), code, words...)
	}
	fails(s.WithChassis(Chassis{"c 1", 1}), "E_NAME", "c 1")
	fails(s.WithChassis(Chassis{"c1", 0}), "E_SLOT", "c1")
	fails(s.WithBlade(Blade{ID: "../b"}), "E_NAME")
	fails(s.WithBlade(Blade{ID: ".."}), "E_NAME")
	fails(s.WithBlade(Blade{ID: "."}), "E_NAME")
	fails(s.WithBlade(Blade{ID: "x", Slot: Slot{"c9", 1}}), "E_CHASSIS_UNKNOWN", "c9", "use one of c0")
	fails(s.WithBlade(Blade{ID: "x", Slot: Slot{"c0", 17}}), "E_SLOT", "1 to 16")
	fails(s.WithBlade(Blade{ID: "x", Slot: Slot{"c0", 2}}), "E_SLOT_TWICE", "b001")
	fails(s.WithNetwork(Network{Name: "green", VLAN: 4095}), "E_VLAN")
	fails(s.WithNetwork(Network{Name: "green", VLAN: 7}), "E_VLAN_TWICE", "red")
	fails(s.WithNetwork(Network{Name: "green"}), "E_VLAN_TWICE", "untagged")

	set1 := s.RuleSets["rules"]
	set1.Name = "other"
	fails(s.WithRuleSet(set1), "E_NAME", "rules/a")
	twice := set(t, "two", flow.TierTenant, "name=a actions=drop")
	twice.Rules[0].ID = set1.Rules[0].ID
	fails(s.WithRuleSet(twice), "E_RULE_TWICE", "rules/a", "two/a")
	bad := set(t, "bad", flow.TierTenant, "name=a actions=drop")
	bad.Rules[0].Priority = -1
	fails(s.WithRuleSet(bad), "E_PRIORITY", "bad/a")
	bad.Rules[0].Priority, bad.Rules[0].Actions = 0, nil
	fails(s.WithRuleSet(bad), "E_ACTION", "bad/a")
	twice.Tier = 9
	fails(s.WithRuleSet(twice), "E_TIER")
	kept := s.WithRuleSet(set(t, "two", flow.TierTenant))
	kept.RuleSets["three"] = kept.RuleSets["two"]
	fails(kept, "E_NAME", "three")

	profile := func(change func(*Profile)) Spec {
		p := station("new", mac(9), "lan")
		change(&p)
		return s.WithProfile(p, nil)
	}
	vnic := func(change func(*VNIC)) Spec { return profile(func(p *Profile) { change(&p.VNICs[0]) }) }
	fails(profile(func(p *Profile) { p.Name = "nic3" }), "E_NAME", "card")
	fails(profile(func(p *Profile) { p.VNICs = nil }), "E_VNICS")
	fails(profile(func(p *Profile) { p.VNICs = make([]VNIC, 9) }), "E_VNICS", "1 to 8")
	fails(profile(func(p *Profile) { p.VNICs = append(p.VNICs, p.VNICs[0]) }), "E_VNIC_TWICE", "eth0")
	fails(profile(func(p *Profile) { p.RuleSets = []string{"rule"} }), "E_RULESET_UNKNOWN", "did you mean rules")
	fails(profile(func(p *Profile) { p.Where.Chassis = []string{"c7"} }), "E_CHASSIS_UNKNOWN", "c7")
	fails(profile(func(p *Profile) { p.Where.Blades = []BladeID{"b007"} }), "E_BLADE_UNKNOWN", "b007")
	for _, name := range []string{"", "a/b", "uplink", "vf0", "pf12", "a@b"} {
		fails(vnic(func(v *VNIC) { v.Name = name }), "E_NAME")
	}
	for _, m := range []uint64{0, 0x010000000001, 1 << 48} {
		fails(vnic(func(v *VNIC) { v.MAC = m }), "E_MAC")
	}
	fails(vnic(func(v *VNIC) { v.MAC = mac(1) }), "E_MAC_TWICE", "new/eth0", "web/eth0", "lan")
	fails(vnic(func(v *VNIC) { v.Network = "lam" }), "E_NETWORK_UNKNOWN", "did you mean lan")
	fails(vnic(func(v *VNIC) { v.QoS = QoS{2e9, 1e9} }), "E_RATE", "2G", "1G")
	if err := vnic(func(v *VNIC) { v.QoS = QoS{2e9, 0} }).Valid(); err != nil {
		t.Errorf("a guarantee without a maximum: %v", err)
	}

	owned := s.WithNetwork(Network{Name: "secret", Tenant: "acme", VLAN: 66})
	p := station("new", mac(9), "secret")
	fails(owned.WithProfile(p, nil), "E_TENANT", "secret", "acme")
	p.Tenant = "acme"
	if err := owned.WithProfile(p, nil).Valid(); err != nil {
		t.Error(err)
	}

	fails(s.Moved("web", Placement{{"web", "eth7"}: vf(0, 0)}), "E_VNIC_UNKNOWN", "web/eth7")
	fails(s.Moved("web", Placement{{"web", "eth0"}: vf(7, 0)}), "E_BLADE_UNKNOWN", "b007")
	fails(s.Moved("web", Placement{{"web", "eth0"}: vf(0, 1)}), "E_VF_TWICE", "pair/eth0")
	fails(s.Moved("pair", Placement{{"pair", "eth0"}: vf(0, 1), {"pair", "eth1"}: vf(1, 1)}), "E_PROFILE_SPLIT", "b001")
	fails(s.Moved("pair", Placement{{"pair", "eth0"}: vf(0, 1)}), "E_PROFILE_SPLIT", "1 of its 2")
	bound := s.Profiles["web"]
	bound.Where.Blades = []BladeID{"b001"}
	fails(s.WithProfile(bound, s.Place("web")), "E_POOL", "b000")
}

func TestFits(t *testing.T) {
	s, f := good(t)
	rate := func(q QoS) Spec {
		p := s.Profiles["pair"]
		p.VNICs = []VNIC{p.VNICs[0], p.VNICs[1]}
		p.VNICs[0].QoS, p.VNICs[1].QoS = q, q
		return s.WithProfile(p, s.Place("pair"))
	}
	if err := rate(QoS{45e9, 100e9}).Fits(f.seen); err != nil {
		t.Error(err)
	}
	wantFault(t, rate(QoS{46e9, 0}).Fits(f.seen), "E_GUARANTEE", "92G", "90G")
	wantFault(t, rate(QoS{0, 101e9}).Fits(f.seen), "E_RATE_LINK", "101G", "100G")
	wantFault(t, s.Moved("web", Placement{{"web", "eth0"}: vf(0, 4)}).Fits(f.seen), "E_VF_UNKNOWN", "vf 4")
	p := s.Profiles["web"]
	p.Where.PF = "nic0/pf1"
	wantFault(t, s.WithProfile(p, s.Place("web")).Fits(f.seen), "E_POOL", "nic0/pf0", "nic0/pf1")
}

// TestSpecIsAValue checks that nothing that makes a spec of another changes the other.
func TestSpecIsAValue(t *testing.T) {
	s, _ := good(t)
	before := Spec{maps.Clone(s.Chassis), maps.Clone(s.Blades), maps.Clone(s.Networks), maps.Clone(s.RuleSets), maps.Clone(s.Profiles), maps.Clone(s.Assignments)}
	moved := s.Moved("web", Placement{{"web", "eth0"}: vf(1, 0)})
	for _, next := range []Spec{
		s.WithChassis(Chassis{"c9", 1}), s.WithBlade(Blade{ID: "b9"}), s.WithNetwork(Network{"n9", "", 9}), s.WithRuleSet(RuleSet{Name: "r9"}),
		s.WithProfile(station("p9", mac(9), "lan"), Placement{{"p9", "eth0"}: vf(1, 1)}), moved,
		s.WithoutBlade("b001"), s.WithoutNetwork("blue"), s.WithoutRuleSet("rules"), s.WithoutProfile("web"),
	} {
		if cmp.Equal(s, next) {
			t.Error("a change changes nothing")
		}
	}
	if diff := cmp.Diff(before, s); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
	if back := moved.Moved("web", s.Place("web")); !cmp.Equal(back, s) {
		t.Error("a move and a move back differ from nothing")
	}
	if _, ok := s.WithoutProfile("web").VNIC(VNICName{"web", "eth0"}); ok {
		t.Error("a vNIC outlives its profile")
	}
	off := s.Moved("pair", nil)
	if err := off.Valid(); err != nil || len(off.Place("pair")) != 0 || len(off.Profiles) != 2 {
		t.Errorf("a profile that is off: %v, %v", off.Place("pair"), err)
	}
	seen := Snapshot{Blades: map[BladeID]Seen{"b000": {VFs: map[VFID]VFState{vf(0, 1): {Setting{MAC: 1}, true}}}}}
	after := seen.After(Step{Kind: Clear, Blade: "b000", VF: vf(0, 1)}, Step{Kind: Configure, Blade: "b000", VF: vf(0, 2), Setting: Setting{MAC: 2}})
	if len(seen.Blades["b000"].VFs) != 1 || seen.Blades["b000"].VFs[vf(0, 1)].MAC != 1 || after.Blades["b000"].VFs[vf(0, 2)].MAC != 2 || len(after.Blades["b000"].VFs) != 1 {
		t.Errorf("before %v, after %v", seen, after)
	}
}

func BenchmarkValid(b *testing.B) {
	s := newFleet(1, 256, 1, 64).full(b)
	for b.Loop() {
		if err := s.Valid(); err != nil {
			b.Fatal(err)
		}
	}
}
