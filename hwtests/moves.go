package hwtests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// MovesConfig says what [Moves] does.
type MovesConfig struct {
	Moves int          // an odd number, so that the revert has something to do
	Plug  lab.Plug     // see [lab.Config]
	Log   *slog.Logger // of manager and agents; nothing is logged if nil
}

// Moved is what [Moves] saw.
type Moved struct {
	Create       float64     `json:"create_seconds"` // from the command to proved generation
	Moves        int         `json:"moves"`
	Seconds      Spread      `json:"move_seconds"`
	Interruption Spread      `json:"interruption_seconds"` // of the moves
	Sent         int         `json:"sent"`                 // during the moves
	Lost         int         `json:"lost"`
	Revert       *Relocation `json:"revert"`
	Differ       int         `json:"differ"` // objects that are not as in the snapshot, after the revert

	Wrong []string `json:"wrong,omitempty"` // what was not as it should be
}

// Spread is the middle and the largest of some values.
type Spread struct {
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

func spread(values []float64) Spread {
	slices.Sort(values)
	return Spread{values[len(values)/2], values[len(values)-1]}
}

// Moves creates a profile, moves it to and fro between two blades, and reverts to the
// state after the creation, each under traffic.
func Moves(ctx context.Context, c MovesConfig) (*Moved, error) {
	f, err := StartFabric(ctx, FabricConfig{Config: Config{Log: c.Log, Config: lab.Config{Blades: 2, VFs: 2, Entries: 128, Plug: c.Plug}}})
	if err != nil {
		return nil, err
	}
	r := &Moved{Moves: c.Moves}
	err = r.run(ctx, f)
	return r, errors.Join(err, f.Stop())
}

func (r *Moved) run(ctx context.Context, f *Fabric) error {
	if err := f.describe(ctx); err != nil {
		return err
	}
	begin := time.Now()
	if err := f.Apply(ctx, webProfile()); err != nil {
		return err
	}
	here, err := f.Settled(ctx, "web")
	if err != nil {
		return err
	}
	r.Create = time.Since(begin).Seconds()
	if _, err := f.API.Snapshot(ctx, "created", api.SnapshotSpec{}); err != nil {
		return err
	}
	var took, gaps []float64
	at := here.Blade
	for n := range r.Moves {
		one, err := f.Relocate(ctx, "web", func() error {
			_, err := f.API.Move(ctx, "web", api.Move{Blade: other(at)}, false)
			return err
		})
		if err != nil {
			return fmt.Errorf("move %d: %w", n+1, err)
		}
		at = one.To
		took, gaps = append(took, one.Seconds), append(gaps, one.Interruption)
		r.Sent, r.Lost = r.Sent+one.Sent, r.Lost+one.Lost
		for _, wrong := range one.Wrong {
			r.Wrong = append(r.Wrong, fmt.Sprintf("move %d: %s", n+1, wrong))
		}
	}
	r.Seconds, r.Interruption = spread(took), spread(gaps)
	r.Revert, err = f.Relocate(ctx, "web", func() error {
		_, err := f.API.Revert(ctx, api.Revert{Snapshot: "created"}, false)
		return err
	})
	if err != nil {
		return err
	}
	for _, wrong := range r.Revert.Wrong {
		r.Wrong = append(r.Wrong, "revert: "+wrong)
	}
	if r.Revert.To != here.Blade {
		r.Wrong = append(r.Wrong, fmt.Sprintf("created on %s, reverted to %s", here.Blade, r.Revert.To))
	}
	diff, err := f.API.Diff(ctx, "created", 0)
	if r.Differ = len(diff.Items); r.Differ > 0 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%d objects differ from the snapshot after the revert", r.Differ))
	}
	return err
}
