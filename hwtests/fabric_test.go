package hwtests

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// goal is how long a profile's creation, move and revert may take, from command to
// proved generation.
const goal = 2 * time.Second

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

// create describes the chassis and creates the profile web somewhere.
func (f *fabricLab) create() (where api.ProfileStatus, took time.Duration) {
	f.Helper()
	if err := f.describe(f.Context()); err != nil {
		f.Fatal(err)
	}
	begin := time.Now()
	f.apply(webProfile())
	return f.mustSettle("web"), time.Since(begin)
}

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

// TestCutOff cuts one blade off for a minute, see [CutOff].
func TestCutOff(t *testing.T) {
	t.Parallel()
	needs(t, "afxdp")
	away := isolation
	if testing.Short() {
		away = 15 * time.Second // it takes an agent 7 s to be sure
	}
	r, err := CutOff(t.Context(), CutOffConfig{Away: away, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	for _, wrong := range r.Wrong {
		t.Error(wrong)
	}
}
