package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/offload/softnic"
)

// Config says what lab to build.
type Config struct {
	Blades    int          // 1 … 200; 0 means 2
	VFs       int          // workloads per blade, 1 … 60; 0 means 4
	Entries   int          // size of each card's match table; 0 means softnic.MaxEntries
	Sequences int          // sequence numbers the observers have room for, 32 bytes each and observer; 0 means 65,536
	Keep      int          // frames that each observer keeps whole, 2 KiB each
	Kernel    observe.Then // what the representors' observers do with frames the kernel got; Drop is the zero value
	Bare      bool         // no cards: the netdevs of a card are there, and nothing joins them
	Plug      Plug         // makes the cards; nil makes those of package softnic
}

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		name      string
		value     *int
		none, max int
	}{
		{"blades", &c.Blades, 2, 200},
		{"VFs", &c.VFs, 4, 60},
		{"entries", &c.Entries, softnic.MaxEntries, softnic.MaxEntries},
		{"sequences", &c.Sequences, 1 << 16, 1 << 26},
		{"frames kept", &c.Keep, 0, 1 << 20},
	} {
		if *d.value == 0 {
			*d.value = d.none
		}
		if *d.value < 0 || *d.value > d.max {
			return c, &flow.Fault{Code: "E_LAB_CONFIG", What: fmt.Sprintf("lab: %d %s", *d.value, d.name), Why: "out of range",
				Remedy: fmt.Sprintf("use at most %d", d.max)}
		}
	}
	return c, nil
}

// Lab is an emulated chassis that is up.
type Lab struct {
	Name   string // what its namespaces begin with
	Blades []*Blade
	Fabric *netns.NS // one netdev per blade, named like the blade

	config    Config
	dir       string
	hub       *observe.Hub
	spaces    []*netns.NS
	observers []*observe.Observer
	netdevs   map[*netns.NS][]string
	down      sync.Once
	downErr   error
}

// Up builds a lab, after [Clean]. It needs root and Linux 6.6 or later; where it
// fails, it removes what it built, and [Doctor] says what is missing. When ctx ends
// while it builds, it fails so. Afterwards whoever called Up calls Down, also when a
// signal ends the program's context: observers cannot be taken away from under a
// reader.
//
// Cost: 0.9 s for two blades of four VFs, 2 s on a busy machine, most of it the
// kernel's verifier and its grace periods when XDP programs are attached.
func Up(ctx context.Context, c Config) (*Lab, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &flow.Fault{Code: "E_LAB_ROOT", What: "lab", Why: "making network namespaces needs root", Remedy: "run it as root"}
	}
	l := newLab(c)
	_ = Clean() // what others left is not in the way; `bladeflow lab clean` says why it stays
	for _, step := range []func() error{l.claim, l.layout, l.wire, l.watchOutside, l.watchKernel, l.plug, l.describe} {
		if err = step(); err == nil {
			err = ctx.Err()
		}
		if err != nil {
			l.Down() // its error would hide the first one; the next Up finds what is left
			return nil, &flow.Fault{Code: "E_LAB_UP", What: "lab", Why: err.Error(), Remedy: "ask `bladeflow lab doctor` what is missing", Err: err}
		}
	}
	return l, nil
}

// newLab returns a lab of which nothing is built.
func newLab(c Config) *Lab {
	return &Lab{config: c, netdevs: map[*netns.NS][]string{}}
}

// Down removes everything Up made, and returns when it is gone by name: the kernel
// frees namespaces and netdevs a moment later. It may be called more than once, and
// waits for a Down that is under way.
func (l *Lab) Down() error {
	l.down.Do(func() {
		var errs []error
		for _, b := range l.Blades {
			if b.Hardware != nil {
				errs = append(errs, b.Hardware.Destroy())
			}
		}
		for _, o := range l.observers {
			errs = append(errs, o.Close())
		}
		if l.hub != nil {
			errs = append(errs, l.hub.Close())
		}
		for _, ns := range l.spaces {
			errs = append(errs, ns.Close())
		}
		if l.dir != "" {
			errs = append(errs, removeState(l.dir))
		}
		if err := errors.Join(errs...); err != nil {
			l.downErr = fmt.Errorf("lab %s: %w", l.Name, err)
		}
	})
	return l.downErr
}

