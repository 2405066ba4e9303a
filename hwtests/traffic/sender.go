package traffic

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/traffic/internal/packet"
	"golang.org/x/sys/unix"
)

// MaxBurst is the largest number of frames a Sender sends back to back. The ring of
// a veth with XDP holds 256, and several senders and hops may share one.
const MaxBurst = packet.Batch

// MaxLate is how many overdue frames a Sender makes up for, on top of a burst.
const MaxLate = 64

// Load is what to send.
type Load struct {
	Frames func(sequence uint64) []byte // the frame to stamp with a number; it is copied
	First  uint64                       // the first sequence number
	Count  int                          // how many frames
	Rate   int                          // frames per second; 0 is as fast as it goes
	Burst  int                          // frames back to back, at most MaxBurst; 0 lets the rate decide
	Times  bool                         // fill Report.Times
}

// Cycle is a [Load.Frames] that repeats some frames in order.
func Cycle(frames ...[]byte) func(sequence uint64) []byte {
	return func(sequence uint64) []byte { return frames[sequence%uint64(len(frames))] }
}

// Report is what was sent.
type Report struct {
	Sent    int
	Retries int           // how often the netdev was full or a signal came
	Took    time.Duration // first to last frame
	Times   []int64       // CLOCK_MONOTONIC ns just before each frame was handed over
}

// Sender sends on one netdev, past its queueing discipline. It is for one goroutine.
type Sender struct {
	name    string
	socket  *packet.Socket
	buffers [MaxBurst][]byte
	burst   [][]byte
}

// Open returns a sender on a netdev of a namespace. While it is open the namespace
// does not end.
func Open(ns *netns.NS, netdev string) (*Sender, error) {
	s := &Sender{name: ns.Name + " " + netdev, burst: make([][]byte, 0, MaxBurst)}
	err := ns.Do(func() (err error) {
		s.socket, err = packet.Open(netdev)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sender %s: %w", s.name, err)
	}
	for i := range s.buffers {
		s.buffers[i] = make([]byte, 0, 2048)
	}
	return s, nil
}

// Close closes the sender.
func (s *Sender) Close() error { return s.socket.Close() }

// Send sends the load in order of sequence numbers and returns when the last frame
// is handed over, ctx is done, or the netdev refuses a frame for good. The rate is
// an upper bound: after time lost to other processes only the last MaxLate frames
// that were due are made up for, because more would overflow the rings behind.
func (s *Sender) Send(ctx context.Context, l Load) (Report, error) {
	// The thread's own timer slack makes its sleeps exact; the thread is given back.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return Report{}, err
	}
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)

	var r Report
	if l.Times {
		r.Times = make([]int64, 0, l.Count)
	}
	size, gap := l.pace()
	late := gap * int64(MaxLate/size)
	start := now()
	due := start
	for r.Sent < l.Count && ctx.Err() == nil {
		due = max(due, sleepUntil(due)-late) + gap
		if err := s.fill(&l, r.Sent, min(size, l.Count-r.Sent)); err != nil {
			return r, err
		}
		if err := s.flush(ctx, &r, l.Times); err != nil {
			return r, err
		}
	}
	r.Took = time.Duration(now() - start)
	return r, ctx.Err()
}

// pace returns how many frames to send back to back and the time from one burst to
// the next. Bursts are 100 µs apart, or nearer where 32 frames in 100 µs are not
// enough.
func (l *Load) pace() (size int, gap int64) {
	size = MaxBurst
	if l.Burst > 0 {
		size = min(l.Burst, MaxBurst)
	}
	if l.Rate <= 0 {
		return size, 0
	}
	if l.Burst <= 0 {
		size = min(max(l.Rate/10_000, 1), MaxBurst)
	}
	return size, int64(size) * int64(time.Second) / int64(l.Rate)
}

// fill makes the next n frames ready.
func (s *Sender) fill(l *Load, done, n int) error {
	s.burst = s.burst[:0]
	for i := range n {
		sequence := l.First + uint64(done+i)
		f := l.Frames(sequence)
		if len(f) < Trailer {
			return fmt.Errorf("sender %s: frame %d has %d bytes, a stamp needs %d", s.name, sequence, len(f), Trailer)
		}
		b := append(s.buffers[i][:0], f...)
		Stamp(b, sequence)
		s.buffers[i] = b
		s.burst = append(s.burst, b)
	}
	return nil
}

// flush hands over what fill made ready.
func (s *Sender) flush(ctx context.Context, r *Report, times bool) error {
	for rest := s.burst; len(rest) > 0; {
		at := now()
		n, err := s.socket.Send(rest)
		if times {
			for range n {
				r.Times = append(r.Times, at)
			}
		}
		r.Sent += n
		rest = rest[n:]
		switch {
		case err == nil:
		case !packet.Passing(err):
			return fmt.Errorf("sender %s: frame of %d bytes: %w", s.name, len(rest[0]), err)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			r.Retries++
			if errors.Is(err, unix.ENOBUFS) {
				sleepUntil(at + int64(20*time.Microsecond))
			}
		}
	}
	return nil
}

// now is CLOCK_MONOTONIC in nanoseconds, the clock of bpf_ktime_get_ns.
func now() int64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // cannot fail with this clock
	return t.Nano()
}

// sleepUntil returns when CLOCK_MONOTONIC has reached t, and what it then says.
func sleepUntil(t int64) int64 {
	for {
		at := now()
		if at >= t {
			return at
		}
		until := unix.NsecToTimespec(t)
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) // cut short by signals
	}
}
