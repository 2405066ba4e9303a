package fabric

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// worn makes a small fabric in which little fits: PFs of different speed and mode, some
// VFs with RDMA, foreign VFs, tables nearly full, profiles in place.
func worn(t *testing.T, seed uint64) (*fleet, Spec) {
	f := newFleet(seed, 3, 2, 2)
	rng := f.rng
	for id, b := range f.seen.Blades {
		if rng.IntN(6) == 0 {
			b.Age = time.Hour
		}
		b.VFs, b.Room = map[VFID]VFState{}, map[PFID]Room{}
		nic := &b.Inventory.NICs[0]
		for i := range nic.PFs {
			pf := &nic.PFs[i]
			pf.Netdev = &Netdev{Speed: []BitsPerSecond{0, 10e9, 25e9}[rng.IntN(3)], Link: "up"}
			if rng.IntN(5) == 0 {
				pf.ESwitch = ESwitchLegacy
			}
			if rng.IntN(8) == 0 {
				pf.Netdev.Link = "down"
			}
			at := PFID{pf.PCI, nic.Serial}
			if rng.IntN(2) == 0 {
				b.Room[at] = Room{Used: rng.IntN(5), Limit: 5}
			}
			if rng.IntN(4) == 0 {
				b.VFs[VFID{id, at, rng.IntN(2)}] = VFState{Setting: Setting{MAC: mac(99)}}
			}
		}
		f.seen.Blades[id] = b
	}
	s := f.spec.WithRuleSet(set(t, "rules", flow.TierTenant, "name=a,in_port=eth0 actions=normal", "name=b,priority=1,eth_type=arp actions=drop"))
	for i := range rng.IntN(4) {
		p := station(fmt.Sprintf("old%d", i), mac(i+10), "lan")
		p.VNICs[0].QoS.Guaranteed = BitsPerSecond(rng.IntN(3)) * 3e9
		if rng.IntN(2) == 0 {
			p.RuleSets = []string{"rules"}
		}
		if at, _, err := Place(s, f.seen, p, Spread); err == nil {
			s = s.WithProfile(p, at)
		}
	}
	return f, s
}

// possible is the definition of a good place for one vNIC: it says so, one condition a
// line, of a PF and VF, after what takes already took.
func possible(s Spec, seen Snapshot, p Profile, at Placement) bool {
	blade := BladeID("")
	for name, vf := range at {
		b, known := seen.Blades[vf.Blade]
		v, _ := s.WithProfile(p, nil).VNIC(name)
		pf, there := b.Inventory.PF(vf.PF)
		if !known || !there || b.Silent() || !p.Where.Holds(s.Blades[vf.Blade]) || p.Where.PF != "" && p.Where.PF != pf.Name {
			return false
		}
		if blade != "" && blade != vf.Blade {
			return false
		}
		blade = vf.Blade
		fn, there := pf.VF(vf.Index)
		state := b.VFs[vf]
		if !there || v.RDMA && len(fn.RDMA) == 0 || state.MAC != 0 && !state.Ours || pf.ESwitch != ESwitchSwitchdev || pf.Netdev.Link == "down" {
			return false
		}
		for other, taken := range s.Assignments {
			if taken == vf && other.Profile != p.Name {
				return false
			}
		}
		sum := BitsPerSecond(0)
		whole := s.WithProfile(p, at)
		for other, o := range whole.Assignments {
			if o.Blade == vf.Blade && o.PF == vf.PF {
				w, _ := whole.VNIC(other)
				sum += w.QoS.Guaranteed
			}
		}
		speed := pf.Netdev.Speed
		if v.QoS.Guaranteed > 0 && (speed == 0 || sum*10 > speed*9) || speed > 0 && v.QoS.Maximum > speed {
			return false
		}
		before, _ := Compile(s, vf.Blade, b.Inventory)
		after, err := Compile(whole, vf.Blade, b.Inventory)
		room := b.Room[vf.PF]
		if err != nil || room.Limit > 0 && max(room.Used, len(before.Table.Rules))+len(after.Table.Rules)-len(before.Table.Rules) > room.Limit {
			return false
		}
	}
	return true
}

