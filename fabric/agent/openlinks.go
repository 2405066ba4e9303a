package agent

import (
	"cmp"
	"errors"
	"os"

	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fallback/afpacket"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// How a daemon opens its ways to packets, as the configuration says: AF_PACKET, or AF_XDP with
// the flow cache in front, and the blade's kernel behind.

// openLinks opens the representors for the software datapath. Where their names come from
// the inventory, it is asked again for those that were removed.
func (d *Daemon) openLinks(ports []PortMap) error {
	d.links = &links{ports: ports, mode: d.file.Datapath, log: d.log, home: netns.None(), names: func() ([]PortMap, error) { return ports, nil },
		xdp: func(flow.Port) string { return "" }, fail: func(flow.Port) string { return "" }, review: func() {}, detach: func(flow.Port) {}, spread: func(int) int { return 0 }}
	if len(d.file.Ports) == 0 {
		d.links.names = func() ([]PortMap, error) {
			inv, err := d.glance()
			if err != nil {
				return nil, err
			}
			return portMaps(inv)
		}
	}
	if d.file.Datapath == "afpacket" {
		if err := d.endCache(); err != nil {
			return err
		}
		d.links.open = func(_ flow.Port, ifindex int) ([]socket, error) {
			if err := flowcache.Free(ifindex); err != nil {
				return nil, err
			}
			l, err := afpacket.Open(ifindex)
			return []socket{l}, err
		}
		d.links.openAll = func(indexes map[flow.Port]int) (kernel, error) { return afpacket.OpenKernel(indexes) }
	} else {
		if err := d.openCache(); err != nil {
			return err
		}
		d.links.openAll = d.passFrames
	}
	d.closers = append(d.closers, d.links.Close)
	return d.links.take()
}

// passFrames opens the way to the blade's kernel: live frames, or taps where this kernel has
// none (before 5.18).
func (d *Daemon) passFrames(indexes map[flow.Port]int) (kernel, error) {
	k, err := afxdp.OpenKernel(indexes)
	if err == nil {
		return k, nil
	}
	taps, missing := afpacket.OpenKernel(indexes)
	if missing != nil {
		return nil, errors.Join(err, missing)
	}
	d.log.Warn("frames are passed to the kernel by tap devices", "error", err)
	return taps, nil
}

// inOnly ends LinkStatus.XDP of a netdev that takes no XDP frames.
const inOnly = " (in only)"

// endCache ends a flow cache that an agent before has pinned where the configuration says:
// it would answer by that agent's table for ever.
func (d *Daemon) endCache() error {
	pins := d.file.Cache.Pins
	if pins == "" {
		return nil
	}
	if _, err := os.Stat(pins); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	k, err := flowcache.Open(flowcache.Config{PinDir: pins, Flows: d.file.Cache.Flows})
	if err != nil {
		return err
	}
	d.log.Info("the pinned flow cache is taken off", "pins", pins)
	return k.Destroy()
}

// openCache opens the flow cache, or adopts what the agent before has pinned, and makes the
// links' sockets those of the cache. A kernel that has no such cache has links all the
// same, if the cache was not to outlive the agent.
func (d *Daemon) openCache() (err error) {
	c := d.file.Cache
	d.cache, err = flowcache.Open(flowcache.Config{PinDir: c.Pins, Flows: c.Flows})
	if err != nil && c.Pins != "" {
		return err
	}
	if err != nil {
		d.log.Warn("every frame goes up to software", "error", err)
		d.links.open = func(_ flow.Port, ifindex int) ([]socket, error) {
			l, err := afxdp.Open(ifindex)
			return []socket{l}, err
		}
		d.links.xdp = func(flow.Port) string { return string(flowcache.Native) }
		return nil
	}
	d.closers = append(d.closers, d.cache.Close)
	d.links.xdp = func(port flow.Port) string {
		mode, _, ok := d.cache.Port(port)
		if ok && !d.cache.Leads(port) {
			return string(mode) + inOnly
		}
		return string(mode)
	}
	d.links.detach = func(port flow.Port) { _ = d.cache.Detach(port) } // an error says that the device is gone
	d.links.spread = afxdp.Queues
	d.links.review = func() {
		if err := d.cache.Review(); err != nil {
			d.log.Warn("flows leave from Go, not from the flow cache", "error", err)
		}
	}
	fail := func(port flow.Port) Fail { return cmp.Or(d.links.ports[port-1].Fail, d.file.Fail) }
	d.links.fail = func(port flow.Port) string {
		if c.Pins == "" { // what decides ends with the agent
			return "kernel"
		}
		return string(fail(port))
	}
	d.links.open = func(port flow.Port, ifindex int) ([]socket, error) {
		p := flowcache.PortConfig{Upcalls: c.Upcalls}
		if fail(port) == "kernel" {
			p.Fail = flowcache.ToKernel
		}
		if err := d.cache.Attach(port, ifindex, p); err != nil {
			return nil, err
		}
		queues, err := afxdp.OpenIn(ifindex, d.cache.Sockets(), func(queue int) uint32 { return flowcache.Place(port, queue) })
		if len(queues) == 1 {
			if err := queues[0].Redirect(func() int { return d.cache.Takes(port) }); err != nil {
				d.log.Warn("frames leave one by one", "error", err)
			}
		}
		var sockets []socket
		for _, l := range queues {
			sockets = append(sockets, l)
		}
		return sockets, err
	}
	return nil
}
