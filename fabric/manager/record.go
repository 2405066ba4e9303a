package manager

import (
	"context"
	"errors"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// What blades report is looked at every few seconds and recorded in 5-minute values: the
// traffic of ports, VFs with traffic, table entries, packets in software. Only a leader
// records, and asks the store whether it still leads before it writes. A blade that does
// not report is a gap in the record, not a zero.

// recording is the demand that one leader sees.
type recording struct {
	into  *history.Store
	keep  history.Retention
	polls *history.Recorder
	last  map[string]uint64 // packets of each VF at the last poll
}

func newRecording(into *history.Store, keepDays int) *recording {
	keep := history.DefaultRetention()
	if keepDays > 0 {
		keep.Days = time.Duration(keepDays) * history.Day
		keep.Hours = min(keep.Hours, keep.Days)
	}
	return &recording{into: into, keep: keep, polls: history.NewRecorder(), last: map[string]uint64{}}
}

// record records until ctx ends. What was polled last is written then, too, if this
// manager leads still.
func (l *leader) record(ctx context.Context) {
	r := newRecording(l.config.History, l.config.Capacity.KeepDays)
	tick := time.NewTicker(l.config.Poll)
	defer tick.Stop()
	for {
		if v := l.latest(); v != nil {
			r.poll(v, l.now())
		}
		at := l.now()
		select {
		case <-ctx.Done():
			at = at.Add(history.Minutes) // nothing comes any more
		case <-tick.C:
		}
		stopping, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		if err := l.write(stopping, r, at); err != nil && !errors.Is(err, store.ErrConflict) {
			l.log.Warn("cannot record demand", "error", err)
		}
		stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// write writes the 5-minute values that are over.
func (l *leader) write(ctx context.Context, r *recording, at time.Time) error {
	samples := r.polls.Take(at)
	if len(samples) == 0 {
		return nil
	}
	if _, err := l.store.Txn(ctx, []store.Compare{l.fence}, nil); err != nil {
		return err
	}
	if late, err := r.into.Append(ctx, samples); err != nil {
		return err
	} else if late > 0 {
		l.log.Warn("demand came too late to be recorded", "samples", late)
	}
	_, err := r.into.Roll(ctx, at, r.keep)
	return err
}

// poll looks at what the blades that are alive reported last. Reports do not change while
// nothing counts, so a poll's time is the manager's.
func (r *recording) poll(v *view, at time.Time) {
	for id, b := range v.blades {
		if b.alive == nil || b.err != nil {
			continue
		}
		if b.ports != nil {
			r.traffic(string(id), b.seen.Inventory, b.ports.Status.Ports, at)
		}
		if b.rules != nil {
			r.polls.Packets(history.Name(capacity.Software, capacity.BladeLevel, string(id)), at, inSoftware(b.rules))
		}
		if b.status != nil {
			r.entries(id, b, at)
		}
	}
}

// traffic takes the counters of a blade's functions: of PFs their rate, of VFs whether there was
// any traffic. Of what is not in its inventory nothing is recorded.
func (r *recording) traffic(blade string, inv fabric.Inventory, ports []api.PortCount, at time.Time) {
	counts := map[string]*api.PortCount{}
	for i := range ports {
		counts[ports[i].Port] = &ports[i]
	}
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			name := blade + "/" + p.Name
			count, counted := counts[p.Name]
			if counted {
				r.polls.Traffic(history.Name(capacity.Bandwidth, capacity.PortLevel, name), at, count.Received.Bytes, count.Sent.Bytes)
			}
			active := uint64(0)
			for _, f := range p.VFs {
				count, known := counts[f.Name]
				if !known {
					continue
				}
				counted = true
				packets := count.Received.Packets + count.Sent.Packets
				if was, known := r.last[blade+"/"+f.Name]; known && packets != was {
					active++
				}
				r.last[blade+"/"+f.Name] = packets
			}
			if counted {
				r.polls.Gauge(history.Name(capacity.Slots, capacity.PFLevel, name), at, active)
			}
		}
	}
}

// entries takes what a blade's tables hold, as table shares them among PFs.
func (r *recording) entries(id fabric.BladeID, b *report, at time.Time) {
	blade := capacity.BladeOf(string(id), b.seen.Inventory)
	load{report: b}.onto(&blade, b.seen.Inventory)
	for _, pf := range blade.PFs {
		if pf.Table.Used != nil {
			r.polls.Gauge(history.Name(capacity.Entries, capacity.PFLevel, blade.Name+"/"+pf.Name), at, uint64(*pf.Table.Used))
		}
	}
}

// inSoftware sums the packets that a blade's software answered.
func inSoftware(r *api.Rules) (n uint64) {
	for _, p := range r.Status.Packets {
		if p.Tier == "software" {
			n += p.Packets
		}
	}
	return n
}
