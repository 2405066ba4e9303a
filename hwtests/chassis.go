package hwtests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afpacket"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// Config says what chassis a scenario runs on.
type Config struct {
	lab.Config
	Source   string        // where software gets its frames: "afxdp" (if empty) or "afpacket"
	Interval time.Duration // between the agents' rounds; 1 s if zero
	Log      *slog.Logger  // of the agents
	Member   *Membership   // of a fabric; nil leaves the blades on their own

	// Tap is told of each frame that software receives and by which port, before it is
	// judged, by one goroutine for each port of each blade; nil is told nothing.
	Tap func(in flow.Port, frame []byte)
}

// Chassis is a lab whose blades are alive: each has a software datapath and an agent.
type Chassis struct {
	*lab.Lab
	Blades []*Blade

	stop func()
	done sync.WaitGroup
}

// Blade is a lab's blade with what runs on it.
type Blade struct {
	*lab.Blade
	Datapath *fallback.Datapath
	Agent    *agent.Agent
	Member   *agent.Fabric // nil if the blade is on its own

	source  string // see Config
	wanted  agent.Handed
	vfs     *witness // nil if the blade is on its own
	closers []func() error
	mu      sync.Mutex
	commits []Commit
	died    error
}

// Commit is one change of a blade's software table, with the time just before and
// just after, CLOCK_MONOTONIC in ns.
type Commit struct {
	Table         *flow.Table
	Before, After int64
}

// Start brings up a lab and its blades. They have no table until [Blade.Want].
func Start(ctx context.Context, c Config) (*Chassis, error) {
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	l, err := lab.Up(ctx, c.Config)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	ch := &Chassis{Lab: l, stop: stop}
	for _, b := range l.Blades {
		blade := &Blade{Blade: b, source: c.Source}
		ch.Blades = append(ch.Blades, blade)
		if err := blade.open(c); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", b.Name, err), ch.Stop())
		}
		ch.run(blade, func() error { return blade.Datapath.Run(ctx) })
		if c.Member != nil {
			if err := blade.join(c.Member, c); err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", b.Name, err), ch.Stop())
			}
			ch.run(blade, func() error { return blade.Member.Run(ctx) })
		}
		ch.run(blade, func() error { return blade.Agent.Run(ctx) })
	}
	return ch, nil
}

func (c *Chassis) run(b *Blade, f func() error) {
	c.done.Go(func() {
		if err := f(); err != nil {
			b.mu.Lock()
			b.died = errors.Join(b.died, err)
			b.mu.Unlock()
		}
	})
}

// open opens the representors and makes datapath and agent.
func (b *Blade) open(c Config) error {
	links := map[flow.Port]fallback.Link{}
	indexes := map[flow.Port]int{}
	var kernel fallback.Kernel
	err := b.Host.Do(func() error {
		for _, at := range b.Attached {
			dev, err := b.Host.Links().LinkByName(at.Representor.Name)
			if err != nil {
				return fmt.Errorf("%s: %w", at.Representor.Name, err)
			}
			indexes[at.Port] = dev.Attrs().Index
			if links[at.Port], err = b.link(c.Source, dev.Attrs().Index); err != nil {
				return fmt.Errorf("%s: %w", at.Representor.Name, err)
			}
			if c.Tap != nil {
				links[at.Port] = tapped{links[at.Port], at.Port, c.Tap}
			}
		}
		var err error
		kernel, err = b.kernel(c.Source, indexes)
		return err
	})
	if err != nil {
		return err
	}
	if b.Datapath, err = fallback.New(fallback.Config{Links: links, Kernel: kernel}); err != nil {
		return err
	}
	samples := b.Datapath.Sample(fallback.Want{})
	b.closers = append(b.closers, func() error { samples.Close(); return nil })
	b.Agent = agent.New(agent.Config{
		Samples:  samples,
		Source:   &b.wanted,
		Devices:  []agent.Device{{Name: b.Hardware.Name(), Driver: b.Hardware}},
		Datapath: timed{b.Datapath, b},
		Check:    new(verify.Prover).Check,
		Interval: c.Interval,
		Log:      c.Log,
	})
	return nil
}

func (b *Blade) link(source string, index int) (fallback.Link, error) {
	if source == "afpacket" {
		l, err := afpacket.Open(index)
		if err == nil {
			b.closers = append(b.closers, l.Close)
		}
		return l, err
	}
	l, err := afxdp.Open(index)
	if err == nil {
		b.closers = append(b.closers, l.Close)
	}
	return l, err
}

// tapped is a link of which somebody is told what it receives.
type tapped struct {
	fallback.Link
	port flow.Port
	tap  func(in flow.Port, frame []byte)
}

func (l tapped) Recv(frames [][]byte) (int, error) {
	n, err := l.Link.Recv(frames)
	for _, f := range frames[:n] {
		l.tap(l.port, f)
	}
	return n, err
}

