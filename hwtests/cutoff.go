package hwtests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// isolation is how long [CutOff] cuts a blade off unless told otherwise.
const isolation = 60 * time.Second

// CutOffConfig says what [CutOff] does.
type CutOffConfig struct {
	Away time.Duration // 60 s if zero
	Plug lab.Plug      // see [lab.Config]
	Log  *slog.Logger  // of manager and agents; nothing is logged if nil
}

// Isolation is what [CutOff] saw.
type Isolation struct {
	Away    float64 `json:"away_seconds"`
	Noticed float64 `json:"noticed_after_seconds"` // by the agent, that nobody answers; 0 if it never did
	Sent    int     `json:"sent"`                  // that the rules let through until then
	Lost    int     `json:"lost"`                  // of them
	Dropped int     `json:"dropped"`               // that only the newer rules let through
	Back    float64 `json:"back_seconds"`          // from the mended line to the newest generation, proved
	Before  uint64  `json:"generation_before"`
	After   uint64  `json:"generation_after"`

	Wrong []string `json:"wrong,omitempty"` // what was not as it should be
}

// CutOff cuts one blade off from its fabric under traffic, while the rules that are wanted
// of it change twice: each time another port is let through. Meanwhile every packet has to
// be answered as before, by the generation that the blade had; and when the blade can be
// reached again, it has to go to the newest.
func CutOff(ctx context.Context, c CutOffConfig) (*Isolation, error) {
	if c.Away == 0 {
		c.Away = isolation
	}
	f, err := StartFabric(ctx, FabricConfig{Config: Config{Log: c.Log, Config: lab.Config{Blades: 2, VFs: 2, Entries: 128, Plug: c.Plug}}})
	if err != nil {
		return nil, err
	}
	r := &Isolation{Away: c.Away.Seconds()}
	err = r.run(ctx, f, c.Away)
	return r, errors.Join(err, f.Stop())
}

func (r *Isolation) run(ctx context.Context, f *Fabric, away time.Duration) error {
	if err := f.describe(ctx); err != nil {
		return err
	}
	if err := f.Apply(ctx, webProfile()); err != nil {
		return err
	}
	here, err := f.Settled(ctx, "web")
	if err != nil {
		return err
	}
	b := f.Blades[f.index(here.Blade)]
	came, err := f.Deliver(ctx, 600, func() error { return r.apart(ctx, f, b, away) }, cutOffTargets()...)
	if err != nil {
		return err
	}
	r.Sent, r.Lost, r.Dropped = came[0].Sent, came[0].Lost, came[1].Lost+came[2].Lost
	if r.Wrong = answers(came, f.index(b.Name), 80); float64(r.Sent) < 50*away.Seconds() {
		r.Wrong = append(r.Wrong, fmt.Sprintf("only %d packets were sent", r.Sent))
	}
	if r.Noticed == 0 {
		r.Wrong = append(r.Wrong, "the agent did not say that nobody talks to it")
	}
	back := time.Now()
	f.Lines[b.Name].Mend()
	if _, err := f.Settled(ctx, "web"); err != nil {
		return err
	}
	r.Back = time.Since(back).Seconds()
	return r.together(ctx, f, b)
}

// cutOffTargets are the ports that the rules let through one after the other.
func cutOffTargets() []Target { return []Target{{webMAC, 80}, {webMAC, 81}, {webMAC, 82}} }

// answers says what of the deliveries to cutOffTargets is not as rules have it that let one
// port through.
func answers(came []*Delivery, blade int, port uint16) (wrong []string) {
	for i, t := range cutOffTargets() {
		d := came[i]
		if t.Port == port && !d.Once(blade) || t.Port != port && (d.Lost != d.Sent || len(d.At) > 0) {
			wrong = append(wrong, fmt.Sprintf("where port %d is let through: packets to port %d: %+v", port, t.Port, *d))
		}
	}
	return wrong
}

// apart is the time in which the blade is cut off.
func (r *Isolation) apart(ctx context.Context, f *Fabric, b *Blade, away time.Duration) error {
	begin, before := time.Now(), b.Agent.Status()
	r.Before = before.Generation
	f.Lines[b.Name].Cut()
	for _, port := range []int{81, 82} {
		if err := f.Apply(ctx, webRules(port)); err != nil {
			return err
		}
		for until := time.Now().Add(away / 2); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			s := b.Agent.Status()
			if r.Noticed == 0 && s.Error != nil && s.Error.Code == "E_UNREACHABLE" {
				r.Noticed = time.Since(begin).Seconds()
			}
			if s.Generation != before.Generation || s.Digest != before.Digest || !s.Proved {
				return fmt.Errorf("cut off, the blade has generation %d, proved %t, and had %d", s.Generation, s.Proved, before.Generation)
			}
		}
	}
	return ctx.Err()
}

// together looks at what the blade does when it is back.
func (r *Isolation) together(ctx context.Context, f *Fabric, b *Blade) error {
	g, err := client.Generations.Get(ctx, f.API, b.Name)
	if err != nil {
		return err
	}
	after := b.Agent.Status()
	if r.After = after.Generation; r.After != g.Spec.Number || after.Digest != g.Spec.Digest || r.After <= r.Before || !after.Proved {
		r.Wrong = append(r.Wrong, fmt.Sprintf("back again the blade has generation %d (%.12s), wanted is %d (%.12s)", after.Generation, after.Digest, g.Spec.Number, g.Spec.Digest))
	}
	came, err := f.Deliver(ctx, 600, func() error { return nil }, cutOffTargets()...)
	if err == nil {
		r.Wrong = append(r.Wrong, answers(came, f.index(b.Name), 82)...)
	}
	return err
}
