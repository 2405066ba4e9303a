package fabric

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// wantedState is the definition of what is wanted: what every VF is set to and which
// content every blade has proved.
func wantedState(t testing.TB, s Spec, seen Snapshot) Snapshot {
	t.Helper()
	out := Snapshot{Blades: map[BladeID]Seen{}}
	contents := CompileAll(s, seen)
	for id, b := range seen.Blades {
		content := contents[id]
		if content.Err != nil {
			t.Fatal(content.Err)
		}
		b.VFs, b.Proved = map[VFID]VFState{}, content.Digest
		out.Blades[id] = b
	}
	for name, vf := range s.Assignments {
		v, _ := s.VNIC(name)
		out.Blades[vf.Blade].VFs[vf] = VFState{Setting{v.MAC, s.Networks[v.Network].VLAN, v.QoS, v.Trust, v.Spoof, true}, true}
	}
	return out
}

// invariants checks a step and the state after it against the promises of NewPlan.
func invariants(s Spec, before, after Snapshot, step Step, contents map[BladeID]Compiled) error {
	if b := before.Blades[step.Blade]; b.Silent() {
		return errors.New("a step on a silent blade")
	}
	on := map[address]VFID{}
	for _, b := range after.Blades {
		for vf, state := range b.VFs {
			if !state.Traffic {
				continue
			}
			if other, twice := on[state.address()]; twice {
				return fmt.Errorf("%v and %v both answer for one address", vf, other)
			}
			on[state.address()] = vf
		}
	}
	blade := before.Blades[step.Blade]
	if step.Kind == Prove {
		if step.Digest != contents[step.Blade].Digest || step.Digest == (Digest{}) {
			return errors.New("not the wanted content")
		}
		wanted := map[VFID]address{}
		for _, v := range contents[step.Blade].VNICs {
			wanted[v.VF] = v.Setting.address()
		}
		for vf, state := range blade.VFs {
			if at, ok := wanted[vf]; state.Ours && state.Traffic && (!ok || at != state.address()) {
				return fmt.Errorf("the content lacks %v, which is on", vf)
			}
		}
		return nil
	}
	was, is := blade.VFs[step.VF], after.Blades[step.Blade].VFs[step.VF]
	if was.Setting != (Setting{}) && !was.Ours {
		return errors.New("a step on a VF that others set up")
	}
	if is.Traffic && !was.Traffic && blade.Proved != contents[step.Blade].Digest {
		return errors.New("a link goes on before the rules are proved")
	}
	if is.Traffic && was.Traffic && is.address() != was.address() {
		return errors.New("a VF changes its address with the link on")
	}
	return nil
}

// walk takes the steps of a plan one by one and returns all states on the way.
func walk(t *testing.T, s Spec, seen Snapshot, plan Plan) []Snapshot {
	t.Helper()
	contents := CompileAll(s, seen)
	states := []Snapshot{seen}
	for i, step := range plan.Steps {
		before := states[i]
		after := before.After(step)
		if err := invariants(s, before, after, step, contents); err != nil {
			t.Fatalf("step %d, %v: %v\nplan:\n%s", i, step, err, planText(plan))
		}
		states = append(states, after)
	}
	return states
}

func planText(p Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	for _, h := range p.Held {
		fmt.Fprintf(&b, "held %s %s: %s: %s\n", h.Blade, h.VNIC, h.Why.Code, h.Why)
	}
	return b.String()
}

// TestPlanReachesWanted walks from one random spec to another, stops anywhere, goes
// on to a third, and must arrive there whatever state it was in.
func TestPlanReachesWanted(t *testing.T) {
	n, steps := 500, 0
	if testing.Short() {
		n = 200
	}
	for seed := range uint64(n) {
		f := newFleet(seed, 3, 1, 4)
		seen := f.seen
		for range 4 {
			s := f.random(t)
			plan := NewPlan(s, seen)
			if len(plan.Held) > 0 {
				t.Fatalf("seed %d: held: %v", seed, plan.Held[0].Why)
			}
			if again := NewPlan(s, seen); !cmp.Equal(plan, again) {
				t.Fatalf("seed %d: two plans", seed)
			}
			states := walk(t, s, seen, plan)
			last := states[len(states)-1]
			if diff := cmp.Diff(wantedState(t, s, seen), last); diff != "" {
				t.Fatalf("seed %d: not what is wanted (-want +got):\n%s\nplan:\n%s", seed, diff, planText(plan))
			}
			if rest := NewPlan(s, last); len(rest.Steps) > 0 {
				t.Fatalf("seed %d: there is more to do when all is done:\n%s", seed, planText(rest))
			}
			steps += len(plan.Steps)
			seen = states[f.rng.IntN(len(states))]
		}
	}
	t.Logf("%d plans, %d steps", 4*n, steps)
}

