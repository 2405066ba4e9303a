package hwtests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// Relocation is a profile's way from one blade to another, as packets and blades saw it.
type Relocation struct {
	From    string  `json:"from"` // blade
	To      string  `json:"to"`
	Seconds float64 `json:"seconds"` // from the command until all blades had done their part, proved

	// Interruption is the time between the last packet at the old place and the first
	// at the new one.
	Interruption float64 `json:"interruption_seconds"`

	Sent  int `json:"sent"`  // packets to the workload, to both blades at once
	Lost  int `json:"lost"`  // that came nowhere
	Twice int `json:"twice"` // that came at both places

	// Wrong says what was not as it should be: that a frame came changed or somewhere
	// else, that the old VF was not silent, or the new one's rules not proved, before
	// the new one's link went on. Empty if all was.
	Wrong []string `json:"wrong,omitempty"`
}

// Target is where packets go: UDP, to a station's address and a port.
type Target struct {
	MAC  uint64
	Port uint16
}

// frame returns a packet to the target, from the outside, with room for a stamp.
func (t Target) frame(ports *flow.Ports) ([]byte, error) {
	text := fmt.Sprintf("in_port=uplink,src_mac=02:00:00:00:bb:01,dst_mac=%s,ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.9.0.2,src_port=1000,dst_port=%d", flow.FormatMAC(t.MAC), t.Port)
	k, err := flow.ParseKey(text, ports)
	return stampable(k), err
}

// Delivery is what came of the packets to one target, sent into the wires of all blades
// at once, as from a switch that floods.
type Delivery struct {
	Sent    int // packets, into every wire
	Lost    int // that left by no port
	Twice   int // that left by more than one
	Changed int // that came changed, or more than once at one spot

	// At says where they came. A blade whose software is away hands what its card does
	// not answer to its kernel.
	At map[Spot]Stay

	frame []byte
}

// Stay is what came at one place, with the times of the first and the last packet,
// CLOCK_MONOTONIC in ns.
type Stay struct {
	Packets     int
	First, Last int64
}

// Relocate sends web packets (UDP, port 80) to a profile's first vNIC, into the wires of
// all blades at once, as from a switch that floods, while change brings the profile to
// another blade; and says what came of them. The observers are reset first.
func (f *Fabric) Relocate(ctx context.Context, profile string, change func() error) (*Relocation, error) {
	old, err := f.Settled(ctx, profile)
	if err != nil {
		return nil, err
	}
	p, err := client.Profiles.Get(ctx, f.API, profile)
	if err != nil {
		return nil, err
	}
	mac, err := flow.ParseMAC(p.Spec.VNICs[0].MAC)
	if err != nil {
		return nil, err
	}
	r := &Relocation{From: old.Blade}
	var next api.ProfileStatus
	came, err := f.Deliver(ctx, 2000, func() error {
		begin := time.Now()
		if err := change(); err != nil {
			return err
		}
		if next, err = f.Settled(ctx, profile); err != nil {
			return err
		}
		r.To, r.Seconds = next.Blade, time.Since(begin).Seconds()
		return nil
	}, Target{mac, 80})
	if err == nil && r.From == r.To {
		err = fmt.Errorf("profile %s is still on blade %s", profile, r.From)
	}
	if err != nil {
		return nil, err
	}
	return r, f.judge(r, came[0], mac, old.VNICs[0], next.VNICs[0])
}

// around is how long packets flow before and after what is done meanwhile.
const around = 200 * time.Millisecond

// Deliver sends packets to targets, in turn, so many per second into each wire, while do
// works and for a moment before and after; and says of each target what came of them. The observers are reset first, and have room for as many packets as
// the lab was built for; more are not sent.
func (f *Fabric) Deliver(ctx context.Context, rate int, do func() error, to ...Target) ([]*Delivery, error) {
	var out []*Delivery
	var frames [][]byte
	for _, t := range to {
		frame, err := t.frame(f.Blades[0].Ports)
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame)
		out = append(out, &Delivery{At: map[Spot]Stay{}, frame: slices.Clone(frame)})
	}
	f.Reset()
	sent, err := f.flood(ctx, frames, rate, do)
	if err != nil {
		return nil, err
	}
	for n := range uint64(sent) {
		i := n % uint64(len(frames))
		traffic.Stamp(frames[i], n)
		out[i].take(f.Chassis, n, observe.Expect(frames[i]))
	}
	return out, nil
}

