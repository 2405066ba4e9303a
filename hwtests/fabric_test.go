package hwtests

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

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

// TestFabric creates a profile, moves it and reverts that under traffic, see [Moves], and
// looks at what packets and cards saw of it.
func TestFabric(t *testing.T) {
	needs(t, "afxdp")
	r, err := Moves(t.Context(), MovesConfig{Moves: 3, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	for what, took := range map[string]float64{"create": r.Create, "the slowest move": r.Seconds.Max, "revert": r.Revert.Seconds} {
		if took <= 0 || took > goal.Seconds() {
			t.Errorf("%s took %.3f s, the goal is %s", what, took, goal)
		}
	}
	for _, wrong := range r.Wrong {
		t.Error(wrong)
	}
	if r.Interruption.Median <= 0 || r.Lost == r.Sent {
		t.Errorf("interrupted for %f s, %d of %d packets lost", r.Interruption.Median, r.Lost, r.Sent)
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
