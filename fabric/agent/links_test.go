package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fallback/afpacket"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestLinkReturns removes a representor under a running daemon and makes another of its
// name. Meanwhile the status says that it is away and the other port goes on; afterwards
// frames come and go as before, more than once.
func TestLinkReturns(t *testing.T) {
	for _, mode := range []string{"afpacket", "afxdp"} {
		t.Run(mode, func(t *testing.T) {
			var missing error // this kernel's AF_XDP
			inNamespace(t, func(t *testing.T) {
				f := configuration(t, "  datapath: "+mode+"\n  ports: [{name: nic0/pf0, netdev: rep0}, {name: nic0/pf0/vf0, netdev: rep1}]\n  uplink: nic0/pf0\n")
				rewrite(t, f.Rules[0], cross)
				d, err := Open(f, quiet)
				if err != nil {
					missing = err
					return
				}
				end := running(t, d)
				until(t, d, "the first generation", func(s *Status) bool { return s.Generation == 1 })
				passes(t, "far1", "far0")
				for range 3 {
					l, err := netlink.LinkByName("rep0")
					if err == nil {
						err = netlink.LinkDel(l)
					}
					if err != nil {
						t.Error(err)
						break
					}
					until(t, d, "the link's end", func(s *Status) bool { return !s.Links[0].Open && s.Links[0].Reason != "" && s.Links[1].Open })
					if err := veth("rep0", "far0"); err != nil {
						t.Error(err)
						break
					}
					until(t, d, "the link's return", func(s *Status) bool { return s.Links[0].Open && s.Links[0].Reason == "" })
					passes(t, "far1", "far0")
					passes(t, "far0", "far1")
				}
				if n := d.Agent().Status().EventTotals; n[eventAway] != 3 || n[eventBack] != 3 {
					t.Errorf("after three removals: %v", n)
				}
				end()
			})
			if mode == "afxdp" {
				must.Have(t, "afxdp", missing)
			} else if missing != nil {
				t.Error(missing)
			}
		})
	}
}

// TestLinkQueues gives a daemon a representor of two receive queues. When it comes back with
// one, the status says so, and with two again all is well.
func TestLinkQueues(t *testing.T) {
	var missing error // this kernel's AF_XDP
	inNamespace(t, func(t *testing.T) {
		again := func(queues int) {
			l, err := netlink.LinkByName("rep0")
			if err == nil {
				err = errors.Join(netlink.LinkDel(l), wideVeth("rep0", "far0", queues))
			}
			if err != nil {
				t.Error(err)
			}
		}
		again(2)
		f := configuration(t, "  datapath: afxdp\n  ports: [{name: nic0/pf0, netdev: rep0}, {name: nic0/pf0/vf0, netdev: rep1}]\n  uplink: nic0/pf0\n")
		rewrite(t, f.Rules[0], cross)
		d, err := Open(f, quiet)
		if err != nil {
			missing = err
			return
		}
		end := running(t, d)
		until(t, d, "both links", func(s *Status) bool {
			return s.Generation == 1 && s.Links[0].Open && s.Links[0].Queues == 2 && s.Links[1].Open && s.Links[1].Queues == 1
		})
		passes(t, "far1", "far0")
		passes(t, "far0", "far1")
		again(1)
		until(t, d, "a word on the queues", func(s *Status) bool {
			return !s.Links[0].Open && strings.Contains(s.Links[0].Reason, "over 1 receive queues, and over 2")
		})
		again(2)
		until(t, d, "the first link's return", func(s *Status) bool { return s.Links[0].Open && s.Links[0].Reason == "" })
		passes(t, "far0", "far1")
		end()
	})
	must.Have(t, "afxdp", missing)
}

// TestLinkRenamed has one port's netdev go on under another name, and then another port's
// get the name it had: the flow cache lets go of what is no port's any more.
func TestLinkRenamed(t *testing.T) {
	var missing error // this kernel's AF_XDP
	inNamespace(t, func(t *testing.T) {
		f := configuration(t, "  datapath: afxdp\n  ports: [{name: nic0/pf0, netdev: rep0}, {name: nic0/pf0/vf0, netdev: rep1}]\n  uplink: nic0/pf0\n")
		d, err := Open(f, quiet)
		if err != nil {
			missing = err
			return
		}
		end := running(t, d)
		until(t, d, "both links", func(s *Status) bool { return s.Generation == 1 && s.Links[0].Open && s.Links[1].Open })
		rename := func(from, to string) {
			l, err := netlink.LinkByName(from)
			if err == nil {
				err = errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, to), netlink.LinkSetUp(l))
			}
			if err != nil {
				t.Error(err)
			}
		}
		rename("rep0", "away0")
		until(t, d, "the first link's end, without a program", func(s *Status) bool {
			l, err := netlink.LinkByName("away0")
			return err == nil && !s.Links[0].Open && (l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached)
		})
		rename("rep1", "rep0")
		until(t, d, "the first link on the other's netdev", func(s *Status) bool { return s.Links[0].Open && !s.Links[1].Open })
		end()
	})
	must.Have(t, "afxdp", missing)
}

// cross leads each of two ports to the other.
const cross = `apiVersion: bladeflow/v1
kind: RuleSet
metadata: {name: cross}
spec:
  rules:
    - {name: out, priority: 1, match: {in_port: vf0}, actions: [{output: uplink}]}
    - {name: in, priority: 1, match: {in_port: uplink}, actions: [{output: vf0}]}
`

