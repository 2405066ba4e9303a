package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// How many VFs a card has and in which mode its eSwitch is, where the configuration says so.
//
// Problem. A reboot, a reload of the driver or a reset of the card takes all VFs away, and sets
// the eSwitch back; and whoever makes VFs anew by hand has to know what the driver demands.
//
// Idea. The shape is looked at before anything is opened, and every few seconds after. One that
// is not as wanted is made so, step by step as its driver demands ([provision.Keep]), unless
// somebody uses one of its VFs: then what would have to be done is said, and nothing is done.
// What is set on VFs comes back by the next rounds, as everything that is not as wanted.

// shaper keeps one PF in shape. It is used by one goroutine.
type shaper struct {
	pf    fabric.PFID
	name  string
	want  provision.Shape
	pfs   provision.PFs
	vfs   provision.VFs
	inv   func() (fabric.Inventory, error)
	links *netlink.Handle
	home  *homed
	told  string // of a shape that could not be had
}

// shape makes the card that the configuration names what it says of it, and returns the
// inventory as it is then.
func (d *Daemon) shape(inv fabric.Inventory) (fabric.Inventory, error) {
	if d.file.NIC == "" || d.file.NumVFs == 0 && d.file.ESwitch == "" {
		return inv, nil
	}
	pf, nic, err := findPF(inv, "spec.device.nic", d.file.NIC)
	if err != nil {
		return inv, err
	}
	s := &shaper{pf: fabric.PFID{PCI: pf.PCI, Serial: nic.Serial}, name: pf.Name, want: provision.Shape{VFs: d.file.NumVFs, ESwitch: fabric.ESwitch(d.file.ESwitch)},
		inv: func() (fabric.Inventory, error) {
			inv, _, err := d.discover()
			return inv, err
		}}
	if s.want.VFs == 0 {
		s.want.VFs = pf.NumVFs
	}
	if s.links, err = netlink.NewHandle(); err != nil {
		return inv, err
	}
	d.closers = append(d.closers, func() error { s.links.Close(); return nil })
	home, err := netns.Get()
	if err != nil {
		return inv, err
	}
	d.closers = append(d.closers, home.Close)
	s.pfs, s.vfs = &provision.Functions{Inventory: s.inv}, &provision.Netlink{Blade: fabric.BladeID(d.file.Blade), Links: s.links, Inventory: s.inv}
	s.home = &homed{s.vfs, home}
	if _, err := s.keep(d.log); err != nil {
		return inv, err
	}
	d.shaper = s
	return s.settled(d.log)
}

// keep does what there is to do, and says it.
func (s *shaper) keep(log *slog.Logger) (done bool, err error) {
	steps, err := provision.Keep(s.pfs, s.vfs, s.inv, s.pf, s.want)
	if len(steps) == 0 && err == nil {
		return false, nil
	}
	var words []string
	for _, step := range steps {
		words = append(words, step.String())
	}
	log.Info("the card is not in the shape that is wanted", "pf", s.name, "steps", strings.Join(words, ", then "), "error", err)
	return err == nil, err
}

// shapePace is how often a card is looked at, and shapeWait how long it may take until the
// representors of new VFs are there.
const (
	shapePace = 5 * time.Second
	shapeWait = 10 * time.Second
)

// settled waits until each VF of the PF has what it is to have, and sets representors up: what
// the card does not answer comes to software by those that are up alone.
func (s *shaper) settled(log *slog.Logger) (inv fabric.Inventory, err error) {
	for end := time.Now().Add(shapeWait); ; time.Sleep(100 * time.Millisecond) {
		if inv, err = s.inv(); err != nil {
			return inv, err
		}
		pf, _, err := findPF(inv, "spec.device.nic", s.pf.PCI.String())
		if err != nil {
			return inv, err
		}
		devs := []*fabric.Netdev{pf.Netdev}
		for i := range pf.VFs {
			devs = append(devs, pf.VFs[i].Representor)
		}
		missing := len(pf.VFs) < s.want.VFs
		for _, dev := range devs {
			if dev == nil {
				missing = missing || pf.ESwitch == fabric.ESwitchSwitchdev
				continue
			}
			link, err := s.links.LinkByName(dev.Name)
			if err == nil {
				err = s.links.LinkSetUp(link)
			}
			if err != nil {
				log.Warn("a representor cannot be set up", "netdev", dev.Name, "error", err)
			}
		}
		if !missing || time.Now().After(end) {
			return inv, nil
		}
	}
}

// run looks at the card until ctx ends. What it finds is an event.
func (s *shaper) run(ctx context.Context, a *Agent) error {
	tick := time.NewTicker(shapePace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n, err := numVFs(s.pf.PCI); err != nil || n == s.want.VFs {
			continue // it is as it is to be, or not there, and whoever took it away brings it back
		}
		err := s.home.in(func() error {
			done, err := s.keep(a.Log)
			if done {
				_, err = s.settled(a.Log)
				a.tell(eventShape, s.name, fmt.Sprintf("it has %d VFs again", s.want.VFs))
			}
			return err
		})
		if words := words(err); words != s.told {
			if s.told = words; err != nil {
				a.tell(code(err), s.name, words)
			}
		}
	}
}

// numVFs reads how many VFs a PF has: a reading of the whole inventory costs more.
func numVFs(pf fabric.PCI) (int, error) {
	text, err := os.ReadFile(filepath.Join("/sys/bus/pci/devices", pf.String(), "sriov_numvfs"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// tell is event for whoever holds no lock.
func (a *Agent) tell(code, object, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.event(code, object, text)
}