// TestPlanHolds makes blades silent and VFs foreign at random: whatever is not done, no
// invariant breaks, and what is not done is said.
func TestPlanHolds(t *testing.T) {
	n := 1500
	if testing.Short() {
		n = 200
	}
	held, done := 0, 0
	for seed := range uint64(n) {
		f := newFleet(seed, 4, 1, 4)
		first := f.random(t)
		seen := wantedState(t, first, f.seen)
		for id, b := range seen.Blades {
			if f.rng.IntN(4) == 0 {
				b.Age = time.Minute
				seen.Blades[id] = b
			}
			if f.rng.IntN(4) == 0 {
				v := vf(f.rng.IntN(4), f.rng.IntN(4))
				if other := seen.Blades[v.Blade]; !other.VFs[v].Ours {
					other.VFs[v] = VFState{Setting{MAC: mac(99), VLAN: uint16(seed)}, false}
				}
			}
		}
		s := f.random(t)
		plan := NewPlan(s, seen)
		states := walk(t, s, seen, plan)
		last := states[len(states)-1]
		for at := range answered(seen) {
			if wanted(s, at) && !answered(last)[at] {
				t.Fatalf("seed %d: nobody answers for %s any more, though it is wanted:\n%s", seed, flow.FormatMAC(at.mac), planText(plan))
			}
		}
		want := wantedState(t, s, seen)
		equal := true
		for id, b := range want.Blades {
			have := last.Blades[id]
			for v, state := range have.VFs { // what others set up is not asked for
				if !state.Ours {
					delete(have.VFs, v)
				}
			}
			equal = equal && cmp.Equal(b, have)
		}
		if !equal && len(plan.Held) == 0 {
			t.Fatalf("seed %d: not what is wanted, and nobody says why:\n%s", seed, planText(plan))
		}
		if rest := NewPlan(s, last); equal && len(rest.Steps) > 0 {
			t.Fatalf("seed %d: more to do:\n%s", seed, planText(rest))
		}
		held += len(plan.Held)
		done += len(plan.Steps)
	}
	t.Logf("%d held, %d steps", held, done)
}

// answered returns the addresses that our VFs answer for.
func answered(seen Snapshot) map[address]bool {
	out := map[address]bool{}
	for _, b := range seen.Blades {
		for _, state := range b.VFs {
			if state.Ours && state.Traffic {
				out[state.address()] = true
			}
		}
	}
	return out
}

// wanted reports whether s has a vNIC of this address on some blade.
func wanted(s Spec, at address) bool {
	for name := range s.Assignments {
		if v, _ := s.VNIC(name); s.setting(v).address() == at {
			return true
		}
	}
	return false
}

var update = flag.Bool("update", false, "rewrite the files in testdata")

// TestPlanTranscript pins the order of steps for the cases a reader would ask for.
func TestPlanTranscript(t *testing.T) {
	var out strings.Builder
	f := newFleet(1, 2, 1, 4)
	web := station("web", mac(1), "lan", "allow")
	base := f.spec.WithRuleSet(set(t, "allow", flow.TierTenant, "name=all,in_port=eth0 actions=normal")).
		WithProfile(web, Placement{{"web", "eth0"}: vf(0, 0)})
	case_ := func(name string, s Spec, seen Snapshot) {
		fmt.Fprintf(&out, "# %s\n%s\n", name, planText(NewPlan(s, seen)))
	}
	case_("a profile is created", base, f.seen)
	seen := wantedState(t, base, f.seen)
	case_("nothing changed", base, seen)
	moved := base.Moved("web", Placement{{"web", "eth0"}: vf(1, 2)})
	case_("it moves to the other blade", moved, seen)
	case_("it moves on its blade", base.Moved("web", Placement{{"web", "eth0"}: vf(0, 3)}), seen)
	case_("it is reverted", base, wantedState(t, moved, f.seen))
	faster := web
	faster.VNICs = []VNIC{{Name: "eth0", MAC: mac(1), Network: "lan", QoS: QoS{Maximum: 10e9}}}
	case_("its rate changes", base.WithProfile(faster, base.Place("web")), seen)
	other := station("db", mac(2), "lan")
	two := base.WithProfile(other, Placement{{"db", "eth0"}: vf(1, 0)})
	case_("two profiles change places", two.Moved("web", Placement{{"web", "eth0"}: vf(1, 0)}).Moved("db", Placement{{"db", "eth0"}: vf(0, 0)}), wantedState(t, two, f.seen))
	case_("it is deleted", base.WithoutProfile("web"), seen)
	silent := seen.After()
	b := silent.Blades["b001"]
	b.Age = 90 * time.Second
	silent.Blades["b001"] = b
	case_("it shall move to a blade that is silent", moved, silent)
	silent = wantedState(t, moved, f.seen)
	b = silent.Blades["b001"]
	b.Age = 90 * time.Second
	silent.Blades["b001"] = b
	case_("it shall leave a blade that is silent", base, silent)
	case_("it shall leave a blade that is deleted", base.WithoutBlade("b001"), silent)

	const file = "testdata/plan.txt"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

// BenchmarkPlan moves one profile of a large fabric: 256 blades, 64 vNICs on each.
func BenchmarkPlan(b *testing.B) {
	f := newFleet(1, 256, 1, 64)
	s := f.full(b)
	seen := wantedState(b, s, f.seen)
	s = s.Moved("p00000", nil)
	for b.Loop() {
		if plan := NewPlan(s, seen); len(plan.Steps) != 2 {
			b.Fatal(planText(plan))
		}
	}
}
