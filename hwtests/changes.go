package hwtests

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/observe"
)

// ChangesConfig says what [Changes] does.
type ChangesConfig struct {
	Changes int
	Every   time.Duration // between the starts of two changes
	Rate    int           // frames per second to begin with
	Rules   int
	Entries int
	Seed    uint64
	Source  string
	Say     func(format string, a ...any)
}

// edits is how many rules one change touches, so that enough packets can tell the old
// table from the new.
const edits = 6

// Changed is what [Changes] found.
type Changed struct {
	Packets    int      `json:"packets"`
	Changes    int      `json:"changes"`
	Differ     int      `json:"differ"`  // packets that the table before and after the nearest change treat differently
	Between    int      `json:"between"` // packets that were under way while a table changed
	Neither    int      `json:"neither"` // packets that no table in force while they were under way explains
	Rate       int      `json:"rate"`
	SwapMicros float64  `json:"swap_us"` // mean time to change software
	Different  []string `json:"different,omitempty"`
}

// Changes changes the table of one blade many times under traffic and checks of every
// packet that one single table explains what came of it: one that was in force at
// some time between its sending and its last copy's arrival. Every other change
// alters an output, so that loss cannot pass for a drop.
func Changes(ctx context.Context, c ChangesConfig) (*Changed, error) {
	room := int((time.Duration(c.Changes)*(c.Every+time.Second/2) + 5*time.Second).Seconds() * float64(c.Rate))
	ch, err := Start(ctx, Config{Source: c.Source, Interval: time.Minute,
		Config: lab.Config{Blades: 1, VFs: 4, Entries: c.Entries, Sequences: room}})
	if err != nil {
		return nil, err
	}
	r := &Changed{}
	err = r.run(ctx, c, ch, room)
	if stopped := ch.Stop(); err == nil {
		err = stopped
	}
	return r, err
}

func (r *Changed) run(ctx context.Context, c ChangesConfig, ch *Chassis, room int) error {
	b := ch.Blades[0]
	d, err := newDice(c.Seed, b.Blade)
	if err != nil {
		return err
	}
	rules := d.rules(c.Rules)
	gen := flow.Generation(1)
	want := func() error {
		t, err := d.table(gen, rules)
		if err != nil {
			return err
		}
		gen++
		return b.Want(ctx, t)
	}
	if err := want(); err != nil {
		return err
	}
	streams := d.frames(rules, 2000)
	r.Rate, err = ch.Lossless(c.Rate, func(rate int) error {
		c.Say("changing the table %d times under %d packets per second", c.Changes, rate)
		ch.Reset()
		first := len(b.Commits()) - 1
		stop := make(chan struct{})
		var burst *Burst
		var sent error
		var done sync.WaitGroup
		done.Go(func() { burst, sent = ch.Send(ctx, streams, 0, room, rate, stop) })
		err := c.each(func(i int) error {
			for range edits {
				if i%2 == 0 {
					rules = d.alterOutput(rules)
				} else {
					rules = d.alter(rules)
				}
			}
			return want()
		})
		close(stop)
		done.Wait()
		if err := errors.Join(err, sent); err != nil {
			return err
		}
		*r = Changed{Changes: c.Changes}
		return r.judge(ch, burst, b.Commits()[first:])
	})
	return err
}

// each makes the changes, one by one, with traffic before the first and after the last.
func (c *ChangesConfig) each(change func(i int) error) error {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for i := range c.Changes {
		<-tick.C
		if err := change(i); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
	}
	<-tick.C
	return nil
}

// judge looks for a table that explains each packet.
func (r *Changed) judge(ch *Chassis, burst *Burst, commits []Commit) error {
	for _, c := range commits[1:] {
		r.SwapMicros += float64(c.After-c.Before) / 1000 / float64(len(commits)-1)
	}
	seen := make([]sight, len(burst.Packets))
	slowest := int64(0)
	for i := range burst.Packets {
		if burst.Packets[i].Frame == nil {
			continue
		}
		r.Packets++
		seen[i] = ch.sight(burst.First + uint64(i))
		if seen[i].last > 0 {
			slowest = max(slowest, seen[i].last-burst.Packets[i].Sent)
		}
	}
	for i := range burst.Packets {
		p := &burst.Packets[i]
		if p.Frame == nil {
			continue
		}
		until := seen[i].last
		if until == 0 { // nothing came: it was decided at the latest when the slowest would have come
			until = p.Sent + slowest
		}
		if err := r.explain(p, &seen[i], commits, until); err != nil {
			return err
		}
	}
	return nil
}

// explain tries the tables that were in force at some time between p's sending and
// until.
func (r *Changed) explain(p *Packet, s *sight, commits []Commit, until int64) error {
	at := 0
	for at+1 < len(commits) && commits[at+1].After <= p.Sent {
		at++
	}
	explained, tried := false, 0
	var before map[Spot]observe.Cell
	for i := at; i < len(commits) && (i <= at+1 || commits[i].Before <= until); i++ {
		out, err := Expect([]*flow.Table{commits[i].Table}, 0, p.Port, p.Frame)
		if err != nil {
			return err
		}
		cells := out.cells()
		if i == at {
			before = cells
		} else if i == at+1 && !sameCells(before, cells) {
			r.Differ++
		}
		if i == at || commits[i].Before <= until {
			tried++
			explained = explained || sameCells(cells, s.cells)
		}
	}
	if tried > 1 {
		r.Between++
	}
	if !explained {
		if r.Neither++; len(r.Different) < 10 {
			r.Different = append(r.Different, fmt.Sprintf("port %d, frame %x, sent under generation %d, %d tables tried: came as %v, should be %v",
				p.Port, p.Frame, commits[at].Table.Generation(), tried, s.cells, before))
		}
	}
	return nil
}

// sight is what was seen of one packet: the spots where copies came, and when the
// last of them did (0 if none).
type sight struct {
	cells map[Spot]observe.Cell
	last  int64
}

func (c *Chassis) sight(sequence uint64) sight {
	s := sight{cells: map[Spot]observe.Cell{}}
	for _, spot := range c.spots() {
		if cell := c.observer(spot).Cell(sequence); cell.Copies > 0 {
			s.cells[spot] = cell
			s.last = max(s.last, cell.Last)
		}
	}
	return s
}

func (o *Outcome) cells() map[Spot]observe.Cell {
	cells := map[Spot]observe.Cell{}
	for spot, frames := range o.Copies {
		cells[spot] = observe.Expect(frames...)
	}
	return cells
}

func sameCells(a, b map[Spot]observe.Cell) bool {
	if len(a) != len(b) {
		return false
	}
	for s, cell := range a {
		other, there := b[s]
		if !there || !cell.Same(other) {
			return false
		}
	}
	return true
}