// take notes where one packet came.
func (d *Delivery) take(c *Chassis, n uint64, want observe.Cell) {
	d.Sent++
	left := 0
	for _, s := range c.spots() {
		cell := c.observer(s).Cell(n)
		if cell.Copies == 0 {
			continue
		}
		if !s.Kernel {
			left++
		}
		if !cell.Same(want) {
			d.Changed++
		}
		at := d.At[s]
		if at.Packets++; at.First == 0 {
			at.First = cell.First
		}
		at.Last = max(at.Last, cell.Last)
		d.At[s] = at
	}
	switch {
	case left == 0:
		d.Lost++
	case left > 1:
		d.Twice++
	}
}

// Ports returns by which ports packets left.
func (d *Delivery) Ports() (out []Spot) {
	for s := range d.At {
		if !s.Kernel {
			out = append(out, s)
		}
	}
	return out
}

// Once reports whether every packet came once and unchanged, all at one port of a blade
// and nowhere else.
func (d *Delivery) Once(blade int) bool {
	for s, at := range d.At {
		if s.Blade != blade || at.Packets != d.Sent {
			return false
		}
	}
	return len(d.At) == 1 && len(d.Ports()) == 1 && d.Lost+d.Twice+d.Changed == 0
}

// abreast is where senders wait for each other, so that a packet enters all wires at
// about the same time, as from a switch: if one ran ahead, a number could be seen at the
// old place in one wire and, later, at the new place in the other.
type abreast struct {
	sync.Mutex
	of, here int
	all      chan struct{} // closed when all are here
}

// wait returns when all senders wait, or when no more is to be sent.
func (a *abreast) wait(ctx context.Context) {
	a.Lock()
	all := a.all
	if a.here++; a.here == a.of {
		close(all)
		a.here, a.all = 0, make(chan struct{})
	}
	a.Unlock()
	select {
	case <-all:
	case <-ctx.Done():
	}
}

// flood sends into all wires and returns how many packets went into every one.
func (f *Fabric) flood(ctx context.Context, frames [][]byte, rate int, do func() error) (int, error) {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	type sent struct {
		count int
		err   error
	}
	reports := make(chan sent, len(f.Blades))
	next := traffic.Cycle(frames...)
	together := &abreast{of: len(f.Blades), all: make(chan struct{})}
	step := func(sequence uint64) []byte {
		together.wait(sending)
		return next(sequence)
	}
	for _, b := range f.Blades {
		go func() {
			s, err := b.At(lab.Uplink).Sender()
			if err != nil {
				stop()
				reports <- sent{0, err}
				return
			}
			defer s.Close()
			r, err := s.Send(sending, traffic.Load{Frames: step, Burst: 1, Count: b.At(lab.Uplink).Leaves.Sequences(), Rate: rate})
			if sending.Err() != nil && ctx.Err() == nil {
				err = nil // it was told to stop
			}
			reports <- sent{r.Sent, err}
		}()
	}
	time.Sleep(around)
	err := do()
	time.Sleep(around)
	stop()
	least := int(^uint(0) >> 1)
	for range f.Blades {
		r := <-reports
		least, err = min(least, r.count), errors.Join(err, r.err)
	}
	return least, errors.Join(err, f.Settle(ctx, 50*time.Millisecond))
}

