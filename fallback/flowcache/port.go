package flowcache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/flow"
)

// Fail is what becomes of unknown frames of a port while nobody listens to its socket.
type Fail uint32

// The ways to fail: the zero value is the safe one.
const (
	Closed   Fail = iota // dropped
	ToKernel             // given to the blade's kernel, as if there were no switch
)

// PortConfig says how a port is attached.
type PortConfig struct {
	Fail Fail
	// Upcalls is how many unknown frames a second may go to the socket; 0 means any
	// number. Burst is how many at once beyond that; 0 means DefaultBurst. What is more
	// is dropped and counted, and takes nothing from other ports.
	Upcalls, Burst int
}

// DefaultBurst is what a ring of the socket holds.
const DefaultBurst = 4096

// Mode is how the program sits on a device.
type Mode string

// The modes.
const (
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // behind it, for drivers without XDP: slower
)

// port is an attached port.
type port struct {
	ifindex int
	link    link.Link
	mode    Mode
	longest int
}

// PortStats is what became of a port's frames that the cache did not answer, and of
// those that it could not send on. They never decrease; of a pinned cache they outlive
// its owners.
type PortStats struct {
	Upcalls uint64 // given to the socket
	Limited uint64 // dropped: more than PortConfig.Upcalls
	Unheard uint64 // nobody listened: given what PortConfig.Fail says
	Unsent  uint64 // answered, but the way out was not there: dropped
}

// Attach puts the program on a port's device, natively where its driver can, and makes
// the device the port's way out. If the owner before had the program on this
// device, program and settings are replaced without a gap; if this one has, only the
// settings are. The calling thread must be in the device's network namespace. Flows leave by the device from the cache if it takes XDP
// frames (see [Cache.Review]), else from Go.
func (k *Cache) Attach(n flow.Port, ifindex int, c PortConfig) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.attach(n, ifindex, c); err != nil {
		return &flow.Fault{Code: "E_FLOWCACHE_PORT", What: fmt.Sprintf("flow cache on port %d, interface %d", n, ifindex), Why: err.Error(),
			Remedy: "use a device that is there and has no XDP program, or do without the cache", Err: err}
	}
	return nil
}

func (k *Cache) attach(n flow.Port, ifindex int, c PortConfig) error {
	for m, p := range k.ports {
		if m != n && p.ifindex == ifindex {
			return fmt.Errorf("port %d has this interface", m)
		}
	}
	k.recognize(n, ifindex)
	_ = k.listen() // else Review finds out
	dev, err := k.output(n, ifindex)
	if err != nil {
		return err
	}
	if err := k.configure(n, ifindex, c); err != nil {
		return err
	}
	p := &port{ifindex: ifindex, longest: longest(dev)}
	if old := k.ports[n]; old != nil {
		if mode, here := sits(old.link, dev); here && old.ifindex == ifindex { // to put it on anew takes some cards' links down
			old.mode, old.longest = mode, p.longest
			k.limit()
			return nil
		}
		old.link.Detach() // its device may be gone
		old.link.Close()
		delete(k.ports, n)
		k.unpin(old.ifindex)
	}
	if err := k.put(p, dev); err != nil {
		return err
	}
	k.ports[n] = p
	k.limit()
	return nil
}

// longest is how long a frame may be that leaves by a device.
func longest(dev netlink.Link) int { return dev.Attrs().MTU + 14 }

// recognize makes the cache forget what it knows if the owner before had another device
// for a port, or another port for its device: by the verdicts that are in it frames would
// leave where they do not belong.
func (k *Cache) recognize(n flow.Port, ifindex int) {
	if k.begun || n > MaxPort || ifindex <= 0 {
		return
	}
	had, was := k.table.mem.Ports[n].Ifindex, uint64(k.portOf(ifindex))
	known := k.table.mem.State.View[k.table.epoch()&1].Table != Digest{}
	if known && (had != 0 && had != uint32(ifindex) || was != 0 && was != uint64(n)) {
		k.table.annul()
	}
}

// portOf returns the port whose device has this number; 0 if none has.
func (k *Cache) portOf(ifindex int) flow.Port {
	if ifindex < xdp.Devices {
		return flow.Port(atomic.LoadUint64(&k.table.mem.Devices[ifindex]))
	}
	var n uint64
	k.maps.Distant.Lookup(uint32(ifindex), &n) // 0 if it is not there
	return flow.Port(n)
}

