package hwtests

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// Cards that lie in ways which only the agent's own audits see, on a whole lab at the usual
// interval: a part of the scenario liar. (A card that is blind to a bit is found by packets: Demo.)

// LieConfig says on what [FoundLie] runs.
type LieConfig struct {
	Lie  string   // deaf: the card never answers by entries that match an address; leak: what entries drop leaves by the uplink
	Rate int      // frames per second
	Seed uint64   // of rules and packets
	Plug lab.Plug // see [lab.Config]
	Say  func(format string, a ...any)
}

// Lie is what [FoundLie] found.
type Lie struct {
	Lie     string  `json:"lie"`
	Wrong   int     `json:"wrong"`   // packets that fared otherwise than the table says until it was found
	Sent    int     `json:"sent"`    // of so many
	Seconds float64 `json:"seconds"` // from the first packet until the agent trusted the card no more; 0 if it always did
	Event   string  `json:"event,omitempty"`
	After   int     `json:"after"` // packets that fared otherwise after that

	Peeks agent.PeekStatus `json:"peeks"` // until then
}

// FoundLie has a card of which the proof holds, and everything that it says of itself, and which
// does something else with packets. An agent at its usual interval has to find it, take all
// entries out, and judge all packets rightly then. The error is errors.ErrUnsupported of a card that
// cannot lie so. It sends packets until that, for 40 s at most.
func FoundLie(ctx context.Context, c LieConfig) (*Lie, error) {
	const seconds = 40
	ch, err := Start(ctx, Config{Interval: usualInterval, Config: lab.Config{Blades: 1, VFs: 4, Entries: 48, Sequences: seconds * c.Rate, Plug: c.Plug}})
	if err != nil {
		return nil, err
	}
	r := &Lie{Lie: c.Lie}
	err = r.run(ctx, c, ch, seconds*c.Rate)
	if stopped := ch.Stop(); err == nil {
		err = stopped
	}
	return r, err
}

// usualInterval is that of agents whose configuration says nothing of it.
const usualInterval = 2 * time.Second

// tell has a blade's card lie.
func (r *Lie) tell(b *Blade) error {
	card, ok := b.Hardware.(interface {
		Deafen(bits flow.Key) error
		Leak(by flow.Port) error
	})
	if !ok {
		return fmt.Errorf("a card that lies by %s: %w", r.Lie, errors.ErrUnsupported)
	}
	if r.Lie == "leak" {
		return card.Leak(b.Attached[0].Port)
	}
	var part flow.Key
	part.Set(flow.DstLo, flow.DstLo.Max())
	return card.Deafen(part)
}

func (r *Lie) run(ctx context.Context, c LieConfig, ch *Chassis, count int) error {
	b := ch.Blades[0]
	if err := r.tell(b); err != nil {
		return err
	}
	d, err := newDice(c.Seed, b.Blade)
	if err != nil {
		return err
	}
	rules := d.rules(60)
	t, err := d.table(1, rules)
	if err != nil {
		return err
	}
	if err := b.Want(ctx, t); err != nil {
		return err
	}
	streams := d.frames(rules, 2000)
	c.Say("sending %d packets a second to a card that lies: %s", c.Rate, r.Lie)
	began, stop, found := time.Now(), make(chan struct{}), make(chan agent.Event, 1)
	watching, end := context.WithCancel(ctx)
	defer end()
	go func() {
		defer close(stop)
		found <- lies(watching, b)
	}()
	ch.Reset()
	burst, err := ch.Send(ctx, streams, 0, count, c.Rate, stop)
	end()
	event := <-found
	if err != nil {
		return err
	}
	if _, r.Wrong, _, err = ch.Compare(burst, []*flow.Table{t}); err != nil {
		return err
	}
	for i := range burst.Packets {
		if burst.Packets[i].Frame != nil {
			r.Sent++
		}
	}
	s := b.Agent.Status()
	if r.Peeks = s.Peeks; event.Text == "" {
		return nil
	}
	r.Seconds, r.Event = event.At.Sub(began).Seconds(), event.Text
	if n := s.Devices[0].Entries; n != 0 {
		return fmt.Errorf("the card that is trusted no more holds %d entries", n)
	}
	_, err = ch.Lossless(c.Rate, func(rate int) error {
		ch.Reset()
		burst, err := ch.Send(ctx, streams, 0, min(count, 2*c.Rate), rate, nil)
		if err != nil {
			return err
		}
		_, r.After, _, err = ch.Compare(burst, []*flow.Table{t})
		return err
	})
	return err
}

// lies waits until the agent says that its card lies and has taken its entries out, and returns
// what it said; nothing if ctx ends before.
func lies(ctx context.Context, b *Blade) agent.Event {
	for ctx.Err() == nil {
		s := b.Agent.Status()
		for _, e := range s.Events {
			if e.Code == "E_DEVICE_LIES" && len(s.Devices) == 1 && s.Devices[0].Entries == 0 {
				return e
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return agent.Event{}
}

// faults says what of it is not as it should be. How soon the lie was found is in the record: on a
// machine that has other work to do, that says little.
func (r *Lie) faults() (wrong []string) {
	switch {
	case r.Wrong == 0:
		wrong = append(wrong, r.Lie+": the card that lies did nothing wrong")
	case r.Event == "":
		wrong = append(wrong, fmt.Sprintf("%s: a card was trusted that did the wrong thing with %d of %d packets", r.Lie, r.Wrong, r.Sent))
	}
	if r.After > 0 {
		wrong = append(wrong, fmt.Sprintf("%s: %d packets fared otherwise than the table says after the entries were taken out", r.Lie, r.After))
	}
	return wrong
}
