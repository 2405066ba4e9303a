package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/netns"
)

// delay is how long round trips through one path took.
type delay struct {
	path *path
	p50  []float64 // µs, one for each repetition
	p99  []float64
	sent int
	lost int
}

// lateAfter is how long a reply is waited for.
const lateAfter = 200 * time.Millisecond

// pingBytes is the payload of a ping: its number first.
const pingBytes = 22

// latency measures the time of round trips of UDP between sockets at both ends: two ways
// through the path, and everything on one CPU.
func (b *bench) latency(ctx context.Context, p *path) (err error) {
	s, err := newStand(b.traffic.flows[:1], p.routed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := p.lay(s, b.traffic); err != nil {
		return err
	}
	client, err := s.endpoint(s.sender, senderDev, senderIP, sinkIP, sinkMAC)
	if err != nil {
		return err
	}
	server, err := s.endpoint(s.sink, sinkDev, sinkIP, senderIP, senderMAC)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		echo(server)
	}()
	defer func() {
		unix.Shutdown(server, unix.SHUT_RD) // ends echo
		<-ended
	}()
	trips, lost, err := ping(ctx, client, b.RoundTrips)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(b.delays, func(d *delay) bool { return d.path.name == p.name })
	if i < 0 {
		i = len(b.delays)
		b.delays = append(b.delays, &delay{path: p})
	}
	slices.Sort(trips)
	at := func(share float64) float64 {
		return float64(trips[int(share*float64(len(trips)-1))].Nanoseconds()) / 1000
	}
	d := b.delays[i]
	d.p50, d.p99 = append(d.p50, at(0.5)), append(d.p99, at(0.99))
	d.sent += len(trips) + lost
	d.lost += lost
	return nil
}

// endpoint gives a netdev an address, makes the other end known, and returns a socket
// that is connected to it. It sends no checksum: a veth would leave it half done, and XDP
// hand it on like that.
func (s *stand) endpoint(ns *netns.NS, netdev string, own, peer net.IP, peerMAC net.HardwareAddr) (fd int, err error) {
	const port = 7777
	links := ns.Links()
	dev, err := links.LinkByName(netdev)
	if err != nil {
		return -1, err
	}
	err = errors.Join(links.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: own, Mask: net.CIDRMask(24, 32)}}),
		links.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: peer, HardwareAddr: peerMAC}))
	if err != nil {
		return -1, fmt.Errorf("%s: address and neighbour: %w", netdev, err)
	}
	err = ns.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		s.onClose(func() error { return unix.Close(fd) })
		late := unix.NsecToTimeval(int64(lateAfter))
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &late),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(own), Port: port}),
			unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(peer), Port: port}))
	})
	if err != nil {
		return -1, fmt.Errorf("%s: socket: %w", netdev, err)
	}
	return fd, nil
}

// echo sends back what comes, until the socket is shut down.
func echo(fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b := make([]byte, pingBytes)
	for {
		switch n, err := unix.Read(fd, b); {
		case err == unix.EINTR || err == unix.EAGAIN:
		case n <= 0:
			return
		default:
			unix.Write(fd, b[:n]) // what does not leave is lost, and is counted there
		}
	}
}

// ping sends numbered packets, each when the one before has come back or is lost, and
// returns how long those took that came back. A tenth more warms up.
func ping(ctx context.Context, fd, trips int) (took []time.Duration, lost int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, in := make([]byte, pingBytes), make([]byte, pingBytes)
	took = make([]time.Duration, 0, trips)
	for i := -max(100, trips/10); i < trips && ctx.Err() == nil; i++ {
		binary.NativeEndian.PutUint64(out, uint64(i))
		start := time.Now()
		if err := again(func() error { _, err := unix.Write(fd, out); return err }); err != nil {
			return nil, 0, fmt.Errorf("ping: %w", err)
		}
		for {
			err := again(func() error { _, err := unix.Read(fd, in); return err })
			if err == unix.EAGAIN {
				if i >= 0 {
					lost++
				}
				break
			}
			if err != nil {
				return nil, 0, fmt.Errorf("ping: %w", err)
			}
			if binary.NativeEndian.Uint64(in) == uint64(i) { // not one that was given up
				if i >= 0 {
					took = append(took, time.Since(start))
				}
				break
			}
		}
		if lost > 100 {
			return nil, 0, fmt.Errorf("ping: %d of %d are lost", lost, i+1)
		}
	}
	if len(took) == 0 {
		return nil, 0, errors.Join(ctx.Err(), errors.New("ping: nothing came back"))
	}
	return took, lost, ctx.Err()
}

// again calls f until no signal interrupts it.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
