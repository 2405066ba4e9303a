package tcflower

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/offload"
)

// What a representor counts. In its own counters drivers show those of the port that it
// stands for, seen from the other side: what it sent is what the port received, by
// whomever. What of that went through the host's CPUs they tell apart, as "CPU hits".
// The rest is what the card delivered by itself, and only entries make it do so. In kernel
// 6.12 mlx5_core, ice and nfp have both, by their sources. A driver without CPU hits leaves
// no way to tell, and its ports are left out.

// Numbers of linux/if_link.h.
const (
	statsLink64    = 1
	statsOffload   = 4
	statsCPUHit    = 1
	statsMsgSize   = 12
	sentPackets    = 8 // offset in struct rtnl_link_stats64
	statsFilterFor = 1<<(statsLink64-1) | 1<<(statsOffload-1)
)

// Delivered implements [offload.PortCounter].
func (d *Driver) Delivered(ctx context.Context) ([]offload.PortCount, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look()
	var ms []message
	for _, p := range d.site.ports {
		body := native.AppendUint32(make([]byte, 4, statsMsgSize), p.Device)
		ms = append(ms, message{kind: unix.RTM_GETSTATS, body: native.AppendUint32(body, statsFilterFor)})
	}
	as, err := d.line.ask(ctx, ms)
	if err != nil {
		return nil, fmt.Errorf("counters of ports: %w", err)
	}
	var out []offload.PortCount
	for i, a := range as {
		n := offload.PortCount{Port: d.site.ports[i].Port}
		var ok bool
		if n.All, n.Software, ok = sent(a.body); ok {
			out = append(out, n)
		}
	}
	return out, nil
}

// sent reads how many packets a netdev sent in all, and how many of them the CPU did.
func sent(body []byte) (all, cpu uint64, ok bool) {
	if len(body) < statsMsgSize {
		return 0, 0, false
	}
	found := 0
	read := func(b []byte, to *uint64) {
		if len(b) >= sentPackets+8 {
			*to = native.Uint64(b[sentPackets:])
			found++
		}
	}
	err := eachAttribute(body[statsMsgSize:], func(a Attribute) error {
		switch a.Kind {
		case statsLink64:
			read(a.Data, &all)
		case statsOffload:
			return eachAttribute(a.Data, func(a Attribute) error {
				if a.Kind == statsCPUHit {
					read(a.Data, &cpu)
				}
				return nil
			})
		}
		return nil
	})
	return all, cpu, err == nil && found == 2
}