// setPortOf makes a device that of a port; 0 is none.
func (k *Cache) setPortOf(ifindex int, n flow.Port) error {
	switch {
	case ifindex < xdp.Devices:
		atomic.StoreUint64(&k.table.mem.Devices[ifindex], uint64(n))
	case n == 0:
		k.maps.Distant.Delete(uint32(ifindex)) // may not be there
	default:
		if err := k.maps.Distant.Put(uint32(ifindex), uint64(n)); err != nil {
			return fmt.Errorf("make it the port's: %w", err)
		}
	}
	return nil
}

// configure writes what the program must know of a port.
func (k *Cache) configure(n flow.Port, ifindex int, c PortConfig) error {
	if c.Burst == 0 {
		c.Burst = DefaultBurst
	}
	m := &k.table.mem.Ports[n]
	price := uint64(0)
	if c.Upcalls > 0 {
		price = uint64(time.Second) / uint64(c.Upcalls)
	}
	atomic.StoreUint64(&m.Price, price)
	atomic.StoreUint64(&m.Depth, price*uint64(c.Burst))
	const xdpDrop, xdpPass = 1, 2 // enum xdp_action
	fail := uint32(xdpDrop)
	if c.Fail == ToKernel {
		fail = xdpPass
	}
	atomic.StoreUint32(&m.Fail, fail)
	if m.Ifindex != uint32(ifindex) {
		if m.Ifindex != 0 && k.portOf(int(m.Ifindex)) == n { // another port may have it by now
			k.setPortOf(int(m.Ifindex), 0)
		}
		atomic.StoreUint32(&m.Ifindex, uint32(ifindex))
	}
	return k.setPortOf(ifindex, n)
}

// put gets the program onto the device: into the link that is there, or by a new one.
func (k *Cache) put(p *port, dev netlink.Link) error {
	program := func(mode Mode) (*ebpf.Program, error) { return k.program(mode == Generic) }
	if stray := k.strays[p.ifindex]; stray != nil {
		if mode, here := sits(stray, dev); here {
			prog, err := program(mode)
			if err != nil {
				return err
			}
			if err := stray.Update(prog); err != nil {
				return fmt.Errorf("replace the program: %w", err)
			}
			delete(k.strays, p.ifindex)
			p.link, p.mode = stray, mode
			return nil
		}
		k.letGo(p.ifindex)
	}
	var errs []error
	for _, try := range []struct {
		mode  Mode
		flags link.XDPAttachFlags
	}{{Native, link.XDPDriverMode}, {Generic, link.XDPGenericMode}} {
		prog, err := program(try.mode)
		if err != nil {
			return err
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: p.ifindex, Flags: try.flags})
		if err != nil {
			errs = append(errs, fmt.Errorf("attach in %s mode: %w", try.mode, err))
			continue
		}
		p.link, p.mode = l, try.mode
		if k.dir == "" {
			return nil
		}
		if err := l.Pin(k.pinOf(p.ifindex)); err != nil {
			return errors.Join(err, l.Detach(), l.Close())
		}
		return nil
	}
	return errors.Join(errs...)
}

// sits reports whether a link is on a device, and how.
func sits(l link.Link, dev netlink.Link) (Mode, bool) {
	info, err := l.Info()
	if err != nil || info.XDP() == nil || int(info.XDP().Ifindex) != dev.Attrs().Index || dev.Attrs().Xdp == nil {
		return "", false
	}
	switch dev.Attrs().Xdp.AttachMode {
	case nl.XDP_ATTACHED_DRV:
		return Native, true
	case nl.XDP_ATTACHED_SKB:
		return Generic, true
	}
	return "", false
}

// Output makes a device, if it takes XDP frames, the way out of a port that no frames come
// in by. The calling thread must be in its network namespace.
func (k *Cache) Output(n flow.Port, ifindex int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.output(n, ifindex)
	return err
}

