package fabric

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// wantFault fails unless err is a fault of this code that says all words.
func wantFault(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != code {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
	if f.What == "" || f.Why == "" || f.Remedy == "" {
		t.Errorf("%s does not say what, why and what to do: %+v", code, f)
	}
}

// names returns the names of a content's rules in order, with their ports.
func names(c Content) []string {
	var out []string
	for i := range c.Table.Rules {
		r := &c.Table.Rules[i]
		name := r.Name
		if p := r.Match.Value.Get(flow.InPort); p != 0 {
			name += " from " + c.Table.Ports.Name(flow.Port(p))
		}
		for _, a := range r.Actions {
			for _, p := range a.Ports {
				name += " to " + c.Table.Ports.Name(p)
			}
		}
		out = append(out, name)
	}
	return out
}

func compile(t *testing.T, s Spec, f *fleet, blade int) Content {
	t.Helper()
	if err := s.Valid(); err != nil {
		t.Fatal(err)
	}
	id := vf(blade, 0).Blade
	c, err := Compile(s, id, f.seen.Blades[id].Inventory)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPortNames checks what each kind of name means on a blade that has the port and
// on one that does not.
func TestPortNames(t *testing.T) {
	f := newFleet(1, 2, 2, 4)
	s := f.spec.
		WithRuleSet(set(t, "sys", flow.TierSystem, "name=wire,priority=4,in_port=uplink,eth_type=0x88cc actions=drop",
			"name=db,priority=3,in_port=db/eth0,eth_type=arp actions=output:web/eth0",
			"name=card,priority=2,in_port=nic0/pf1/vf3,eth_type=arp actions=drop",
			"name=other,priority=1,in_port=nic7/pf0,eth_type=arp actions=drop")).
		WithRuleSet(set(t, "shared", flow.TierTenant, "name=own,priority=9,in_port=eth0,ip_proto=tcp actions=normal",
			"name=pair,priority=8,in_port=eth0,eth_type=arp actions=output:eth1", "name=any,priority=7,ip_proto=udp actions=drop")).
		WithProfile(Profile{Name: "web", RuleSets: []string{"shared"}, VNICs: []VNIC{{Name: "eth0", MAC: mac(1), Network: "lan"}, {Name: "eth1", MAC: mac(2), Network: "lan"}}},
			Placement{{"web", "eth0"}: vf(0, 1), {"web", "eth1"}: vf(0, 2)}).
		WithProfile(station("db", mac(3), "lan", "shared"), Placement{{"db", "eth0"}: vf(0, 3)}).
		WithProfile(station("far", mac(4), "lan", "shared"), Placement{{"far", "eth0"}: vf(1, 0)})
	both := []string{
		"sys/wire from nic0/pf0", "sys/db from nic0/pf0/vf3 to nic0/pf0/vf1", "sys/card from nic0/pf1/vf3",
		"shared/own@db from nic0/pf0/vf3", "shared/own@web from nic0/pf0/vf1", "shared/pair@web from nic0/pf0/vf1 to nic0/pf0/vf2", "shared/any",
	}
	got := names(compile(t, s, f, 0))
	slices.Sort(got)
	slices.Sort(both)
	if diff := cmp.Diff(both, got); diff != "" {
		t.Errorf("blade 0 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"sys/wire from nic0/pf0", "sys/card from nic0/pf1/vf3", "shared/own@far from nic0/pf0/vf0", "shared/any"}, names(compile(t, s, f, 1))); diff != "" {
		t.Errorf("blade 1 (-want +got):\n%s", diff)
	}
	for _, r := range compile(t, s, f, 1).Table.Rules {
		if _, name, _ := strings.Cut(r.Name, "/"); r.Tier == flow.TierTenant && r.ID != flow.NewRuleID("shared", name) {
			t.Errorf("rule %s has the ID of another name", r.Name)
		}
	}
	if local := s.RuleSets["sys"].Rules[0].Match.Value.Get(flow.InPort); local != 1 {
		t.Errorf("compiling changed the set: its first port is %d now", local)
	}
}

func TestCompileFaults(t *testing.T) {
	f := newFleet(1, 2, 1, 4)
	s := f.spec.WithProfile(station("web", mac(1), "lan", "a", "b"), Placement{{"web", "eth0"}: vf(0, 0)}).
		WithProfile(station("far", mac(2), "lan"), Placement{{"far", "eth0"}: vf(1, 0)}).
		WithRuleSet(set(t, "b", flow.TierTenant))
	fails := func(a RuleSet, code string, words ...string) {
		t.Helper()
		_, err := Compile(s.WithRuleSet(a), "b000", f.seen.Blades["b000"].Inventory)
		wantFault(t, err, code, append(words, "b000")...)
	}
	tenant := func(lines ...string) RuleSet { return set(t, "a", flow.TierTenant, lines...) }
	fails(tenant("name=x,in_port=eth7 actions=drop"), "E_PORT_UNKNOWN", "rule a/x", "eth7")
	fails(tenant("name=x,in_port=gone/eth0 actions=drop"), "E_PORT_UNKNOWN", "gone/eth0")
	fails(tenant("name=x actions=output:far/eth0"), "E_PORT_ELSEWHERE", "far/eth0")
	fails(tenant("name=x actions=output:nic7/pf0"), "E_PORT_ELSEWHERE", "nic7/pf0")
	fails(tenant("name=x,in_port=#9 actions=drop"), "E_PORT_UNKNOWN", "#9")
}

// TestTieNamesBothSets checks that two sets that contradict each other are refused with
// both names, and only on the blade where they meet.
func TestTieNamesBothSets(t *testing.T) {
	f := newFleet(1, 2, 1, 4)
	s := f.spec.WithRuleSet(set(t, "allow", flow.TierTenant, "name=x,priority=5,ip_proto=tcp actions=normal")).
		WithRuleSet(set(t, "deny", flow.TierTenant, "name=y,priority=5,dst_port=80 actions=drop")).
		WithProfile(station("one", mac(1), "lan", "allow"), Placement{{"one", "eth0"}: vf(0, 0)}).
		WithProfile(station("two", mac(2), "lan", "deny"), Placement{{"two", "eth0"}: vf(1, 0)})
	compile(t, s, f, 0)
	compile(t, s, f, 1)
	met := s.Moved("two", Placement{{"two", "eth0"}: vf(0, 1)})
	_, err := Compile(met, "b000", f.seen.Blades["b000"].Inventory)
	wantFault(t, err, "E_TIE", "allow/x", "deny/y", "b000", "ip_proto=tcp", "dst_port=80")
	compile(t, met, f, 1)

	for name, r := range s.RuleSets {
		r.Default, r.Rules = flow.Actions{{Op: map[string]flow.Op{"allow": flow.Normal, "deny": flow.Drop}[name]}}, nil
		met = met.WithRuleSet(r)
	}
	_, err = Compile(met, "b000", f.seen.Blades["b000"].Inventory)
	wantFault(t, err, "E_DEFAULT", "allow", "deny", "normal", "drop")
}

// TestCardGone checks that a vNIC whose card was taken out or replaced is said.
func TestCardGone(t *testing.T) {
	f := newFleet(1, 1, 1, 4)
	s := f.spec.WithProfile(station("web", mac(1), "lan"), Placement{{"web", "eth0"}: vf(0, 0)})
	inv := f.seen.Blades["b000"].Inventory
	inv.NICs[0].Serial = "another"
	_, err := Compile(s, "b000", inv)
	wantFault(t, err, "E_VF_UNKNOWN", "web/eth0", "S0")
	if err := s.Fits(f.seen); err == nil {
		t.Error("it fits all the same")
	}
	b := s.Blades["b000"]
	b.Uplink = "nic0/pf5"
	_, err = Compile(s.WithBlade(b).WithoutProfile("web"), "b000", inv)
	wantFault(t, err, "E_PORT_UNKNOWN", "nic0/pf5")
}

// TestNetworks judges frames between all vNICs of a fabric: in one network and on one
// blade they arrive, between networks never, and what is for elsewhere leaves by the
// uplink.
func TestNetworks(t *testing.T) {
	f := newFleet(1, 2, 1, 8)
	s := f.spec.WithRuleSet(RuleSet{Name: "all", UID: "all", Tier: flow.TierDefault, Default: flow.Actions{{Op: flow.Normal}}})
	networks := []string{"lan", "lan", "red", "red", "blue"}
	for i := range 10 {
		name := fmt.Sprintf("p%d", i)
		s = s.WithProfile(station(name, mac(i%5+1), networks[(i+i/5*2)%5]), Placement{{name, "eth0"}: vf(i/5, i%5)})
	}
	for blade := range 2 {
		c := compile(t, s, f, blade)
		table, err := flow.NewTable(c.Table)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range c.VNICs {
			for to := range 6 {
				var k flow.Key
				k.Set(flow.SrcMAC, from.Setting.MAC)
				k.Set(flow.DstMAC, mac(to+1))
				k.Set(flow.EthType, flow.EthARP)
				if from.Setting.VLAN != 0 {
					k.Set(flow.VLAN, uint64(from.Setting.VLAN)|flow.TagPresent)
				}
				frame, err := flow.Frame(k, make([]byte, 46))
				if err != nil {
					t.Fatal(err)
				}
				want := table.Switch().Uplink()
				for _, v := range c.VNICs {
					if v.Setting.MAC == mac(to+1) && v.Setting.VLAN == from.Setting.VLAN {
						want = v.Port
					}
				}
				out := flow.Judge(table, frame, from.Port)
				if want == from.Port && len(out) == 0 {
					continue // for itself
				}
				if len(out) != 1 || out[0].Port != want {
					t.Errorf("blade %d: from %s to %s: %v, want port %s", blade, from.VNIC, flow.FormatMAC(mac(to+1)), out, c.Table.Ports.Name(want))
				}
			}
		}
	}
}

// renumbered returns c as a blade would read it that counts its ports from the other end.
func renumbered(c Content) Content {
	old := c.Table.Ports.Names()
	c.Table.Ports = flow.NewPorts(slices.Collect(func(yield func(string) bool) {
		for _, n := range slices.Backward(old) {
			yield(n)
		}
	})...)
	turn := func(p flow.Port) flow.Port {
		if p == 0 {
			return 0
		}
		return flow.Port(len(old)) + 1 - p
	}
	c.Table.Rules = slices.Clone(c.Table.Rules)
	for i := range c.Table.Rules {
		r := &c.Table.Rules[i]
		if r.Match.Mask.Get(flow.InPort) != 0 {
			r.Match.Pin(flow.InPort, uint64(turn(flow.Port(r.Match.Value.Get(flow.InPort)))), flow.InPort.Max())
		}
	}
	var stations []flow.Station
	for _, s := range slices.Backward(c.Table.Switch.Stations()) {
		s.Port = turn(s.Port)
		stations = append(stations, s)
	}
	c.Table.Switch, _ = flow.NewSwitch(turn(c.Table.Switch.Uplink()), stations...)
	c.VNICs = slices.Clone(c.VNICs)
	for i := range c.VNICs {
		c.VNICs[i].Port = turn(c.VNICs[i].Port)
	}
	slices.Reverse(c.VNICs)
	slices.Reverse(c.Table.Rules)
	return c
}

// TestDigest checks what a digest depends on and what not.
func TestDigest(t *testing.T) {
	for seed := range uint64(50) {
		f := newFleet(seed, 2, 1, 4)
		s := f.random(t)
		c := compile(t, s, f, 0)
		again := compile(t, Spec{maps.Clone(s.Chassis), maps.Clone(s.Blades), maps.Clone(s.Networks), maps.Clone(s.RuleSets), maps.Clone(s.Profiles), maps.Clone(s.Assignments)}, f, 0)
		if c.Digest != again.Digest || c.Digest != c.Sum() {
			t.Fatalf("seed %d: one spec, two digests", seed)
		}
		turned := renumbered(c)
		if turned.Sum() != c.Digest {
			t.Errorf("seed %d: the numbers of ports are in the digest", seed)
		}
		c.Table.Generation = 7
		if c.Sum() != c.Digest {
			t.Errorf("seed %d: the generation is in the digest", seed)
		}
	}
	f := newFleet(1, 1, 1, 4)
	s := f.spec.WithRuleSet(set(t, "a", flow.TierTenant, "name=x,in_port=eth0,dst_port=80-90 actions=mirror:uplink,normal")).
		WithProfile(station("web", mac(1), "lan", "a"), Placement{{"web", "eth0"}: vf(0, 0)})
	seen := map[Digest]string{}
	changes := map[string]func(*Content){
		"nothing":     func(*Content) {},
		"blade":       func(c *Content) { c.Blade = "x" },
		"default":     func(c *Content) { c.Table.Default = flow.Actions{{Op: flow.Normal}} },
		"rule ID":     func(c *Content) { c.Table.Rules[0].ID++ },
		"rule name":   func(c *Content) { c.Table.Rules[0].Name += "x" },
		"tier":        func(c *Content) { c.Table.Rules[0].Tier++ },
		"priority":    func(c *Content) { c.Table.Rules[0].Priority++ },
		"in_port":     func(c *Content) { c.Table.Rules[0].Match.Pin(flow.InPort, 1, flow.InPort.Max()) },
		"any in_port": func(c *Content) { c.Table.Rules[0].Match.Pin(flow.InPort, 0, flow.InPort.Max()) },
		"port range":  func(c *Content) { c.Table.Rules[0].Match.SetPorts(flow.DstPort, 80, 91) },
		"match":       func(c *Content) { c.Table.Rules[0].Match.Pin(flow.Proto, 6, 255) },
		"mirror":      func(c *Content) { c.Table.Rules[0].Actions[0].Ports = []flow.Port{2} },
		"no rule":     func(c *Content) { c.Table.Rules = nil },
		"no switch":   func(c *Content) { c.Table.Switch = nil },
		"no vNIC":     func(c *Content) { c.VNICs = nil },
		"MAC":         func(c *Content) { c.VNICs[0].Setting.MAC++ },
		"VLAN":        func(c *Content) { c.VNICs[0].Setting.VLAN++ },
		"guarantee":   func(c *Content) { c.VNICs[0].Setting.QoS.Guaranteed++ },
		"maximum":     func(c *Content) { c.VNICs[0].Setting.QoS.Maximum++ },
		"trust":       func(c *Content) { c.VNICs[0].Setting.Trust = true },
		"spoof":       func(c *Content) { c.VNICs[0].Setting.Spoof = true },
		"VF":          func(c *Content) { c.VNICs[0].VF.Index++ },
		"serial":      func(c *Content) { c.VNICs[0].VF.PF.Serial = "x" },
		"vNIC's name": func(c *Content) { c.VNICs[0].VNIC.VNIC = "x" },
	}
	for what, change := range changes {
		c := compile(t, s, f, 0)
		change(&c)
		if other, twice := seen[c.Sum()]; twice {
			t.Errorf("%s and %s give one digest", what, other)
		}
		seen[c.Sum()] = what
	}
	for d := range seen {
		if again, err := ParseDigest(d.String()); err != nil || again != d {
			t.Errorf("%s is read as %v, %v", d, again, err)
		}
	}
	for _, bad := range []string{"12", "x", strings.Repeat("0", 66)} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("digest %q is read", bad)
		}
	}
}

// TestChangedIsLocal checks that moving, adding or deleting one profile concerns its own
// blades only, and that Changed tells every blade whose content differs.
func TestChangedIsLocal(t *testing.T) {
	told := 0
	for seed := range uint64(200) {
		f := newFleet(seed, 6, 1, 4)
		s := f.random(t)
		name := fmt.Sprintf("p%d", f.rng.IntN(6))
		p, exists := s.Profiles[name]
		if !exists {
			continue
		}
		concerned := map[BladeID]bool{}
		for _, vf := range s.Place(name) {
			concerned[vf.Blade] = true
		}
		next := s.WithoutProfile(name)
		if at, _, err := Place(s, f.seen, p, Spread); err == nil && f.rng.IntN(3) > 0 {
			next = s.Moved(name, at)
			for _, vf := range at {
				concerned[vf.Blade] = true
			}
		}
		changed := Changed(s, next, f.seen)
		for _, id := range changed {
			if !concerned[id] {
				t.Fatalf("seed %d: %s of %v changed, though only %v are concerned", seed, id, changed, concerned)
			}
		}
		for id := range concerned {
			a, _ := Compile(s, id, f.seen.Blades[id].Inventory)
			b, _ := Compile(next, id, f.seen.Blades[id].Inventory)
			if slices.Contains(changed, id) == (a.Digest == b.Digest) {
				t.Fatalf("seed %d: %s changed: %v", seed, id, changed)
			}
		}
		if len(Changed(s, s, f.seen)) > 0 {
			t.Fatalf("seed %d: a spec differs from itself", seed)
		}
		told += len(changed)
	}
	t.Logf("%d blades changed", told)
}

// BenchmarkCompileAll compiles 256 blades with 64 vNICs and 128 rules each.
func BenchmarkCompileAll(b *testing.B) {
	f := newFleet(1, 256, 1, 64)
	s := f.full(b)
	for b.Loop() {
		if c := CompileAll(s, f.seen)["b255"]; c.Err != nil || len(c.Table.Rules) != 128 {
			b.Fatal(c.Err)
		}
	}
}

// BenchmarkCompileRules compiles 200 blades that have 1,000 rules each, none in common.
func BenchmarkCompileRules(b *testing.B) {
	f := newFleet(1, 200, 1, 1)
	s := f.spec
	for i := range 200 {
		var lines []string
		for j := range 1000 {
			lines = append(lines, fmt.Sprintf("name=r%d,priority=%d,in_port=eth0,ip_proto=tcp,dst_ip=10.%d.%d.%d,dst_port=80-90 actions=normal", j, j%10, i, j/250, j%250))
		}
		name := fmt.Sprintf("p%d", i)
		s = s.WithRuleSet(set(b, name, flow.TierTenant, lines...)).WithProfile(station(name, mac(i+1), "lan", name), Placement{{name, "eth0"}: vf(i, 0)})
	}
	for b.Loop() {
		if c := CompileAll(s, f.seen)["b199"]; c.Err != nil || len(c.Table.Rules) != 1000 {
			b.Fatal(c.Err)
		}
	}
}
