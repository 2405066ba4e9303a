package hwtests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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

// parcel is the traffic to one workload while it is moved.
type parcel struct {
	*Fabric
	mac   uint64
	frame []byte
}

// parcelFor returns the traffic to a station: web packets from the outside.
func (f *Fabric) parcelFor(mac uint64) (*parcel, error) {
	text := fmt.Sprintf("in_port=uplink,src_mac=02:00:00:00:bb:01,dst_mac=%s,ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.9.0.2,src_port=1000,dst_port=80", flow.FormatMAC(mac))
	k, err := flow.ParseKey(text, f.Blades[0].Ports)
	if err != nil {
		return nil, err
	}
	return &parcel{f, mac, stampable(k)}, nil
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
	parcel, err := f.parcelFor(mac)
	if err != nil {
		return nil, err
	}
	f.Reset()
	r := &Relocation{From: old.Blade}
	var next api.ProfileStatus
	r.Sent, err = parcel.send(ctx, func() error {
		begin := time.Now()
		if err := change(); err != nil {
			return err
		}
		if next, err = f.Settled(ctx, profile); err != nil {
			return err
		}
		r.To, r.Seconds = next.Blade, time.Since(begin).Seconds()
		return nil
	})
	if err == nil && r.From == r.To {
		err = fmt.Errorf("profile %s is still on blade %s", profile, r.From)
	}
	if err != nil {
		return nil, err
	}
	return r, parcel.judge(r, old.VNICs[0], next.VNICs[0])
}

// around is how long packets flow before and after a change.
const around = 200 * time.Millisecond

// parcelRate is packets per second into each wire.
const parcelRate = 2000

// send sends into all wires while do works, and for a moment before and after. It
// returns how many packets went into every wire.
func (p *parcel) send(ctx context.Context, do func() error) (int, error) {
	return p.sendAt(ctx, parcelRate, do)
}

// sendAt sends so many packets per second into each wire.
func (p *parcel) sendAt(ctx context.Context, rate int, do func() error) (int, error) {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	type sent struct {
		count int
		err   error
	}
	reports := make(chan sent, len(p.Blades))
	for _, b := range p.Blades {
		go func() {
			s, err := b.At(lab.Uplink).Sender()
			if err != nil {
				reports <- sent{0, err}
				return
			}
			defer s.Close()
			r, err := s.Send(sending, traffic.Load{Frames: traffic.Cycle(p.frame), Count: b.At(lab.Uplink).Leaves.Sequences(), Rate: rate})
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
	for range p.Blades {
		r := <-reports
		least, err = min(least, r.count), errors.Join(err, r.err)
	}
	return least, errors.Join(err, p.Settle(ctx, 50*time.Millisecond))
}

// judge holds what was seen of the packets against what may be seen of a move.
func (p *parcel) judge(r *Relocation, old, next api.VNICPlace) error {
	from, fromVF, err := p.spot(r.From, old)
	if err != nil {
		return err
	}
	to, toVF, err := p.spot(r.To, next)
	if err != nil {
		return err
	}
	var last, first int64
	elsewhere, changed := 0, 0
	frame := slices.Clone(p.frame)
	for n := range uint64(r.Sent) {
		traffic.Stamp(frame, n)
		came := 0
		for _, s := range p.spots() {
			cell := p.observer(s).Cell(n)
			switch {
			case cell.Copies == 0:
				continue
			case s == from:
				last = max(last, cell.Last)
			case s == to && first == 0:
				first = cell.First
			case s != to:
				elsewhere++
			}
			came++
			if !cell.Same(observe.Expect(frame)) {
				changed++
			}
		}
		switch came {
		case 0:
			r.Lost++
		case 1:
		default:
			r.Twice++
		}
	}
	if last == 0 || first == 0 {
		return fmt.Errorf("of %d packets none came at the old or none at the new place: nothing can be said of the move", r.Sent)
	}
	r.Interruption = float64(first-last) / 1e9
	for what, n := range map[string]int{"packets came at another port": elsewhere, "packets came changed or more than once": changed, "packets came at both places": r.Twice} {
		if n > 0 {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%d %s", n, what))
		}
	}
	r.Wrong = append(r.Wrong, p.order(p.Blades[from.Blade].Told(), fromVF, p.Blades[to.Blade].Told(), toVF, to.Port, first)...)
	return p.clean(r, from, fromVF)
}

// spot returns where packets to a vNIC leave, and which VF that is.
func (p *parcel) spot(blade string, at api.VNICPlace) (Spot, fabric.VFID, error) {
	for i, b := range p.Blades {
		for _, a := range b.Attached {
			if b.Name != blade || a.Name != at.Port {
				continue
			}
			for vf := range b.vfs.VFs.VFs {
				if vf.Index == at.Index && vf.PF.PCI.String() == at.PCI {
					return Spot{Blade: i, Port: a.Port}, vf, nil
				}
			}
		}
	}
	return Spot{}, fabric.VFID{}, fmt.Errorf("there is no %s on blade %s", at.Port, blade)
}

// order says what about the order of steps was not as it should be: silence at the old
// place, rules in force and proved at the new one, its link, its first packet.
func (p *parcel) order(leaving []Told, old fabric.VFID, coming []Told, next fabric.VFID, port flow.Port, first int64) (wrong []string) {
	silent, on := lastTold(leaving, old), lastTold(coming, next)
	if silent == nil || silent.Setting.Traffic || on == nil || !on.Setting.Traffic || on.Setting.MAC != p.mac {
		return []string{fmt.Sprintf("the old VF was told %+v last, and the new one %+v", silent, on)}
	}
	if silent.After > on.Before {
		wrong = append(wrong, "the new VF's link went on before the old one was silent")
	}
	if on.Proved != nil {
		wrong = append(wrong, fmt.Sprintf("what the card held when the link went on is not proved: %v", on.Proved))
	}
	to := slices.ContainsFunc(flow.Judge(on.Table, p.frame, lab.Uplink), func(e flow.Emission) bool { return e.Port == port && !e.Kernel })
	if !to {
		wrong = append(wrong, "the table in force when the link went on does not deliver to the new VF")
	}
	if first < on.Before {
		wrong = append(wrong, "a packet came to the new VF before its link went on")
	}
	return wrong
}

func lastTold(told []Told, vf fabric.VFID) *Told {
	for i := len(told) - 1; i >= 0; i-- {
		if told[i].VF == vf {
			return &told[i]
		}
	}
	return nil
}

// clean checks that the old VF is as if nobody had had it.
func (p *parcel) clean(r *Relocation, old Spot, vf fabric.VFID) error {
	b := p.Blades[old.Blade]
	set, err := b.vfs.Read()
	if err != nil {
		return err
	}
	if s, there := set[vf]; there {
		r.Wrong = append(r.Wrong, fmt.Sprintf("the old VF is not clean: %s", s.Setting))
	}
	at := b.At(old.Port)
	card, err := at.Front.NS.Links().LinkByName(at.Front.Name)
	if err != nil {
		return err
	}
	eth0, err := at.Outside.NS.Links().LinkByName(at.Outside.Name)
	if err != nil {
		return err
	}
	if card.Attrs().RawFlags&1 != 0 { // IFF_UP
		r.Wrong = append(r.Wrong, "the old VF's link is on")
	}
	if is := eth0.Attrs().HardwareAddr.String(); is == flow.FormatMAC(p.mac) {
		r.Wrong = append(r.Wrong, "the old workload still has the address")
	}
	return nil
}