// claim takes the first free name. The fabric's namespace is the claim.
func (l *Lab) claim() error {
	for n := 0; ; n++ {
		name, err := newName(n)
		if err != nil {
			return err
		}
		l.Name = name
		l.Fabric, err = l.space("fabric")
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		l.dir = filepath.Join(stateDir, name)
		return mountState(l.dir)
	}
}

func (l *Lab) space(suffix string) (*netns.NS, error) {
	ns, err := netns.New(l.Name + "-" + suffix)
	if err == nil {
		l.spaces = append(l.spaces, ns)
	}
	return ns, err
}

// layout makes the blades' namespaces and decides all names.
func (l *Lab) layout() error {
	for i := range l.config.Blades {
		b := &Blade{Name: fmt.Sprintf("b%d", i+1), Number: i + 1}
		l.Blades = append(l.Blades, b)
		b.SysRoot = filepath.Join(l.dir, b.Name)
		b.PinDir = filepath.Join(l.dir, "bpf", b.Name)
		var err error
		if b.Card, err = l.space(b.Name + "-card"); err != nil {
			return err
		}
		if b.Host, err = l.space(b.Name + "-host"); err != nil {
			return err
		}
		for vf := range l.config.VFs {
			w := newWorkload(b.Number, vf)
			if w.Eth0.NS, err = l.space(w.Name); err != nil {
				return err
			}
			b.Workloads = append(b.Workloads, w)
		}
		b.layout(Netdev{NS: l.Fabric, Name: b.Name})
	}
	return nil
}

// wire makes all cables and brings them up.
func (l *Lab) wire() error {
	for _, b := range l.Blades {
		for _, p := range b.Attached {
			for _, c := range [][2]Netdev{{p.Outside, p.Front}, {p.Back, p.Representor}} {
				if err := connect(c[0], c[1]); err != nil {
					return err
				}
				for _, d := range c {
					l.netdevs[d.NS] = append(l.netdevs[d.NS], d.Name)
				}
			}
		}
	}
	for _, step := range []func(*netns.NS, []string) error{tune, start} {
		for _, ns := range l.spaces {
			if err := step(ns, l.netdevs[ns]); err != nil {
				return err
			}
		}
	}
	for _, b := range l.Blades {
		for _, w := range b.Workloads {
			if err := l.SetNeighbours(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchOutside attaches the observers of what leaves ports, and with those on the
// wires the hub.
func (l *Lab) watchOutside() (err error) {
	if l.hub, err = observe.NewHub(); err != nil {
		return err
	}
	for _, b := range l.Blades {
		for _, p := range b.Attached {
			c := observe.Config{Sequences: l.config.Sequences, Keep: l.config.Keep}
			if p.Workload == nil {
				c.Hub = l.hub
			}
			if p.Leaves, err = observe.AtXDP(p.Outside.NS, p.Outside.Name, c); err != nil {
				return err
			}
			l.observers = append(l.observers, p.Leaves)
		}
	}
	return nil
}

// watchKernel attaches the observers of what the blades' kernels get.
func (l *Lab) watchKernel() (err error) {
	for _, b := range l.Blades {
		for _, p := range b.Attached {
			c := observe.Config{Sequences: l.config.Sequences, Keep: l.config.Keep, Then: l.config.Kernel}
			if p.Kernel, err = observe.AtTCX(p.Representor.NS, p.Representor.Name, c); err != nil {
				return err
			}
			l.observers = append(l.observers, p.Kernel)
		}
	}
	return nil
}

// plug makes the cards.
func (l *Lab) plug() error {
	if l.config.Bare {
		return nil
	}
	for _, b := range l.Blades {
		if err := b.plug(l.config.Plug, l.config.Entries); err != nil {
			return err
		}
	}
	return nil
}

// describe writes the blades' sysfs trees.
func (l *Lab) describe() error {
	for _, b := range l.Blades {
		if err := os.MkdirAll(b.SysRoot, 0o755); err != nil {
			return err
		}
		if err := b.describe(); err != nil {
			return err
		}
	}
	return nil
}

// Reset makes all observers forget what they saw. No frame may be under way.
func (l *Lab) Reset() {
	for _, o := range l.observers {
		o.Reset()
	}
}
