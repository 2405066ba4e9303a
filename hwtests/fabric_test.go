package hwtests

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// goal is how long a profile's creation, move and revert may take, from command to
// proved generation.
const goal = 2 * time.Second

// webMAC is where the web profile's vNIC is reached.
const webMAC = 0x02_00_00_00_aa_01

// fabricLab is a fabric of two blades with two VFs each, for a test.
type fabricLab struct {
	*testing.T
	*Fabric
}

func newFabricLab(t *testing.T, lease time.Duration) *fabricLab {
	t.Helper()
	needs(t, "afxdp")
	f, err := StartFabric(context.Background(), FabricConfig{Lease: lease, Config: Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Config: lab.Config{Blades: 2, VFs: 2, Entries: 128}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &fabricLab{t, f}
}

// mustSettle waits until all blades have done what they were told, and returns where the
// profile is.
func (f *fabricLab) mustSettle(profile string) api.ProfileStatus {
	f.Helper()
	where, err := f.Settled(f.Context(), profile)
	if err != nil {
		f.Fatal(err)
	}
	return where
}

// apply applies objects, which the manager must take.
func (f *fabricLab) apply(objects ...any) {
	f.Helper()
	if err := f.Apply(f.Context(), objects...); err != nil {
		f.Fatal(err)
	}
}

// webProfile is a workload that answers web packets.
func webProfile() api.Profile {
	return api.Profile{Head: api.NewHead(api.KindProfile, "web"), Spec: api.ProfileSpec{RuleSets: []string{"web"},
		VNICs: []api.VNICSpec{{Name: "eth0", MAC: flow.FormatMAC(webMAC), Network: "front"}}}}
}

// webRules lets packets to one UDP port through.
func webRules(port int) api.RuleSet {
	return api.RuleSet{Head: api.NewHead(api.KindRuleSet, "web"), Spec: api.RuleSetSpec{Tier: "tenant", Default: "drop", Rules: []api.Rule{
		{Name: "web", Priority: 10, Match: map[string]any{"ip_proto": "udp", "dst_port": port}, Actions: []any{"normal"}}}}}
}

// describe describes the chassis, and a network and rules for the web profile.
func (f *fabricLab) describe() {
	f.Helper()
	objects := []any{
		api.Chassis{Head: api.NewHead(api.KindChassis, "c1"), Spec: api.ChassisSpec{Slots: len(f.Blades)}},
		api.Network{Head: api.NewHead(api.KindNetwork, "front")},
		webRules(80),
	}
	for _, b := range f.Blades {
		objects = append(objects, api.Blade{Head: api.NewHead(api.KindBlade, b.Name), Spec: api.BladeSpec{Chassis: "c1", Slot: b.Number}})
	}
	f.apply(objects...)
}

// create describes the chassis and creates the profile web somewhere.
func (f *fabricLab) create() (where api.ProfileStatus, took time.Duration) {
	f.Helper()
	f.describe()
	begin := time.Now()
	f.apply(webProfile())
	return f.mustSettle("web"), time.Since(begin)
}

// other is the other one of two blades.
func other(blade string) string { return map[string]string{"b1": "b2", "b2": "b1"}[blade] }

// TestFabric creates a profile, moves it to the other blade and reverts that, each under
// traffic, and looks at what packets and cards saw of it.
func TestFabric(t *testing.T) {
	f := newFabricLab(t, 0)
	here, created := f.create()
	if _, err := f.API.Snapshot(t.Context(), "before", api.SnapshotSpec{}); err != nil {
		t.Fatal(err)
	}
	moved, err := f.Relocate(t.Context(), "web", func() error {
		_, err := f.API.Move(t.Context(), "web", api.Move{Blade: other(here.Blade)}, false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	reverted, err := f.Relocate(t.Context(), "web", func() error {
		_, err := f.API.Revert(t.Context(), api.Revert{Snapshot: "before"}, false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff, err := f.API.Diff(t.Context(), "before", 0); err != nil || len(diff.Items) != 0 {
		t.Errorf("after the revert differ %+v, %v", diff.Items, err)
	}
	show(t, map[string]any{"create_seconds": created.Seconds(), "move": moved, "revert": reverted})
	if moved.To != other(here.Blade) || reverted.To != here.Blade {
		t.Errorf("moved to %s and reverted to %s, from %s", moved.To, reverted.To, here.Blade)
	}
	for what, took := range map[string]float64{"create": created.Seconds(), "move": moved.Seconds, "revert": reverted.Seconds} {
		if took > goal.Seconds() {
			t.Errorf("%s took %.3f s, the goal is %s", what, took, goal)
		}
	}
	for what, r := range map[string]*Relocation{"move": moved, "revert": reverted} {
		for _, wrong := range r.Wrong {
			t.Errorf("%s: %s", what, wrong)
		}
		if r.Interruption <= 0 || r.Lost == r.Sent {
			t.Errorf("%s: interrupted for %f s, %d of %d packets lost", what, r.Interruption, r.Lost, r.Sent)
		}
	}
}

// isolation is how long a blade is cut off from its fabric.
const isolation = 60 * time.Second

// TestFabricCutOff cuts one blade off for a minute of traffic, while what is wanted of
// it changes twice: every packet is answered as before, by the generation it had; and
// when it can be reached again, it goes to the newest.
func TestFabricCutOff(t *testing.T) {
	t.Parallel()
	f := newFabricLab(t, 0)
	here, _ := f.create()
	b := f.Blades[f.index(here.Blade)]
	before := b.Agent.Status()
	spot, _, err := f.spot(here.Blade, here.VNICs[0])
	if err != nil {
		t.Fatal(err)
	}
	away := isolation
	if testing.Short() {
		away = 15 * time.Second // it takes 7 s to be sure
	}
	var noticed time.Duration
	came, err := f.Deliver(t.Context(), webMAC, 500, func() error {
		begin := time.Now()
		f.Lines[b.Name].Cut()
		for _, port := range []int{81, 82} {
			if err := f.Apply(t.Context(), webRules(port)); err != nil {
				return err
			}
			for until := time.Now().Add(away / 2); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
				s := b.Agent.Status()
				if noticed == 0 && s.Error != nil && s.Error.Code == "E_UNREACHABLE" {
					noticed = time.Since(begin)
				}
				if s.Generation != before.Generation || s.Digest != before.Digest || !s.Proved {
					return fmt.Errorf("cut off, the blade has generation %d, proved %t, and had %d", s.Generation, s.Proved, before.Generation)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	f.Lines[b.Name].Mend()
	f.mustSettle("web")
	returned := time.Since(back)
	after := b.Agent.Status()
	show(t, map[string]any{"away_seconds": away.Seconds(), "noticed_after_seconds": noticed.Seconds(), "sent": came.Sent, "not_once": came.Sent - came.At[spot].Packets + came.Changed,
		"back_seconds": returned.Seconds(), "generation_before": before.Generation, "generation_after": after.Generation})
	if !came.onlyAt(spot) || float64(came.Sent) < 100*away.Seconds() {
		t.Errorf("of %d packets while the blade was cut off %d were lost, %d came twice, %d changed", came.Sent, came.Lost, came.Twice, came.Changed)
	}
	if noticed == 0 {
		t.Error("the agent did not say that nobody talks to it")
	}
	g, err := client.Generations.Get(t.Context(), f.API, b.Name)
	if err != nil {
		t.Fatal(err)
	}
	if after.Generation != g.Spec.Number || after.Digest != g.Spec.Digest || after.Generation <= before.Generation || !after.Proved {
		t.Errorf("back again the blade has generation %d (%.12s), wanted is %d (%.12s)", after.Generation, after.Digest, g.Spec.Number, g.Spec.Digest)
	}
	came, err = f.Deliver(t.Context(), webMAC, 500, func() error { return nil })
	if err != nil || came.Sent == 0 || came.Lost != came.Sent {
		t.Errorf("%d of %d packets were answered by the old rules after the blade came back, %v", came.Sent-came.Lost, came.Sent, err)
	}
}

// onlyAt reports whether every packet came once, unchanged, at one place.
func (d *Delivery) onlyAt(s Spot) bool {
	return d.At[s].Packets == d.Sent && d.Lost+d.Twice+d.Changed == 0
}
