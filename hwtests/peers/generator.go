package peers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/peers/internal/calls"
)

// generator makes frames inside the kernel, where one costs a fifth of what the fastest
// sending from user space does, so that it hides little of what is measured.
type generator struct {
	s     *stand
	maker *calls.Maker
}

// newGenerator returns the generator of a stand.
func (s *stand) newGenerator(f flowID) (*generator, error) {
	dev, err := ifindex(s.sender, senderDev)
	if err != nil {
		return nil, err
	}
	spare, err := ifindex(s.sender, spareDev)
	if err != nil {
		return nil, err
	}
	// While a program is attached nowhere, each call puts it into the XDP dispatcher and
	// takes it out again: 27 ms.
	if err := s.xdp(s.sender, spare, programProgMakeFrames, link.XDPDriverMode); err != nil {
		return nil, err
	}
	maker, err := calls.NewMaker(s.code.Programs[programProgMakeFrames].FD(), dev, f.frame())
	if err != nil {
		return nil, err
	}
	s.onClose(maker.Close)
	return &generator{s, maker}, nil
}

// stride is how many frames are made before the generator waits until the path has brought
// them to their end: half of what a receive ring of ours holds. What it takes a path in user
// space to fall asleep, to wake and to find cold caches is paid once for them.
const stride = 2048

// patience is how long the generator waits for a frame before it takes it for lost. What is
// made after that would not fit into the ring if the path was only held up.
const patience = 100 * time.Millisecond

// load is what to make.
type load struct {
	frames int
	burst  int           // frames made by one call
	window int           // frames on the way at most; not less than burst
	done   func() uint64 // how many have come to their end; nil to make frames without waiting
	spin   bool          // wait without letting go of the CPU
}

// longest is how long a load may take. What else the machine does can make two threads
// that wait for each other slow: the frames made until then have to do.
const longest = 5 * time.Second

// run makes frames on the calling thread, which must be in the sender's namespace, and returns
// when they have come to their end. Frames that are lost are waited for once, and then no more.
func (g *generator) run(ctx context.Context, l load) error {
	first, ended := g.s.made.sum(), uint64(0)
	if l.done != nil {
		ended = l.done()
	}
	lost := 0
	for began := time.Now(); time.Since(began) < longest; {
		if err := ctx.Err(); err != nil {
			return err
		}
		made, room := int(g.s.made.sum()-first), l.window-l.burst
		if made >= l.frames {
			room = 0
		}
		if l.done != nil {
			way := made - int(l.done()-ended) - lost
			for start, pause := time.Now(), nap; way > room; way = made - int(l.done()-ended) - lost {
				if time.Since(start) > patience {
					lost += way
				} else if !l.spin {
					calls.Nap(pause)
					pause = min(2*pause, longestNap)
				}
			}
		}
		if made >= l.frames {
			return nil
		}
		if err := g.make(min(l.burst, l.frames-made)); err != nil {
			return err
		}
	}
	return nil
}

// make makes n frames.
func (g *generator) make(n int) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		err := g.maker.Make(n)
		// Each call takes one of 65,536 memory IDs, which the kernel gives back late.
		if errors.Is(err, unix.ENOSPC) && time.Since(start) < time.Second {
			continue
		}
		if err != nil {
			return fmt.Errorf("make frames: %w", err)
		}
		return nil
	}
}

// nap is for how long other threads of this CPU may run then, at least. It is shorter than
// what they take for stride frames: who wakes early waits its turn (see [patient]), and who
// wakes late leaves the CPU and its caches to whatever else the machine does.
// Frames that are lost are waited for in longer ones, which cost less.
const (
	nap        = 50 * time.Microsecond
	longestNap = time.Millisecond
)