// until waits for a status.
func until(t *testing.T, d *Daemon, what string, is func(*Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(d.Agent().Status()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s did not happen: links %+v, error %+v", what, d.Agent().Status().Links, d.Agent().Status().Error)
			return
		}
	}
}

// passes sends frames into one far end until one comes out of the other.
func passes(t *testing.T, from, to string) {
	t.Helper()
	ends := map[string]*afpacket.Link{}
	for _, name := range []string{from, to} {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			t.Error(err)
			return
		}
		l, err := afpacket.Open(dev.Index)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		ends[name] = l
	}
	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, bytes.Repeat([]byte(from), 16)...)
	came := make(chan error, 1)
	go func() {
		frames := make([][]byte, 16)
		for {
			n, err := ends[to].Recv(frames)
			if err != nil || n == 0 {
				came <- fmt.Errorf("nothing came from %s to %s: %v", from, to, err)
				return
			}
			for _, f := range frames[:n] {
				if bytes.Equal(f, frame) {
					came <- nil
					return
				}
			}
		}
	}()
	late := time.After(30 * time.Second)
	for {
		if err := ends[from].Send(frame); err != nil {
			t.Errorf("%s: %v", from, err)
		}
		select {
		case err := <-came:
			if err != nil {
				t.Error(err)
			}
			return
		case <-late:
			ends[to].Wake()
			t.Error(<-came)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// empty is a socket on which nothing happens until it is woken.
type empty struct {
	mu     sync.Mutex // guards closed
	closed bool
	woken  chan struct{}
}

func (e *empty) Recv([][]byte) (int, error) {
	<-e.woken
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, os.ErrClosed // its memory may be somebody else's already
	}
	return 0, nil
}
func (e *empty) Wake()                   { ping(e.woken) }
func (e *empty) Send([]byte) error       { return nil }
func (e *empty) Flush() error            { return nil }
func (e *empty) Stats() (r, s, d uint64) { return 1, 2, 3 }
func (e *empty) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// TestSeat takes sockets off and puts them on while somebody receives and somebody sends.
func TestSeat(t *testing.T) {
	s := newSeat()
	stop := make(chan struct{})
	var users sync.WaitGroup
	users.Go(func() {
		for {
			if _, err := s.Recv(nil); err != nil {
				t.Errorf("a socket was closed under its receiver: %v", err)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	users.Go(func() {
		for {
			if err := errors.Join(s.Send(nil), s.Flush()); err != nil && !errors.Is(err, errAway) {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	const rounds = 2000
	var sockets []*empty
	for n := range rounds {
		sockets = append(sockets, &empty{woken: make(chan struct{}, 1)})
		s.put(sockets[n], n+1)
		s.clear()
	}
	if received, sent, dropped := s.Stats(); received != rounds || sent != 2*rounds || dropped != 3*rounds {
		t.Errorf("after %d sockets: %d, %d, %d", rounds, received, sent, dropped)
	}
	close(stop)
	s.Wake()
	users.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for n, e := range sockets {
		if !e.closed {
			t.Fatalf("socket %d of %d was never closed", n, rounds)
		}
	}
}

// TestSpread changes over how many queues a netdev spreads frames, under a link that is open
// and before one is opened: neither is passed over in silence.
func TestSpread(t *testing.T) {
	spread, opened := 2, 0
	k := &links{ports: []PortMap{{Name: "p", Netdev: "lo"}}, log: quiet, detach: func(flow.Port) {}, review: func() {},
		xdp: func(flow.Port) string { return "" }, fail: func(flow.Port) string { return "" }, spread: func(int) int { return spread },
		openAll: func(map[flow.Port]int) (kernel, error) { return nil, nil },
		open: func(flow.Port, int) (all []socket, err error) {
			for range spread {
				all = append(all, &empty{woken: make(chan struct{}, 1)})
			}
			opened++
			return all, nil
		}}
	k.names = func() ([]PortMap, error) { return k.ports, nil }
	if err := k.take(); err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	check := func(now int, open bool) {
		t.Helper()
		spread = now
		k.look()
		if s := k.status()[0]; s.Open != open || open != (s.Reason == "") || s.Queues != 2 {
			t.Errorf("with %d queues: %+v", now, s)
		}
	}
	check(2, true)
	check(4, false)
	check(3, false)
	check(2, true)
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
	k.leave(0, "lo", 0)
	check(3, false)
	check(2, true)
	if len(k.queues()[1]) != 2 {
		t.Errorf("queues: %v", k.queues())
	}
}

// TestDown has the netdev of a port be down and up again: the port is not open meanwhile, with
// the reason and the time, and its socket stays.
func TestDown(t *testing.T) {
	opened := 0
	k := &links{ports: []PortMap{{Name: "p", Netdev: "lo"}}, log: quiet, detach: func(flow.Port) {}, review: func() {},
		xdp: func(flow.Port) string { return "" }, fail: func(flow.Port) string { return "" }, spread: func(int) int { return 0 },
		openAll: func(map[flow.Port]int) (kernel, error) { return nil, nil },
		open: func(flow.Port, int) ([]socket, error) {
			opened++
			return []socket{&empty{woken: make(chan struct{}, 1)}}, nil
		}}
	k.names = func() ([]PortMap, error) { return k.ports, nil }
	if err := k.take(); err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	before := k.status()[0].Since
	for _, down := range []bool{false, true, true, false} {
		if k.listen(0, "lo", down) != down {
			t.Errorf("down %v", down)
		}
		if s := k.status()[0]; s.Open == down || down != (s.Reason == errDown.Error()) || down && !s.Since.After(before) {
			t.Errorf("down %v: %+v", down, s)
		}
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}
