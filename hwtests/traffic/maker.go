package traffic

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/traffic/internal/maker"
	"golang.org/x/sys/unix"
)

// Maker sends frames that the kernel makes, at a fraction of what a [Sender] costs: for
// tests of a machine that has to do the rest of the work too. Unlike a Sender it does not
// wait where the netdev's peer has no room: such frames are lost, and the peer counts them.
type Maker struct {
	name string
	ns   *netns.NS
	room int
	make *maker.Maker
}

// OpenMaker returns a maker on a netdev of a namespace, which sends the frames given in
// turn: that of sequence number n is the n-th, modulo how many there are. The first has
// number first, and there can be room of them. Each takes the place of a stamp.
func OpenMaker(ns *netns.NS, netdev string, frames [][]byte, first uint64, room int) (*Maker, error) {
	m := &Maker{name: ns.Name + " " + netdev, ns: ns, room: room}
	var stamped [][]byte
	for i, f := range frames {
		if len(f) < Trailer {
			return nil, fmt.Errorf("maker %s: frame %d has %d bytes, a stamp needs %d", m.name, i, len(f), Trailer)
		}
		f = slices.Clone(f)
		Stamp(f, 0)
		stamped = append(stamped, f)
	}
	err := ns.Do(func() (err error) {
		m.make, err = maker.Open(netdev, stamped, first, room)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("maker %s: %w", m.name, err)
	}
	return m, nil
}

// Send sends at a rate, in frames per second, until there is no more room, ctx is done, or
// going says so, which is told how many were sent before each batch. What is late is made
// up for by one batch at most. It returns when each frame was sent, CLOCK_MONOTONIC in ns.
func (m *Maker) Send(ctx context.Context, rate int, going func(sent int) bool) (times []int64, err error) {
	// About 200 calls a second, each of which costs as much as some 20 frames, and no more at
	// once than a veth's ring holds.
	call := min(max(rate/200/maker.Batch, 1), 4) * maker.Batch
	gap := int64(call) * int64(time.Second) / int64(rate)
	err = m.ns.Do(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		due := now()
		for sent := 0; sent < m.room && ctx.Err() == nil && going(sent); {
			due = max(due, sleepUntil(due)-gap) + gap
			if err := m.make.Make(min(call, m.room-sent)); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) {
				return err
			}
			if sent, err = m.make.Made(); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("maker %s: %w", m.name, err)
	}
	sent, err := m.make.Made()
	if err != nil {
		return nil, err
	}
	return m.make.Times(sent)
}

// Close takes the maker away.
func (m *Maker) Close() error { return m.make.Close() }
