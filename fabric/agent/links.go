package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// Problem. Representors come and go: a driver is reloaded, VFs are made anew, a cable of
// the lab is replaced. A socket on a netdev that was removed receives nothing for ever, and
// the datapath that has it knows its ports since it was made.
//
// Idea. The datapath gets a [seat] for each receive queue of a port, which stays; a socket
// sits on it as long as the port's netdev is there. One goroutine listens to the kernel's link events, takes
// the sockets of removed netdevs off their seats, and puts new ones on when the netdevs are
// back, whatever their numbers are then. What the datapath would send to an empty seat is
// refused and counted, as to a port that is down.
//
// Invariant. A socket is closed when nobody can be in it: senders use it with the seat's
// lock held, and the one receiver closes what was taken off when it comes for the next
// frames, and so is done with the last ones.

// links keeps the seats of a blade's ports taken. It is used by one goroutine, except for
// status.
type links struct {
	ports   []PortMap // netdevs by port, the first port first
	names   func() ([]PortMap, error)
	mode    string
	open    func(port flow.Port, ifindex int) ([]socket, error) // one for each receive queue
	detach  func(port flow.Port)                                // is called when a port's netdev is another's or gone
	xdp     func(port flow.Port) string                         // LinkStatus.XDP of an open link
	fail    func(port flow.Port) string                         // LinkStatus.Fail
	review  func()                                              // looks at what netdevs can do, in their namespace
	spread  func(ifindex int) int                               // over how many receive queues frames come; 0 if it makes no difference
	openAll func(indexes map[flow.Port]int) (kernel, error)
	seats   [][]*seat // by port, and then by queue, of which there is at least one
	kernel  passer
	home    netns.NsHandle // where the netdevs are
	log     *slog.Logger

	mu     sync.Mutex  // guards what follows
	faults []error     // why each port has no socket, or not enough; nil where all is well
	noted  []time.Time // when that was found
	netdev []string    // by which name each was found last
}

// bare returns what is wrong without the operation that package net puts before it.
func bare(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return err.Error()
}

// take opens all links for the first time: here none may be missing. The calling thread
// must be in the netdevs' namespace.
func (k *links) take() (err error) {
	if k.home, err = netns.Get(); err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	k.faults, k.noted, k.netdev = make([]error, len(k.ports)), make([]time.Time, len(k.ports)), make([]string, len(k.ports))
	indexes := map[flow.Port]int{}
	for i, m := range k.ports {
		k.netdev[i] = m.Netdev
		dev, err := net.InterfaceByName(m.Netdev)
		if err != nil {
			return &flow.Fault{Code: "E_NETDEV", What: fmt.Sprintf("port %s: netdev %s", m.Name, m.Netdev), Why: bare(err),
				Remedy: "name the representor as `ip link` shows it", Err: err}
		}
		sockets, err := k.open(flow.Port(i+1), dev.Index)
		if err != nil {
			return fmt.Errorf("port %s: %w", m.Name, err)
		}
		var seats []*seat
		for _, l := range sockets {
			s := newSeat()
			s.put(l, dev.Index)
			seats = append(seats, s)
		}
		k.seats = append(k.seats, seats)
		indexes[flow.Port(i+1)] = dev.Index
	}
	return k.kernel.renew(func() (kernel, error) { return k.openAll(indexes) })
}

// queues returns the seats as the datapath wants them.
func (k *links) queues() map[flow.Port][]fallback.Link {
	out := map[flow.Port][]fallback.Link{}
	for i, seats := range k.seats {
		for _, s := range seats {
			out[flow.Port(i+1)] = append(out[flow.Port(i+1)], s)
		}
	}
	return out
}

// recheck is how often seats are looked at without an event: events can be lost, and a
// socket may be refused for a moment.
const recheck = 5 * time.Second

// run keeps the seats taken until ctx ends. It runs on a thread of its own in the netdevs'
// namespace, which ends with it.
func (k *links) run(ctx context.Context) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that nobody inherits the namespace
		ended <- k.watch(ctx)
	}()
	return <-ended
}

func (k *links) watch(ctx context.Context) error {
	if here, err := netns.Get(); err != nil || !here.Equal(k.home) { // to enter where one is takes a privilege for nothing
		if err := netns.Set(k.home); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
	} else {
		here.Close()
	}
	events := make(chan netlink.LinkUpdate, 256)
	if err := netlink.LinkSubscribe(events, ctx.Done()); err != nil {
		return fmt.Errorf("listen to link events: %w", err)
	}
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		k.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case _, open := <-events:
			if !open { // the kernel had more events than room for them
				events = nil
			}
		}
		for more := true; more && events != nil; {
			select {
			case _, more = <-events:
			default:
				more = false
			}
		}
		if events == nil && ctx.Err() == nil {
			events = make(chan netlink.LinkUpdate, 256)
			if err := netlink.LinkSubscribe(events, ctx.Done()); err != nil {
				return fmt.Errorf("listen to link events: %w", err)
			}
		}
	}
}

// look compares seats with the netdevs that are there.
func (k *links) look() {
	defer k.review()
	devs, err := net.Interfaces()
	if err != nil {
		k.log.Warn("cannot list netdevs", "error", err)
		return
	}
	there, down := map[string]int{}, map[string]bool{}
	for _, d := range devs {
		there[d.Name], down[d.Name] = d.Index, d.Flags&net.FlagUp == 0
	}
	ports := k.ports
	if k.stray(there) {
		if now, err := k.names(); err == nil {
			ports = now
		}
	}
	names := make([]string, len(k.seats))
	for i := range k.seats {
		names[i] = k.ports[i].Netdev
		for _, m := range ports {
			if m.Name == k.ports[i].Name {
				names[i] = m.Netdev
			}
		}
		k.leave(i, names[i], there[names[i]])
	}
	changed := false
	for i := range k.seats {
		changed = k.settle(i, names[i], there[names[i]]) || changed
		if !k.listen(i, names[i], down[names[i]]) {
			k.compare(i, names[i])
		}
	}
	if changed {
		indexes := map[flow.Port]int{}
		for i, seats := range k.seats {
			if seats[0].ifindex != 0 {
				indexes[flow.Port(i+1)] = seats[0].ifindex
			}
		}
		if err := k.kernel.renew(func() (kernel, error) { return k.openAll(indexes) }); err != nil {
			k.log.Error("frames cannot be passed to the kernel", "error", err)
		}
	}
}