// everyPlace calls yield with every way to give the vNICs of p different VFs of blade.
func everyPlace(seen Snapshot, p Profile, blade BladeID, yield func(Placement) bool) bool {
	var vfs []VFID
	for _, n := range seen.Blades[blade].Inventory.NICs {
		for _, pf := range n.PFs {
			for _, v := range pf.VFs {
				vfs = append(vfs, VFID{blade, PFID{pf.PCI, n.Serial}, v.Index})
			}
		}
	}
	var rec func(at Placement, i int) bool
	rec = func(at Placement, i int) bool {
		if i == len(p.VNICs) {
			return yield(at)
		}
		for _, vf := range vfs {
			used := false
			for _, u := range at {
				used = used || u == vf
			}
			if !used && rec(with(at, VNICName{p.Name, p.VNICs[i].Name}, vf), i+1) {
				return true
			}
		}
		return false
	}
	return rec(Placement{}, 0)
}

// TestPlaceAgainstBruteForce compares with trying every VF: a profile is placed iff it
// can be, each candidate says no iff nothing on it fits, and the place is a good one.
func TestPlaceAgainstBruteForce(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 100
	}
	yes, no := 0, 0
	codes := map[string]int{}
	for seed := range uint64(n) {
		f, s := worn(t, seed)
		p := Profile{Name: "new"}
		for i := range f.rng.IntN(3) + 1 {
			p.VNICs = append(p.VNICs, VNIC{Name: fmt.Sprintf("eth%d", i), MAC: mac(i + 1), Network: "lan", RDMA: f.rng.IntN(3) == 0,
				QoS: QoS{BitsPerSecond(f.rng.IntN(3)) * 3e9, BitsPerSecond(f.rng.IntN(2)) * 20e9}})
		}
		if f.rng.IntN(2) == 0 {
			p.RuleSets = []string{"rules"}
		}
		if f.rng.IntN(4) == 0 {
			p.Where = Pool{Blades: []BladeID{"b000", "b002"}, PF: "nic0/pf1"}
		}
		policy := []Policy{Spread, Pack}[f.rng.IntN(2)]
		at, candidates, err := Place(s, f.seen, p, policy)
		if err == nil && !possible(s, f.seen, p, at) {
			t.Fatalf("seed %d: %v is no place", seed, at)
		}
		if err == nil {
			if err := s.WithProfile(p, at).Fits(f.seen); err != nil {
				t.Fatalf("seed %d: placed, but %v", seed, err)
			}
		}
		any := false
		for _, c := range candidates {
			fits := everyPlace(f.seen, p, c.Blade, func(at Placement) bool { return possible(s, f.seen, p, at) })
			if fits != (c.WhyNot == nil) {
				t.Fatalf("seed %d: blade %s fits: %t, but: %v", seed, c.Blade, fits, c.WhyNot)
			}
			any = any || fits
			if c.WhyNot != nil {
				codes[c.WhyNot.Code]++
			}
		}
		if any != (err == nil) {
			t.Fatalf("seed %d: some place: %t, but: %v", seed, any, err)
		}
		if again, _, _ := Place(s, f.seen, p, policy); !cmp.Equal(at, again) {
			t.Fatalf("seed %d: two answers", seed)
		}
		if any {
			yes++
		} else {
			no++
		}
	}
	t.Logf("%d placed, %d not; why not: %v", yes, no, codes)
	for _, code := range []string{"E_BLADE_SILENT", "E_ESWITCH", "E_LINK_DOWN", "E_VF_NONE", "E_RDMA_NONE", "E_LINK_UNKNOWN", "E_RATE_LINK", "E_GUARANTEE", "E_TABLE_ROOM", "E_TOGETHER"} {
		if codes[code] == 0 && !testing.Short() {
			t.Errorf("%s was never the reason", code)
		}
	}
}