// judge holds what came against what may come of a move.
func (f *Fabric) judge(r *Relocation, came *Delivery, mac uint64, old, next api.VNICPlace) error {
	from, fromVF, err := f.spot(r.From, old)
	if err != nil {
		return err
	}
	to, toVF, err := f.spot(r.To, next)
	if err != nil {
		return err
	}
	r.Sent, r.Lost, r.Twice = came.Sent, came.Lost, came.Twice
	for s, at := range came.At {
		if s != from && s != to {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%d packets came at blade %d port %d", at.Packets, s.Blade+1, s.Port))
		}
	}
	for what, n := range map[string]int{"changed or more than once": came.Changed, "at both places": r.Twice} {
		if n > 0 {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%d packets came %s", n, what))
		}
	}
	if came.At[from].Packets == 0 || came.At[to].Packets == 0 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%d packets came at the old place and %d at the new one", came.At[from].Packets, came.At[to].Packets))
		return nil
	}
	r.Interruption = float64(came.At[to].First-came.At[from].Last) / 1e9
	silent, on := lastTold(f.Blades[from.Blade].Told(), fromVF), lastTold(f.Blades[to.Blade].Told(), toVF)
	r.Wrong = append(r.Wrong, order(silent, on, mac, came.frame, to.Port, came.At[to].First)...)
	wrong, err := f.clean(mac, from, fromVF)
	r.Wrong = append(r.Wrong, wrong...)
	return err
}

// spot returns where packets to a vNIC leave, and which VF that is.
func (f *Fabric) spot(blade string, at api.VNICPlace) (Spot, fabric.VFID, error) {
	if i := f.index(blade); i >= 0 {
		b := f.Blades[i]
		for vf := range b.vfs.VFs.VFs {
			if vf.Index == at.Index && vf.PF.PCI.String() == at.PCI {
				port, err := b.Ports.Find(at.Port)
				return Spot{Blade: i, Port: port}, vf, err
			}
		}
	}
	return Spot{}, fabric.VFID{}, fmt.Errorf("there is no %s on blade %s", at.Port, blade)
}

// order says what about the order of steps was not as it should be: silence at the old
// place, rules in force and proved at the new one, its link, its first packet.
func order(silent, on *Told, mac uint64, frame []byte, port flow.Port, first int64) (wrong []string) {
	if silent == nil || silent.Setting.Traffic || on == nil || !on.Setting.Traffic || on.Setting.MAC != mac {
		return []string{fmt.Sprintf("the old VF was told %+v last, and the new one %+v", silent, on)}
	}
	if silent.After > on.Before {
		wrong = append(wrong, "the new VF's link went on before the old one was silent")
	}
	if on.Proved != nil {
		wrong = append(wrong, fmt.Sprintf("what the card held when the link went on is not proved: %v", on.Proved))
	}
	if !slices.ContainsFunc(flow.Judge(on.Table, frame, lab.Uplink), func(e flow.Emission) bool { return e.Port == port && !e.Kernel }) {
		wrong = append(wrong, "the table in force when the link went on does not deliver to the new VF")
	}
	if first < on.Before {
		wrong = append(wrong, "a packet came to the new VF before its link went on")
	}
	return wrong
}

// lastTold returns what a VF was told last, nil if nothing.
func lastTold(told []Told, vf fabric.VFID) *Told {
	for i := len(told) - 1; i >= 0; i-- {
		if told[i].VF == vf {
			return &told[i]
		}
	}
	return nil
}

// clean says what about a VF is not as if nobody had had it.
func (f *Fabric) clean(mac uint64, at Spot, vf fabric.VFID) (wrong []string, err error) {
	b := f.Blades[at.Blade]
	set, err := b.vfs.Read()
	if err != nil {
		return nil, err
	}
	if s, there := set[vf]; there {
		wrong = append(wrong, fmt.Sprintf("the old VF is not clean: %s", s.Setting))
	}
	card, err := link(b.At(at.Port).Front)
	if err != nil {
		return nil, err
	}
	eth0, err := link(b.At(at.Port).Outside)
	if err != nil {
		return nil, err
	}
	if card.Flags&net.FlagUp != 0 {
		wrong = append(wrong, "the old VF's link is on")
	}
	if eth0.HardwareAddr.String() == flow.FormatMAC(mac) {
		wrong = append(wrong, "the old workload still has the address")
	}
	return wrong, nil
}

func link(d lab.Netdev) (*netlink.LinkAttrs, error) {
	l, err := d.NS.Links().LinkByName(d.Name)
	if err != nil {
		return nil, err
	}
	return l.Attrs(), nil
}
