package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// card is one device and what is remembered of it.
type card struct {
	Device
	ledger     *ledger
	left       []flow.Entry  // what we left there; nil before the first look
	installed  []flow.Entry  // as read last
	since      time.Time     // when that was first seen
	usage      usage         // of installed
	span       time.Duration // between the last two readings of its counters
	counted    time.Time     // the last of them
	canary     canary
	peek       peek
	outflow    outflow
	doubt      []flow.Entry // of canaries, that may still be there: their removal got no answer
	found      drift        // in the last round
	moved      bool         // its ports are others since the last plan
	model      device.Model
	planner    offload.Planner
	placements map[flow.RuleID]offload.Placement
	proof      proof
}

// proof is the checker's answer about one dump. The checker is a pure function, so
// the answer holds until the dump or the table changes.
type proof struct {
	table   *flow.Table // nil if there is no answer
	entries []flow.Entry
	err     error
}

func (c *card) read(ctx context.Context, t *flow.Table, now time.Time) error {
	model, err := c.Driver.Model(ctx)
	if err != nil {
		return fmt.Errorf("model: %w", err)
	}
	c.outflow.read(ctx, &c.Device, now)
	installed, err := c.Driver.Installed(ctx)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	counts, err := c.Driver.Counters(ctx)
	if err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	c.outflow.again(ctx, &c.Device)
	if !slices.Equal(model.Ports, c.model.Ports) && c.model.Name != "" {
		c.moved = true
	}
	c.model = model
	c.hold(installed, now)
	c.span, c.counted = now.Sub(c.counted), now
	c.ledger.read(installed, counts, t)
	return nil
}

// hold takes a dump as what the device holds.
func (c *card) hold(installed []flow.Entry, now time.Time) {
	if c.installed == nil || !sameEntries(installed, c.installed) {
		c.usage = usageOf(installed)
		if c.installed == nil || !sameEntries(c.peek.without(installed), c.peek.without(c.installed)) {
			c.since = now
			clear(c.peek.looked)
		}
	}
	c.installed = installed
}

// usage is what of a device's room is taken, and by which kinds of our entries.
type usage struct {
	foreign, guards, masks int
	kinds                  map[device.Mask]bool
}

func usageOf(installed []flow.Entry) (u usage) {
	masks := make(map[device.Mask]bool)
	u.kinds = make(map[device.Mask]bool)
	for i := range installed {
		e := &installed[i]
		mask := device.MaskOf(&e.Match)
		masks[mask] = true
		if !offload.Ours(e.ID) {
			u.foreign++
			continue
		}
		u.kinds[mask] = true
		if e.Punt() {
			u.guards++
		}
	}
	u.masks = len(masks)
	return u
}

// hardware returns what the devices' entries have answered for a rule.
func (a *Agent) hardware(id flow.RuleID) (sum flow.Counter) {
	for _, c := range a.devices {
		sum = plus(sum, c.ledger.rules[id])
	}
	return sum
}