// TestPlacePolicy fills four blades one vNIC after the other.
func TestPlacePolicy(t *testing.T) {
	check := func(policy Policy, want ...int) {
		t.Helper()
		f := newFleet(1, 4, 1, 2)
		st := NewStock(f.spec, f.seen)
		var got []int
		for i := range 8 {
			p := station(fmt.Sprintf("p%d", i), mac(i+1), "lan")
			at, err := st.Place(p, policy)
			if err != nil {
				t.Fatal(err)
			}
			st.Take(p, at)
			for _, vf := range at {
				got = append(got, slices.Index([]BladeID{"b000", "b001", "b002", "b003"}, vf.Blade))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: blades %v, want %v", policy, got, want)
		}
		_, err := st.Place(station("more", mac(9), "lan"), policy)
		wantFault(t, err, "E_VF_NONE", "profile more", "4 blades", "none of its 2 VFs")
	}
	check(Spread, 0, 1, 2, 3, 0, 1, 2, 3)
	check(Pack, 0, 0, 1, 1, 2, 2, 3, 3)
}

// TestPlaceSelf checks that a profile's own place counts as free for it, and that a
// pool without blades is said.
func TestPlaceSelf(t *testing.T) {
	f := newFleet(1, 1, 1, 1)
	p := station("web", mac(1), "lan")
	at, _, err := Place(f.spec, f.seen, p, Spread)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Place(f.spec.WithProfile(p, at), f.seen, p, Spread)
	if err != nil || !cmp.Equal(at, again) {
		t.Errorf("placed again it is at %v, %v; want %v", again, err, at)
	}
	p.Where = Pool{Chassis: []string{"c9"}}
	_, candidates, err := Place(f.spec, f.seen, p, Spread)
	wantFault(t, err, "E_POOL", "web")
	if len(candidates) > 0 {
		t.Errorf("candidates outside the pool: %v", candidates)
	}
	p.Where = Pool{Chassis: []string{"c0"}, PF: "nic0/pf9"}
	_, _, err = Place(f.spec, f.seen, p, Spread)
	wantFault(t, err, "E_POOL", "nic0/pf9")
}

// TestStockTake checks that what Take accounts for is what a new stock of the spec says.
func TestStockTake(t *testing.T) {
	for seed := range uint64(100) {
		f, s := worn(t, seed)
		st := NewStock(s, f.seen)
		next := s
		for i := range 4 {
			p := station(fmt.Sprintf("p%d", i), mac(i+1), "lan")
			p.VNICs[0].QoS.Guaranteed = BitsPerSecond(f.rng.IntN(3)) * 1e9
			if f.rng.IntN(2) == 0 {
				p.RuleSets = []string{"rules"}
			}
			at, err := st.Place(p, Pack)
			var fault *flow.Fault
			if errors.As(err, &fault) {
				continue
			}
			st.Take(p, at)
			next = next.WithProfile(p, at)
			probe := station("probe", mac(50), "lan", "rules")
			if diff := cmp.Diff(NewStock(next, f.seen).Candidates(probe), st.Candidates(probe)); diff != "" {
				t.Fatalf("seed %d (-new +taken):\n%s", seed, diff)
			}
		}
	}
}

// BenchmarkPlace fills 256 blades of 64 VFs with 16,384 profiles of one vNIC.
func BenchmarkPlace(b *testing.B) {
	f := newFleet(1, 256, 1, 64)
	for _, policy := range []Policy{Spread, Pack} {
		b.Run(string(policy), func(b *testing.B) {
			for b.Loop() {
				st := NewStock(f.spec, f.seen)
				for i := range 16384 {
					p := station(fmt.Sprintf("p%05d", i), mac(i+1), "lan")
					p.VNICs[0].QoS.Guaranteed = 1e9
					at, err := st.Place(p, policy)
					if err != nil {
						b.Fatal(err)
					}
					st.Take(p, at)
				}
			}
		})
	}
}