// stray reports whether a seat's socket is not on the netdev of the name it had: then
// names are asked for anew.
func (k *links) stray(there map[string]int) bool {
	for i, seats := range k.seats {
		if seats[0].ifindex == 0 || there[k.netdev[i]] != seats[0].ifindex {
			return true
		}
	}
	return false
}

// leave empties the seats of port i, counted from 0, if its netdev is not the one of this
// number any more. All ports' seats are left before the first is taken: a netdev may have got
// the name of another.
func (k *links) leave(i int, name string, ifindex int) {
	if on := k.seats[i][0].ifindex; on == 0 || on == ifindex {
		return
	}
	for _, s := range k.seats[i] {
		s.clear()
	}
	k.detach(flow.Port(i + 1))
	k.note(i, name, errAway)
	k.log.Warn("a netdev was removed", "port", k.ports[i].Name, "netdev", name)
}

// settle takes the empty seats of port i for a netdev of this number, 0 if there is none,
// and reports whether sockets were put on.
func (k *links) settle(i int, name string, ifindex int) bool {
	if k.seats[i][0].ifindex != 0 || ifindex == 0 {
		return false
	}
	sockets, err := k.open(flow.Port(i+1), ifindex)
	if had := len(k.seats[i]); err == nil && len(sockets) != had {
		for _, l := range sockets {
			l.Close()
		}
		err = &otherQueues{len(sockets), had}
	}
	if err != nil {
		if words(k.fault(i)) != err.Error() {
			k.log.Error("a link cannot be opened", "port", k.ports[i].Name, "netdev", name, "error", err)
		}
		k.note(i, name, err)
		return false
	}
	for q, l := range sockets {
		k.seats[i][q].put(l, ifindex)
	}
	k.note(i, name, nil)
	k.log.Info("a link is open again", "port", k.ports[i].Name, "netdev", name)
	return true
}

// errDown says that a netdev is there and carries no frames.
var errDown = errors.New("its netdev is down: what the card gives to software is lost there: ip link set it up")

// listen notes whether the netdev of port i is down, and reports that.
func (k *links) listen(i int, name string, down bool) bool {
	if k.seats[i][0].ifindex == 0 {
		return false
	}
	switch was := k.fault(i); {
	case down && was != errDown:
		k.note(i, name, errDown)
		k.log.Error("a netdev is down", "port", k.ports[i].Name, "netdev", name)
	case !down && was == errDown:
		k.note(i, name, nil)
		k.log.Info("a netdev is up again", "port", k.ports[i].Name, "netdev", name)
	}
	return down
}

// otherQueues says that a netdev has other receive queues than its port has workers.
type otherQueues struct{ has, had int }

func (o *otherQueues) Error() string {
	return fmt.Sprintf("it spreads frames over %d receive queues, and over %d when the agent began: set them back (ethtool -L), or start the agent again", o.has, o.had)
}

// compare notes whether all queues of port i's netdev are read. What comes by another one is
// answered by the flow cache, or gets what it would without an agent, and is counted so.
func (k *links) compare(i int, name string) {
	on := k.seats[i][0].ifindex
	if on == 0 {
		return
	}
	was, odd := k.fault(i).(*otherQueues)
	switch n, had := k.spread(on), len(k.seats[i]); {
	case n != 0 && n != had && (!odd || was.has != n):
		err := &otherQueues{n, had}
		k.note(i, name, err)
		k.log.Error("a link is not read whole", "port", k.ports[i].Name, "netdev", name, "error", err)
	case odd && n == had:
		k.note(i, name, nil)
		k.log.Info("a link is read whole again", "port", k.ports[i].Name, "netdev", name)
	}
}

func (k *links) note(i int, name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if words(k.faults[i]) != words(err) {
		k.noted[i] = time.Now()
	}
	k.netdev[i], k.faults[i] = name, err
}

func (k *links) fault(i int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.faults[i]
}

// status says how each link is.
func (k *links) status() []LinkStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := []LinkStatus{}
	for i, seats := range k.seats {
		l := LinkStatus{Port: k.ports[i].Name, Netdev: k.netdev[i], Mode: k.mode, XDP: k.xdp(flow.Port(i + 1)), Fail: k.fail(flow.Port(i + 1)), Queues: len(seats), Open: true}
		for _, s := range seats {
			received, sent, dropped := s.Stats()
			l.Received, l.Sent, l.Dropped = l.Received+received, l.Sent+sent, l.Dropped+dropped
			s.mu.RLock()
			l.Since = s.since
			s.mu.RUnlock()
		}
		if k.noted[i].After(l.Since) {
			l.Since = k.noted[i]
		}
		if err := k.faults[i]; err != nil {
			l.Open, l.Reason = false, err.Error()
		}
		out = append(out, l)
	}
	return out
}

// Close closes all links. Nothing of them may be in use.
func (k *links) Close() error {
	errs := []error{k.kernel.Close()}
	for _, s := range slices.Concat(k.seats...) {
		if err := s.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if k.home.IsOpen() {
		errs = append(errs, k.home.Close())
	}
	return errors.Join(errs...)
}
