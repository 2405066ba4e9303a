package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/lab/internal/ethtool"
	"github.com/bladeflow/bladeflow/hwtests/netns"
)

// Drops are the frames that netdevs and cards of a lab have lost since it is up, by
// `namespace netdev counter`; counters at zero are not there. A run of traffic
// counts only if none grew.
//
// What a program decided to drop is not lost and not counted. Losses of sockets
// (AF_XDP, AF_PACKET) are known to whoever has the socket.
type Drops map[string]uint64

// Since returns what was lost after an earlier reading.
func (d Drops) Since(before Drops) Drops {
	grown := Drops{}
	for name, n := range d {
		if n > before[name] {
			grown[name] = n - before[name]
		}
	}
	return grown
}

// Total returns the sum of all counters.
func (d Drops) Total() (n uint64) {
	for _, v := range d {
		n += v
	}
	return n
}

// In returns how many frames that came by a netdev were lost there, or by the socket that
// a program of the netdev gave them to.
func (d Drops) In(at Netdev) (n uint64) {
	for name, v := range d {
		if strings.HasPrefix(name, at.String()+" rx_queue_") {
			n += v
		}
	}
	return n
}

// String lists the counters, one a line.
func (d Drops) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(d)) {
		fmt.Fprintf(&b, "%s: %d\n", name, d[name])
	}
	return b.String()
}

// Drops reads all counters. Cost: about 0.1 ms per netdev.
func (l *Lab) Drops() (Drops, error) {
	d := Drops{}
	for _, ns := range l.spaces {
		if err := d.read(ns); err != nil {
			return nil, fmt.Errorf("drop counters of %s: %w", ns.Name, err)
		}
	}
	for _, b := range l.Blades {
		if b.Hardware == nil {
			continue
		}
		lost, err := b.Hardware.Lost()
		if err != nil {
			return nil, fmt.Errorf("drop counters of the card of %s: %w", b.Name, err)
		}
		for port, n := range lost {
			d.add(b.Card.Name, b.At(port).Name, "lost", n)
		}
	}
	return d, nil
}

func (d Drops) add(namespace, netdev, counter string, n uint64) {
	if n > 0 {
		d[namespace+" "+netdev+" "+counter] = n
	}
}

// read reads the counters of a namespace's veths.
//
// Of veth's own counters, rx_queue_N_drops are frames it had no memory for or could
// not redirect, the two _errors are frames that found the next ring full. (Its
// xdp_drops are frames that a program dropped by intent, and the netdev's
// rx_dropped also has frames of protocols that the kernel does not speak.)
// tx_dropped are frames of the kernel and of sockets that found the ring full.
func (d Drops) read(ns *netns.NS) error {
	links, err := ns.Links().LinkList()
	if err != nil {
		return err
	}
	return ns.Do(func() (err error) {
		s, err := ethtool.Open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		for _, l := range links {
			if l.Type() != "veth" {
				continue
			}
			name := l.Attrs().Name
			d.add(ns.Name, name, "tx_dropped", l.Attrs().Statistics.TxDropped)
			stats, err := s.Stats(name)
			if err != nil {
				return err
			}
			for counter, n := range stats {
				if strings.HasSuffix(counter, "_errors") || strings.HasSuffix(counter, "_drops") && !strings.HasSuffix(counter, "_xdp_drops") {
					d.add(ns.Name, name, counter, n)
				}
			}
		}
		return nil
	})
}

// Redirected returns how many frames that came by a veth of the lab a program has handed
// on, to another netdev or to a socket, since it is up. What found no room is not in it.
func (d Netdev) Redirected() (n uint64, err error) {
	err = d.NS.Do(func() error {
		s, err := ethtool.Open()
		if err != nil {
			return err
		}
		stats, err := s.Stats(d.Name)
		for counter, v := range stats {
			if strings.HasPrefix(counter, "rx_queue_") && strings.HasSuffix(counter, "_xdp_redirect") {
				n += v
			}
		}
		return errors.Join(err, s.Close())
	})
	return n, err
}

// Settle returns once no observer has seen a frame for as long as quiet, or when
// ctx ends.
func (l *Lab) Settle(ctx context.Context, quiet time.Duration) error {
	step := max(quiet/10, time.Millisecond)
	seen, since := l.frames(), time.Now()
	for time.Since(since) < quiet {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
		if now := l.frames(); now != seen {
			seen, since = now, time.Now()
		}
	}
	return nil
}

// frames counts the frames that all observers have seen.
func (l *Lab) frames() (n uint64) {
	for _, o := range l.observers {
		t := o.Totals()
		n += t.Recorded + t.Foreign + t.Beyond
	}
	return n
}
