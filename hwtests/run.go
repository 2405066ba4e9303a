package hwtests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// Stream is the frames that enter a chassis by one port of one blade, over and over.
type Stream struct {
	Blade  int
	Port   flow.Port
	Frames [][]byte // each with room for a traffic.Trailer behind its headers
}

// Packet is one frame that was sent.
type Packet struct {
	Blade int
	Port  flow.Port
	Frame []byte // as stamped
	Sent  int64  // CLOCK_MONOTONIC ns just before; 0 if times were not kept
}

// Burst is what [Chassis.Send] sent, by sequence number from First on. Packets that
// were not sent any more have no Frame.
type Burst struct {
	First   uint64
	Packets []Packet
}

// Send sends count frames of the streams at a rate of so many per second, all streams
// at once, with sequence numbers from first on, until all are sent or stop is closed.
// It returns when nothing moves any more.
func (c *Chassis) Send(ctx context.Context, streams []Stream, first uint64, count, rate int, stop <-chan struct{}) (*Burst, error) {
	b := &Burst{First: first, Packets: make([]Packet, count)}
	var done sync.WaitGroup
	errs := make([]error, len(streams))
	for i, s := range streams {
		from, to := count*i/len(streams), count*(i+1)/len(streams)
		done.Go(func() {
			errs[i] = c.send(ctx, s, b.Packets[from:to], first+uint64(from), max(1, rate/len(streams)), stop)
		})
	}
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return b, c.Settle(ctx, 200*time.Millisecond)
}

// stretch is how many frames of a stream are sent before stop is looked at.
const stretch = 1024

func (c *Chassis) send(ctx context.Context, s Stream, packets []Packet, first uint64, rate int, stop <-chan struct{}) error {
	sender, err := c.Blades[s.Blade].At(s.Port).Sender()
	if err != nil {
		return err
	}
	defer sender.Close()
	for len(packets) > 0 {
		select {
		case <-stop:
			return nil
		default:
		}
		now := packets[:min(stretch, len(packets))]
		r, err := sender.Send(ctx, traffic.Load{Frames: traffic.Cycle(s.Frames...), First: first, Count: len(now), Rate: rate, Times: true})
		if err != nil {
			return err
		}
		for i := range now {
			seq := first + uint64(i)
			f := slices.Clone(s.Frames[seq%uint64(len(s.Frames))])
			traffic.Stamp(f, seq)
			now[i] = Packet{s.Blade, s.Port, f, r.Times[i]}
		}
		packets = packets[len(now):]
		first += uint64(len(now))
	}
	return nil
}

// Difference is one frame of which something else came than should have.
type Difference struct {
	Sequence uint64
	Packet   Packet
	Spot     Spot
	Want     observe.Cell
	Got      observe.Cell
}

// String says what was sent, where it differs and how.
func (d *Difference) String() string {
	kind := "port"
	if d.Spot.Kernel {
		kind = "kernel, port"
	}
	return fmt.Sprintf("packet %d, sent by blade %d port %d (%x): at blade %d %s %d: %d copies of %d bytes (%#x), should be %d of %d (%#x)",
		d.Sequence, d.Packet.Blade+1, d.Packet.Port, d.Packet.Frame, d.Spot.Blade+1, kind, d.Spot.Port,
		d.Got.Copies, d.Got.Bytes, d.Got.Hash, d.Want.Copies, d.Want.Bytes, d.Want.Hash)
}

// observer returns what watches a spot.
func (c *Chassis) observer(s Spot) *observe.Observer {
	at := c.Blades[s.Blade].At(s.Port)
	if s.Kernel {
		return at.Kernel
	}
	return at.Leaves
}

// spots lists every spot of the chassis.
func (c *Chassis) spots() []Spot {
	var all []Spot
	for i, b := range c.Blades {
		for _, at := range b.Attached {
			all = append(all, Spot{i, at.Port, false}, Spot{i, at.Port, true})
		}
	}
	return all
}

// Tally is what a burst should have counted: packets and bytes per blade and rule.
type Tally map[int]map[flow.RuleID]flow.Counter

func (t Tally) add(j Judged) {
	if t[j.Blade] == nil {
		t[j.Blade] = map[flow.RuleID]flow.Counter{}
	}
	c := t[j.Blade][j.Rule]
	c.Packets++
	c.Bytes += uint64(j.Bytes)
	t[j.Blade][j.Rule] = c
}

// Compare holds every spot against what should have come of a burst under the tables,
// frame by frame, spots where nothing should have come included. It returns the first
// differences, how many there are, and what should have been counted.
func (c *Chassis) Compare(b *Burst, tables []*flow.Table) (diffs []Difference, total int, counted Tally, err error) {
	counted = Tally{}
	spots := c.spots()
	for i := range b.Packets {
		p := &b.Packets[i]
		if p.Frame == nil {
			continue
		}
		want, err := Expect(tables, p.Blade, p.Port, p.Frame)
		if err != nil {
			return nil, 0, nil, err
		}
		for _, j := range want.Judged {
			counted.add(j)
		}
		for _, s := range spots {
			got, cell := c.observer(s).Cell(b.First+uint64(i)), observe.Expect(want.Copies[s]...)
			if got.Same(cell) {
				continue
			}
			if total++; len(diffs) < 10 {
				diffs = append(diffs, Difference{b.First + uint64(i), *p, s, cell, got})
			}
		}
	}
	return diffs, total, counted, nil
}

// Lossless sends with send, at half the rate each time, until no frame is lost on the
// way; after four times it gives up with what was lost. A run that lost frames says
// nothing about verdicts: loss looks like drop.
func (c *Chassis) Lossless(rate int, send func(rate int) error) (int, error) {
	var lost lab.Drops
	for range 4 {
		before, err := c.losses()
		if err != nil {
			return rate, err
		}
		if err := send(rate); err != nil {
			return rate, err
		}
		after, err := c.losses()
		if err != nil {
			return rate, err
		}
		if lost = after.Since(before); lost.Total() == 0 {
			return rate, nil
		}
		rate /= 2
	}
	return rate, fmt.Errorf("frames were lost on the way even at %d per second: %v", rate*2, lost)
}