func (k *Cache) output(n flow.Port, ifindex int) (netlink.Link, error) {
	if n == 0 || n > MaxPort || ifindex <= 0 {
		return nil, fmt.Errorf("port %d, interface %d: ports go from 1 to %d", n, ifindex, MaxPort)
	}
	dev, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, err
	}
	open := false // nor is it if nobody can tell: flows leave from Go
	if netdev, err := family(); err == nil {
		open, _ = takes(netdev, ifindex)
	}
	return dev, k.openWay(n, ifindex, open)
}

// limit sets how long a frame may be that the cache answers: as long as every port can
// send. Longer ones go to Go, which counts what a port refuses.
func (k *Cache) limit() {
	longest := 0
	for n, p := range k.ports {
		if longest == 0 || p.longest < longest {
			longest = p.longest
		}
		if k.reach[n] {
			k.takes[n].Store(int32(p.longest))
		}
	}
	atomic.StoreUint64(&k.table.mem.State.Longest, uint64(longest))
}

func (k *Cache) pinOf(ifindex int) string {
	return filepath.Join(k.dir, fmt.Sprint(linkPrefix, ifindex))
}

func (k *Cache) unpin(ifindex int) error {
	if k.dir == "" {
		return nil
	}
	return os.Remove(k.pinOf(ifindex))
}

// retire takes a port's way out, and its device's port.
func (k *Cache) retire(n flow.Port) {
	k.maps.Out.Delete(uint32(n)) // may not be there
	m := &k.table.mem.Ports[n]
	if m.Ifindex != 0 && k.portOf(int(m.Ifindex)) == n {
		k.setPortOf(int(m.Ifindex), 0)
	}
	atomic.StoreUint32(&m.Ifindex, 0)
}

// Free returns a fault if some flow cache's program is on a device: whoever else is to
// answer for its frames would not see all of them. The calling thread must be in the
// device's network namespace.
func Free(ifindex int) error {
	dev, err := netlink.LinkByIndex(ifindex)
	if err != nil || dev.Attrs().Xdp == nil || !dev.Attrs().Xdp.Attached {
		return err
	}
	prog, err := ebpf.NewProgramFromID(ebpf.ProgramID(dev.Attrs().Xdp.ProgId))
	if err != nil {
		return fmt.Errorf("look at the XDP program of interface %d: %w", ifindex, err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err == nil && strings.HasPrefix(info.Name, "cache_") {
		return &flow.Fault{Code: "E_FLOWCACHE_PORT", What: fmt.Sprintf("interface %d", ifindex), Why: "the pinned flow cache of an agent before answers on it",
			Remedy: "name its pins under cache.pins once more, and it is taken off; or rm -r them"}
	}
	return err
}

// letGo takes a stray off its device.
func (k *Cache) letGo(ifindex int) error {
	l := k.strays[ifindex]
	delete(k.strays, ifindex)
	return errors.Join(l.Detach(), l.Close(), os.Remove(k.pinOf(ifindex)))
}

// Detach takes the program off a port, which has no way out any more.
func (k *Cache) Detach(n flow.Port) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[n]
	if p == nil {
		return nil
	}
	delete(k.ports, n)
	k.reach[n] = false
	k.takes[n].Store(0)
	k.limit()
	err := errors.Join(p.link.Detach(), p.link.Close(), k.unpin(p.ifindex))
	k.retire(n)
	return err
}

// Leads reports whether flows leave by a port from the cache, and not from Go.
func (k *Cache) Leads(n flow.Port) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return n <= MaxPort && k.reach[n]
}

// Takes returns how long frames may be that a port's device takes as XDP frames, and 0 if it
// takes none or is not attached. See [Cache.Review]. It waits for nobody.
func (k *Cache) Takes(n flow.Port) (longest int) {
	if n > MaxPort {
		return 0
	}
	return int(k.takes[n].Load())
}

// Port returns how a port is attached, and what it has counted; ok is false if it is not.
func (k *Cache) Port(n flow.Port) (mode Mode, s PortStats, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[n]
	if p == nil {
		return "", PortStats{}, false
	}
	m := &k.table.mem.Ports[n]
	return p.mode, PortStats{
		Upcalls: atomic.LoadUint64(&m.Upcalls), Limited: atomic.LoadUint64(&m.Limited),
		Unheard: atomic.LoadUint64(&m.Unheard), Unsent: atomic.LoadUint64(&m.Unsent),
	}, true
}
