package softnic

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// Stats is what one port of the card has seen since it was made. Every frame that
// came in by the front is in exactly one of Hits, Misses, Guarded, Odd and Conflicts;
// all but the hits went to software.
type Stats struct {
	Port      flow.Port
	Hits      uint64 // answered by an entry
	Misses    uint64 // no entry matched
	Guarded   uint64 // a guard matched
	Odd       uint64 // the card never answers these: odd packets and later fragments
	Conflicts uint64 // the table was being written
	FromHost  uint64 // frames the host sent by the representor
	Out       uint64 // copies of hits that left by this port
	Full      uint64 // copies to this port dropped by vlan_push, which found two tags
	Lost      uint64 // frames the card could not send on: a fault of the set-up
}

// Stats returns the statistics of every port, in the order the ports were created.
// What a netdev of the card loses after the program has handed it on is in that
// netdev's own counters.
func (n *NIC) Stats() ([]Stats, error) {
	var out []Stats
	for _, p := range n.about.Ports {
		var cpus []xdp.CardPortStats
		if err := n.maps.Stats.Lookup(uint32(p.Port), &cpus); err != nil {
			return nil, fmt.Errorf("statistics of port %d: %w", p.Port, err)
		}
		s := Stats{Port: p.Port}
		for _, c := range cpus {
			s.Hits += c.Hits
			s.Misses += c.Misses
			s.Guarded += c.Guarded
			s.Odd += c.Odd
			s.Conflicts += c.Conflicts
			s.FromHost += c.FromHost
			s.Out += c.Out
			s.Full += c.Full
			s.Lost += c.Lost
		}
		out = append(out, s)
	}
	return out, nil
}

var _ offload.PortCounter = (*NIC)(nil)

// Delivered implements [offload.PortCounter]: what left by each front.
func (n *NIC) Delivered(context.Context) ([]offload.PortCount, error) {
	stats, err := n.Stats()
	if err != nil {
		return nil, err
	}
	var out []offload.PortCount
	for i := range stats {
		out = append(out, offload.PortCount{Port: stats[i].Port, All: stats[i].Out + stats[i].FromHost, Software: stats[i].FromHost})
	}
	return out, nil
}

// Generation returns how often the table has changed since the card was made. An odd
// version, which only a writer that died leaves behind, counts as not changed.
func (n *NIC) Generation() uint64 { return atomic.LoadUint64(&n.mem.Table.Version) / 2 }

// HalfWritten reports whether the table is being written, or its writer has died in the
// middle of a change, which the next to ask anything of the card ends.
func (n *NIC) HalfWritten() bool { return atomic.LoadUint64(&n.mem.Table.Version)&1 == 1 }
