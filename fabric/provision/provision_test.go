package provision_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/provision/provisiontest"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

func vf(index int) fabric.VFID {
	return fabric.VFID{Blade: "b1", PF: fabric.PFID{PCI: fabric.PCI{Bus: 3}}, Index: index}
}

// TestNetlink takes the first two free VFs of a real card in switchdev mode.
func TestNetlink(t *testing.T) {
	inv, err := discover.Glance()
	if err != nil {
		t.Fatal(err)
	}
	links, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	vfs := &provision.Netlink{Blade: "b1", Links: links, Inventory: func() (fabric.Inventory, error) { return inv, nil }}
	taken, err := vfs.Read()
	if err != nil {
		t.Fatal(err)
	}
	var free []fabric.VFID
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			for _, f := range pf.VFs {
				id := fabric.VFID{Blade: "b1", PF: fabric.PFID{PCI: pf.PCI, Serial: nic.Serial}, Index: f.Index}
				if _, set := taken[id]; !set && f.Representor != nil {
					free = append(free, id)
				}
			}
		}
	}
	if len(free) < 2 || len(taken) > 0 {
		err = errors.New("no card with two VFs in switchdev mode that nobody uses")
	}
	must.Have(t, "sriov", err)
	provisiontest.Run(t, vfs, func() provision.VFs { return vfs }, free[0], free[1])
}

func TestForeignIsLeftAlone(t *testing.T) {
	vfs := provisiontest.New(vf(0))
	theirs := fabric.VFState{Setting: fabric.Setting{MAC: 0x02aa, Traffic: true}}
	vfs.Set(vf(0), theirs)
	err := provision.Do(vfs, fabric.Step{Kind: fabric.Configure, VF: vf(0), Setting: fabric.Setting{MAC: 0x0201}})
	wantFault(t, err, "E_VF_FOREIGN")
	if now, _ := vfs.Read(); now[vf(0)] != theirs {
		t.Fatalf("it was changed to %v", now)
	}
	if p := provision.NewPlan("b1", nil, map[fabric.VFID]fabric.VFState{vf(0): theirs}); p.Len() != 0 {
		t.Fatalf("plan %v", p)
	}
}

// TestReadBack has a driver that takes a setting and does another.
func TestReadBack(t *testing.T) {
	vfs := provisiontest.New(vf(0))
	vfs.Fault = func(_ fabric.VFID, s fabric.Setting) (fabric.Setting, error) { s.VLAN = 0; return s, nil }
	err := provision.Do(vfs, fabric.Step{Kind: fabric.Configure, VF: vf(0), Setting: fabric.Setting{MAC: 0x0201, VLAN: 7}})
	wantFault(t, err, "E_VF_READBACK")
	refusal := errors.New("operation not supported")
	vfs.Fault = func(fabric.VFID, fabric.Setting) (fabric.Setting, error) { return fabric.Setting{}, refusal }
	if err := provision.Do(vfs, fabric.Step{Kind: fabric.Configure, VF: vf(0), Setting: fabric.Setting{MAC: 0x0201}}); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
}

// TestPlan carries out plans from random states to random goals and stops at random
// places, on three VFs and two addresses, and checks the invariants of [provision.NewPlan]
// after every write.
func TestPlan(t *testing.T) {
	settings := []fabric.Setting{{}}
	for _, mac := range []uint64{0x0201, 0x0202} {
		for _, rate := range []fabric.BitsPerSecond{0, 1e9} {
			for _, on := range []bool{false, true} {
				settings = append(settings, fabric.Setting{MAC: mac, QoS: fabric.QoS{Maximum: rate}, Traffic: on})
			}
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	// draw returns settings of three VFs in which no two speak for one address.
	draw := func() map[fabric.VFID]fabric.Setting {
		for {
			out := map[fabric.VFID]fabric.Setting{}
			speaks := map[uint64]int{}
			for i := range 3 {
				if s := settings[rng.IntN(len(settings))]; s != (fabric.Setting{}) {
					out[vf(i)] = s
					if s.Traffic {
						speaks[s.MAC]++
					}
				}
			}
			if speaks[0x0201] < 2 && speaks[0x0202] < 2 {
				return out
			}
		}
	}
	vfs := provisiontest.New(vf(0), vf(1), vf(2))
	vfs.Wrote = func(now map[fabric.VFID]fabric.VFState) {
		speaks := map[uint64]int{}
		for _, s := range now {
			if s.Traffic {
				if speaks[s.MAC]++; speaks[s.MAC] > 1 {
					t.Errorf("two VFs speak for one address: %v", now)
				}
			}
		}
	}
	for id, s := range draw() {
		vfs.Set(id, fabric.VFState{Setting: s, Ours: true})
	}
	writes := 0
	for range 20_000 {
		goal := draw()
		var want []fabric.Bound
		for id, s := range goal {
			want = append(want, fabric.Bound{VNIC: fabric.VNICName{Profile: "p", VNIC: "v"}, VF: id, Setting: s})
		}
		seen, _ := vfs.Read()
		p := provision.NewPlan("b1", want, seen)
		stop := rng.IntN(3 * (p.Len() + 1))
		for i, step := range append(p.Before, p.After...) {
			if i == len(p.Before) {
				betweenParts(t, vfs, goal)
			}
			if i == stop {
				break
			}
			writes++
			if err := provision.Do(vfs, step); err != nil {
				t.Fatal(err)
			}
		}
		if stop < p.Len() {
			continue
		}
		now, _ := vfs.Read()
		got := map[fabric.VFID]fabric.Setting{}
		for id, s := range now {
			got[id] = s.Setting
		}
		if !maps.Equal(got, goal) {
			t.Fatalf("%v became %v, want %v by %v", seen, got, goal, p)
		}
		if again := provision.NewPlan("b1", want, now); again.Len() != 0 {
			t.Fatalf("nothing is left to do, and the plan is %v", again)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	if writes < 20_000 {
		t.Fatalf("only %d steps were tried", writes)
	}
}

// betweenParts checks what must hold when the table changes.
func betweenParts(t *testing.T, vfs *provisiontest.VFs, goal map[fabric.VFID]fabric.Setting) {
	t.Helper()
	now, _ := vfs.Read()
	for id, s := range now {
		if s.Traffic && s.Setting != goal[id] {
			t.Fatalf("%s speaks as %s when the table changes, wanted is %s", id, s.Setting, goal[id])
		}
	}
}

func wantFault(t *testing.T, err error, code string) {
	t.Helper()
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != code {
		t.Fatalf("%v, want %s", err, code)
	}
}
