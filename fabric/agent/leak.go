package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// What leaves by a port and why: the audit of a card that lies.
//
// Problem. A card may list an entry that drops, count its packets as dropped, and forward
// them. No dump shows it, nor does any counter of an entry, and software never sees the
// packets.
//
// Idea. They leave somewhere. A port counts what leaves by it, whoever sent it, and knows
// how much of that software sent ([offload.PortCounter]); the rest must be what entries with
// an output to the port have answered. What left and neither explains is a leak.
//
// Invariant. No look accuses a card that does what it says, whatever traffic there is.
// Counters are read one after another while packets pass, and those of cards are late. So what
// left is read before and after what entries say: of the two readings of a look the later one
// begins what is compared and the earlier one ends it, and where counters may be late, what
// entries say begins and ends as much before and after. What happened in between counts for the
// card. So a leak shows from one look to the next where counters are not late; else as soon as
// more leaked than passed in the time that they are late by, and between two looks.
//
// A change, drift and entries of others end what was counted: the last packets of an entry
// that went are told by nobody.

const (
	leakSpan    = time.Minute // for so long readings are compared
	leakRecords = 32          // and so many at most
	leakPackets = 8           // that nothing explains are a leak; an uplink sends frames of its own now and then
)

// reading is what a card's ports and entries had counted in one look.
type reading struct {
	at             time.Time
	left, software map[flow.Port]uint64 // read at that time
	said           map[flow.Port]uint64 // by entries, read after
	then           map[flow.Port]uint64 // what had left after that
}

// outflow is what is remembered of it.
type outflow struct {
	now  reading   // of this look
	past []reading // the oldest first
}

// read begins a look. A device that does not count its ports, or not now, is not audited.
func (o *outflow) read(ctx context.Context, d *Device, now time.Time) {
	o.now = reading{at: now}
	o.now.left, o.now.software = delivered(ctx, d)
}

// again reads what had left after what entries say was read.
func (o *outflow) again(ctx context.Context, d *Device) {
	if o.now.left == nil {
		return
	}
	if o.now.then, _ = delivered(ctx, d); o.now.then == nil {
		o.now.left = nil
	}
}

// delivered reads what has left by ports that are looked at, and what of that software sent;
// nothing if that cannot be known.
func delivered(ctx context.Context, d *Device) (left, software map[flow.Port]uint64) {
	ports, ok := d.Driver.(offload.PortCounter)
	if !ok {
		return nil, nil
	}
	counts, err := ports.Delivered(ctx)
	if err != nil {
		return nil, nil
	}
	left, software = map[flow.Port]uint64{}, map[flow.Port]uint64{}
	for _, n := range counts {
		if !slices.Contains(d.Unwatched, n.Port) {
			left[n.Port], software[n.Port] = n.All, n.Software
		}
	}
	return left, software
}

// look ends it: said is what entries have sent to each port by now. It returns the port
// with the greatest leak, 0 if there is none.
func (o *outflow) look(said map[flow.Port]uint64, lag time.Duration) (port flow.Port, packets uint64) {
	if o.now.left == nil {
		o.past = nil
		return 0, 0
	}
	o.now.said = maps.Clone(said)
	o.past = append(o.past, o.now)
	first := max(0, len(o.past)-leakRecords)
	for first < len(o.past) && o.now.at.Sub(o.past[first].at) > leakSpan {
		first++
	}
	o.past = slices.Clone(o.past[first:])
	for p := range o.now.left {
		if n := leaked(o.past, p, lag); n > packets {
			port, packets = p, n
		}
	}
	if packets < leakPackets {
		return 0, 0
	}
	return port, packets
}

// leaked returns how many packets have left by a port, at least, that neither software
// nor any entry sent there.
func leaked(all []reading, p flow.Port, lag time.Duration) (most uint64) {
	last := len(all) - 1
	end := last // of what left
	for end >= 0 && all[last].at.Sub(all[end].at) < lag {
		end--
	}
	before := 0 // the last reading early enough before the first of what left
	for begin := 0; begin < end; begin++ {
		for before+1 <= begin && all[begin].at.Sub(all[before+1].at) >= lag {
			before++
		}
		if all[begin].at.Sub(all[before].at) < lag {
			continue
		}
		from, ok := all[begin].then[p]
		to, still := all[end].left[p]
		_, known := all[before].left[p]
		if !ok || !still || !known || from < all[before].left[p] || to < from { // it is another netdev now
			continue
		}
		left := to - from
		explained := all[last].said[p] - all[before].said[p] + all[last].software[p] - all[before].software[p]
		most = max(most, left-min(left, explained))
	}
	return most
}

// lateness is how old a device's counters may be: nobody is accused by ones of which that
// is not known.
func lateness(m *device.Model) time.Duration {
	if m.Evidence["counters"].Tier == device.Unknown {
		return max(m.CounterLag, 10*time.Second)
	}
	return m.CounterLag
}

// leak looks whether a card forwards what no entry says, and trusts it no more if it does.
func (a *Agent) leak(c *card) {
	if c.found.size() > 0 || c.usage.foreign > 0 || c.left == nil || a.limited(c).Barred != nil {
		c.outflow.past = nil
		return
	}
	port, packets := c.outflow.look(c.ledger.sent, lateness(&c.model))
	if port == 0 {
		return
	}
	name := fmt.Sprintf("#%d", port)
	if a.running != nil {
		name = a.running.Ports().Name(port)
	}
	a.distrust(c, fmt.Sprintf("%d packets left by port %s that no entry and no software sent there", packets, name))
}

// distrust keeps for good that a card does not do what its entries say, and has all of them
// taken out.
func (a *Agent) distrust(c *card, text string) {
	c.outflow.past = nil
	a.lessons.Lessons, a.lessons.unsaved, a.steady = a.lessons.Learn(device.Lesson{Card: c.Card, Limit: device.Trust, Value: 1, When: a.Now(), Words: text}), true, false
	a.event(eventLies, c.Name, text+": all entries are taken out, and software answers")
	a.saveLessons()
}
