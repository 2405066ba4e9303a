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
// Idea. The shape is looked at before anything is opened, and whenever netdevs have changed: VFs
// take their representors with them, and a driver that is loaded brings netdevs. What the
// configuration does not say stays as it is. One that is not as wanted is made so, step by step as its driver demands ([provision.Keep]), unless
// somebody uses one of its VFs: then what would have to be done is said, and nothing is done.
// What is set on VFs comes back by the next rounds, as everything that is not as wanted.

// shaper keeps one PF in shape. It is used by one goroutine.
type shaper struct {
	pf    fabric.PFID
	name  string
	want  provision.Shape // 0 VFs: as many as there are
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
		inv: d.glance}
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
	want := s.wanted(provision.ShapeOf(&pf))
	if _, err := s.keep(want, d.log); err != nil {
		return inv, err
	}
	d.shaper = s
	return s.settled(want, d.log)
}

// wanted returns the shape that a PF is to have that has this one.
func (s *shaper) wanted(now provision.Shape) provision.Shape {
	want := s.want
	if want.VFs == 0 {
		want.VFs = now.VFs
	}
	return want
}

// inShape reports whether a shape is the one that is wanted.
func inShape(now, want provision.Shape) bool {
	return now.VFs == want.VFs && (want.ESwitch == fabric.ESwitchUnknown || now.ESwitch == want.ESwitch)
}

// keep does what there is to do, and says it, once.
func (s *shaper) keep(want provision.Shape, log *slog.Logger) (done bool, err error) {
	steps, err := provision.Keep(s.pfs, s.vfs, s.inv, s.pf, want)
	if len(steps) == 0 && err == nil || err != nil && err.Error() == s.told {
		return false, err
	}
	var words []string
	for _, step := range steps {
		words = append(words, step.String())
	}
	log.Info("the card is not in the shape that is wanted", "pf", s.name, "steps", strings.Join(words, ", then "), "error", err)
	return err == nil, err
}

// shapeRest is for how long no netdev must have changed before a card is looked at, for they come
// and go by the dozen, and shapePace how often it is looked at anyway, for what is told of them
// can be lost. shapeWait is how long it may take until the representors of new VFs are there.
const (
	shapeRest = 200 * time.Millisecond
	shapePace = 5 * time.Second
	shapeWait = 10 * time.Second
)

// settled waits until each VF of the PF has what it is to have, and sets representors up: what
// the card does not answer comes to software by those that are up alone.
func (s *shaper) settled(want provision.Shape, log *slog.Logger) (inv fabric.Inventory, err error) {
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
		missing := len(pf.VFs) < want.VFs
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
	events, err := s.listen(ctx)
	if err != nil {
		return err
	}
	tick, rest := time.NewTicker(shapePace), time.NewTimer(shapeRest)
	defer tick.Stop()
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-events:
			if rest.Reset(shapeRest); open {
				continue
			}
			if events, err = s.listen(ctx); err != nil && ctx.Err() == nil { // there was no room for all
				return err
			}
			continue
		case <-rest.C:
		case <-tick.C:
		}
		now, err := shapeNow(s.pf.PCI)
		if err != nil {
			continue // it is not there, and whoever took it away brings it back
		}
		if want := s.wanted(now); !inShape(now, want) {
			err = s.home.in(func() error {
				done, err := s.keep(want, a.Log)
				if done {
					_, err = s.settled(want, a.Log)
					a.tell(eventShape, s.name, fmt.Sprintf("it is again as it is to be: %+v", want))
				}
				return err
			})
		}
		if words := words(err); words != s.told {
			if s.told = words; err != nil {
				a.tell(code(err), s.name, words)
			}
		}
	}
}

// listen hears of changes of netdevs, until ctx ends or there are more than there is room for.
func (s *shaper) listen(ctx context.Context) (chan netlink.LinkUpdate, error) {
	events := make(chan netlink.LinkUpdate, 256)
	if err := s.home.in(func() error { return netlink.LinkSubscribe(events, ctx.Done()) }); err != nil {
		return nil, fmt.Errorf("listen to link events: %w", err)
	}
	return events, nil
}

// shapeNow reads the shape that a PF has: a reading of the whole inventory costs more. It waits
// for whoever is just changing the number of VFs. A card in switchdev mode gives its ports the ID
// of its switch. One without a driver has no shape that can be changed.
func shapeNow(pf fabric.PCI) (s provision.Shape, err error) {
	dir := filepath.Join("/sys/bus/pci/devices", pf.String())
	text, err := os.ReadFile(filepath.Join(dir, "sriov_numvfs"))
	if err != nil {
		return s, err
	}
	if s.VFs, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return s, err
	}
	if _, err := os.Stat(filepath.Join(dir, "driver")); err != nil {
		return s, err
	}
	s.ESwitch = fabric.ESwitchLegacy
	ids, err := filepath.Glob(filepath.Join(dir, "net/*/phys_switch_id"))
	for _, id := range ids {
		if text, err := os.ReadFile(id); err == nil && len(strings.TrimSpace(string(text))) > 0 { // no driver has one otherwise
			s.ESwitch = fabric.ESwitchSwitchdev
		}
	}
	return s, err
}

// tell is event for whoever holds no lock.
func (a *Agent) tell(code, object, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.event(code, object, text)
}