func (b *Blade) kernel(source string, indexes map[flow.Port]int) (fallback.Kernel, error) {
	if source == "afpacket" {
		k, err := afpacket.OpenKernel(indexes)
		if err == nil {
			b.closers = append(b.closers, k.Close)
		}
		return k, err
	}
	k, err := afxdp.OpenKernel(indexes)
	if err == nil {
		b.closers = append(b.closers, k.Close)
	}
	return k, err
}

// Stop stops agents and datapaths and takes the lab down.
func (c *Chassis) Stop() error {
	c.stop()
	c.done.Wait()
	var errs []error
	for _, b := range c.Blades {
		errs = append(errs, b.died)
		for i := len(b.closers) - 1; i >= 0; i-- {
			errs = append(errs, b.closers[i]())
		}
	}
	return errors.Join(append(errs, c.Lab.Down())...)
}

// Want makes t the blade's wanted table and returns when it is in force, what the
// card holds is proved, and the counters are read.
func (b *Blade) Want(ctx context.Context, t *flow.Table) error {
	b.wanted.Want(t)
	return b.Agent.Reconcile(ctx)
}

// Commits returns the changes of the software table so far, in order.
func (b *Blade) Commits() []Commit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Commit(nil), b.commits...)
}

// timed is a datapath that takes down when its table changed.
type timed struct {
	*fallback.Datapath
	blade *Blade
}

func (d timed) Swap(t *flow.Table) error {
	before := monotonic()
	err := d.Datapath.Swap(t)
	if err == nil {
		d.blade.mu.Lock()
		d.blade.commits = append(d.blade.commits, Commit{t, before, monotonic()})
		d.blade.mu.Unlock()
	}
	return err
}

// monotonic is CLOCK_MONOTONIC in ns, which senders and observers stamp with.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock exists on every Linux
	}
	return ts.Nano()
}

// rouse has what waits in front of workloads and wires arrive, by a frame behind it whose
// number has no place. Linux (to 6.18 at least) puts frames that are redirected to a netdev into its
// peer's ring 16 at a time, and wakes the peer with the last of a batch; but if the netdev's
// program drops all of those, as softnic's does with copies that are for other ports, it
// returns before it wakes anybody, and what went before waits for the next frame (bq_xmit_all
// in kernel/bpf/devmap.c). Who sends 16 at a time or fewer does not meet that.
func (c *Chassis) rouse(ctx context.Context) error {
	last := traffic.Load{Frames: traffic.Cycle(make([]byte, 60)), First: 1 << 62, Count: 1}
	for _, b := range c.Blades {
		for _, at := range b.Attached {
			s, err := traffic.Open(at.Front.NS, at.Front.Name)
			if err != nil {
				return err
			}
			_, err = s.Send(ctx, last)
			if err := errors.Join(err, s.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// asleep is how long software may judge nothing of what its sockets have: on a machine
// that is as busy as can be a worker gets a processor much earlier.
const asleep = 30 * time.Second

// Settle returns once no observer has seen a frame for as long as quiet and software has
// judged all that its sockets were given, or when ctx ends. How long a worker waits for a
// processor is the machine's business: without the second, what it still has would be
// taken for lost, and come in the next test.
func (c *Chassis) Settle(ctx context.Context, quiet time.Duration) error {
	last, since := uint64(0), time.Now()
	for {
		before, err := c.unread()
		if err != nil {
			return err
		}
		if err := c.Lab.Settle(ctx, quiet); err != nil {
			return err
		}
		after, err := c.unread()
		switch {
		case err != nil:
			return err
		case before == 0 && after == 0:
			return nil
		case after == 0 || after != last:
			last, since = after, time.Now()
		case time.Since(since) > asleep:
			return fmt.Errorf("software has not looked at %d frames that its sockets were given %v ago", after, asleep)
		}
	}
}

// unread counts the frames that software's sockets were given and that were not judged.
// Those of AF_PACKET do not tell, nor do blades whose agents are processes of their own: of
// them it is 0.
func (c *Chassis) unread() (n uint64, err error) {
	for _, b := range c.Blades {
		if b.source == "afpacket" || b.Datapath == nil {
			continue
		}
		judged, given := b.Datapath.Stats().Frames, uint64(0) // in this order: none is judged before it is given
		for _, at := range b.Attached {
			g, err := at.Representor.Redirected()
			if err != nil {
				return 0, err
			}
			given += g
		}
		n += given - min(given, judged)
	}
	return n, nil
}

// losses are the frames that netdevs, cards, sockets and datapaths lost so far, by
// what lost them; nothing that was dropped on purpose is in it.
func (c *Chassis) losses() (lab.Drops, error) {
	d, err := c.Drops()
	if err != nil {
		return nil, err
	}
	for _, b := range c.Blades {
		s := b.Datapath.Stats()
		for name, n := range map[string]uint64{"no port": s.NoPort, "failed": s.Failed, "early": s.Early} {
			if n > 0 {
				d[b.Name+" datapath "+name] = n
			}
		}
		for port, l := range s.Links {
			// What finds no room in an AF_XDP socket the netdev counts too.
			if counted := d.In(b.At(port).Representor); l.Dropped > counted {
				d[b.Name+" socket "+b.Ports.Name(port)] = l.Dropped - counted
			}
		}
	}
	return d, nil
}
