package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// figure is what was measured of one path.
type figure struct {
	path    *path
	mode    Mode
	samples []sample // one for each repetition
}

// sample is one measurement.
type sample struct {
	perFrame  float64 // CPU ns
	delivered float64 // share of the frames made that came to their end
}

// Mode says what shares a CPU and what counts. Figures of one mode cannot be compared with
// those of another.
type Mode string

// The modes.
const (
	// OneCore has everything on one CPU, and all of it counts.
	OneCore Mode = "one core"
	// ToKernel is the same, but frames end where a workload's kernel gets them from its
	// netdev, and not in XDP before that.
	ToKernel Mode = "one core, to a kernel"
	// TwoCores has the sender on another CPU, which does not count. The path gets frames
	// from a thread of the kernel on its own.
	TwoCores Mode = "two cores"
	// UserCore has the sender and all that the kernel does to receive on another CPU, which
	// does not count: it compares paths in user space with each other.
	UserCore Mode = "two cores, user's alone"
)

// throughput measures a path once.
func (b *bench) throughput(ctx context.Context, p *path, mode Mode) (err error) {
	s, err := newStand(b.traffic.flows, p.routed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	end, err := ifindex(s.sink, sinkDev)
	if err != nil {
		return err
	}
	if mode == ToKernel {
		err = s.tcx(s.sink, end, programProgTcxDrop)
	} else {
		err = s.xdp(s.sink, end, programProgCountDrop, link.XDPDriverMode)
	}
	if err != nil {
		return err
	}
	d, err := p.lay(s, b.traffic)
	if err != nil {
		return err
	}
	if d.ended == nil {
		d.ended = s.counted.sum
	}
	g, err := s.newGenerator(b.traffic.flows[0])
	if err != nil {
		return err
	}
	m := &meter{processes: d.processes}
	load := load{frames: b.Frames, burst: stride, window: stride, done: d.ended}
	if d.asked != nil {
		load.done = nil // all of the path is in the kernel, in the sender's own time
	}
	restore, err := patient()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	if mode == TwoCores || mode == UserCore {
		load.burst, load.window, load.spin = 64, 192, true // the ring of a veth holds 256
		m.without = true
	}
	if mode == TwoCores {
		if m.tasks, err = s.threaded(b.cpus[0]); err != nil {
			return err
		}
	}
	m.tasks = append(m.tasks, tasksNamed(fmt.Sprintf("ksoftirqd/%d\n", b.cpus[0]))...)
	var v sample
	err = s.sender.Do(func() error {
		if m.without {
			defer b.moveThread(0)
			if err := b.moveThread(1); err != nil {
				return err
			}
		}
		v, err = s.run(ctx, g, load, m, d)
		return err
	})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(b.figures, func(f *figure) bool { return f.path.name == p.name && f.mode == mode })
	if i < 0 {
		i = len(b.figures)
		b.figures = append(b.figures, &figure{path: p, mode: mode})
	}
	b.figures[i].samples = append(b.figures[i].samples, v)
	return nil
}

// run measures what a load costs, after a tenth of it that warms up.
func (s *stand) run(ctx context.Context, g *generator, l load, m *meter, d *device) (sample, error) {
	warm := l
	warm.frames = max(1, l.frames/10)
	if err := s.await(ctx, g, d); err != nil {
		return sample{}, err
	}
	if err := g.run(ctx, warm); err != nil {
		return sample{}, err
	}
	busy := 1.0
	if d.share != nil { // from here on
		if _, err := d.share(); err != nil {
			return sample{}, err
		}
	}
	before, err := s.read(m, d)
	if err != nil {
		return sample{}, err
	}
	if err := g.run(ctx, l); err != nil {
		return sample{}, err
	}
	after, err := s.read(m, d)
	if err != nil {
		return sample{}, err
	}
	if d.share != nil {
		if busy, err = d.share(); err != nil {
			return sample{}, err
		}
	}
	made, ended := after.made-before.made, after.ended-before.ended
	if ended == 0 {
		return sample{}, fmt.Errorf("none of %d frames came to its end", made)
	}
	return sample{busy * float64((after.spent - before.spent).Nanoseconds()) / float64(ended), float64(ended) / float64(made)}, nil
}

// await makes frames until one comes through: netdevs take a while until they are up.
func (s *stand) await(ctx context.Context, g *generator, d *device) error {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if err := g.run(ctx, load{frames: 1, burst: 1, window: 1}); err != nil {
			return err
		}
		r, err := s.read(&meter{}, d)
		if err != nil || r.ended > 0 {
			return err
		}
		if time.Since(start) > 5*time.Second {
			return fmt.Errorf("no frame came through in 5 s")
		}
	}
}

// reading is what all counters say at one time.
type reading struct {
	spent       time.Duration
	made, ended uint64
}

func (s *stand) read(m *meter, d *device) (r reading, err error) {
	if r.ended = d.ended(); d.asked != nil {
		if r.ended, err = d.asked(); err != nil {
			return r, err
		}
	}
	r.made = s.made.sum()
	r.spent, err = m.spent()
	return r, err
}

// moveThread moves the calling thread, which is locked, to one of the two CPUs.
func (b *bench) moveThread(to int) error {
	var set unix.CPUSet
	set.Set(b.cpus[to])
	return unix.SchedSetaffinity(0, &set)
}

// threaded has the kernel receive on the inside in a thread of its own, on a CPU, and
// returns the thread's id.
func (s *stand) threaded(cpu int) (ids []int, err error) {
	name := "napi/" + insideDev + "-"
	before := tasksNamed(name)
	if err := s.writeSys("class/net/"+insideDev+"/threaded", "1"); err != nil {
		return nil, fmt.Errorf("threaded NAPI: %w", err)
	}
	var set unix.CPUSet
	set.Set(cpu)
	for start := time.Now(); len(ids) == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Second {
			return nil, fmt.Errorf("threaded NAPI: no thread %s… came up", name)
		}
		ids = slices.DeleteFunc(tasksNamed(name), func(id int) bool { return slices.Contains(before, id) })
	}
	for _, id := range ids {
		if err := unix.SchedSetaffinity(id, &set); err != nil {
			return nil, fmt.Errorf("threaded NAPI: %w", err)
		}
	}
	return ids, nil
}

// writeSys writes a file of the middle's /sys, which shows only in a mount of its own. The
// thread that makes it ends with its goroutine, because it is never unlocked.
func (s *stand) writeSys(name, value string) error {
	outcome := make(chan error)
	go func() {
		runtime.LockOSThread()
		outcome <- func() error {
			if err := unix.Setns(s.middle.FD(), unix.CLONE_NEWNET); err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				return err
			}
			if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
				return err
			}
			return os.WriteFile("/sys/"+name, []byte(value), 0)
		}()
	}()
	return <-outcome
}
