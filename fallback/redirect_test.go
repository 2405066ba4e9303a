package fallback_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// The tests of this file have the kernel as their oracle: run them with -count=1.

// redirectedLink is a link by which frames leave many at a time as long as its device is there.
type redirectedLink struct {
	*afxdp.Link
	socket int // that asks for the device
}

func redirected(i int) (openLink, error) {
	dev, err := net.InterfaceByIndex(i)
	if err != nil {
		return nil, err
	}
	l, err := afxdp.Open(i)
	if err != nil {
		return nil, err
	}
	r := &redirectedLink{Link: l, socket: -1}
	if r.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	name, err := unix.NewIfreq(dev.Name)
	if err == nil {
		err = l.Redirect(func() int {
			if unix.IoctlIfreq(r.socket, unix.SIOCGIFINDEX, name) != nil {
				return 0
			}
			return 1514
		})
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (l *redirectedLink) Close() error {
	err := l.Link.Close()
	if l.socket >= 0 {
		unix.Close(l.socket)
		l.socket = -1
	}
	return err
}

// TestRedirect sends random numbers of frames of random lengths between flushes, some many at
// a time and some one by one: all come, and in order as far as one CPU receives them.
func TestRedirect(t *testing.T) {
	inNamespace(t)
	c := newCable(t, "0")
	l, err := redirected(c.rep)
	must.Have(t, "afxdp", err)
	t.Cleanup(func() { l.Close() })
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	longest := []int{80, 400, 1514}
	sent := 0
	for range 60 {
		var want [][]byte
		limit := longest[rng.IntN(len(longest))]
		for range 1 + rng.IntN(40) {
			f := testFrame(60+rng.IntN(limit-59), rng.IntN(3), sent)
			if err := l.Send(f); err != nil {
				t.Fatal(err)
			}
			want = append(want, f)
			sent++
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		got, cpus := c.wire.records(t, len(want))
		last := map[int]uint64{}
		for i, f := range got {
			number := binary.BigEndian.Uint64(f[len(f)-8:])
			if n, some := last[cpus[i]]; some && n > number {
				t.Fatalf("frame %d came after frame %d", number, n)
			}
			last[cpus[i]] = number
		}
		checkSet(t, "sent", got, want)
	}
	if _, n, dropped := l.Stats(); n != uint64(sent) || dropped != 0 {
		t.Errorf("sent %d and dropped %d of %d", n, dropped, sent)
	}
}

// TestRedirectRefused sends by a veth whose other end takes no XDP frames any more: what is
// redirected all the same is counted as lost, and what is sent otherwise comes.
func TestRedirectRefused(t *testing.T) {
	inNamespace(t)
	c := newCable(t, "0")
	l, err := afxdp.Open(c.rep)
	must.Have(t, "afxdp", err)
	t.Cleanup(func() { l.Close() })
	takes := 1514
	must.Have(t, "afxdp", l.Redirect(func() int { return takes }))
	const each = 5
	send := func(what string, sent, dropped uint64) {
		t.Helper()
		for i := range each {
			if err := l.Send(testFrame(60, 0, i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, s, d := l.Stats(); s != sent || d != dropped {
			t.Errorf("%s: sent %d, dropped %d, want %d and %d", what, s, d, sent, dropped)
		}
	}
	send("redirected", each, 0)
	c.wire.frames(t, each)
	if err := c.sink.Close(); err != nil { // the end's program, and with it its NAPI
		t.Fatal(err)
	}
	send("refused", each, each)
	takes = 0
	send("by the socket", 2*each, each)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, s, d := l.Stats(); s != 2*each || d != each {
		t.Errorf("closed: sent %d, dropped %d", s, d)
	}
}

// TestRedirectCounted asks again and again what has left while frames leave: no number
// decreases, and in the end all are counted.
func TestRedirectCounted(t *testing.T) {
	inNamespace(t)
	c := newCable(t, "0")
	l, err := redirected(c.rep)
	must.Have(t, "afxdp", err)
	t.Cleanup(func() { l.Close() })
	const bundles, each = 300, 7
	ended := make(chan error)
	go func() {
		ended <- func() error {
			for range bundles {
				for i := range each {
					if err := l.Send(testFrame(60, 0, i)); err != nil {
						return err
					}
				}
				if err := l.Flush(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	var sent, dropped uint64
	for asking := true; asking; {
		select {
		case err := <-ended:
			if asking = false; err != nil {
				t.Fatal(err)
			}
		default:
		}
		_, s, d := l.Stats()
		if s < sent || d < dropped || s+d > bundles*each {
			t.Fatalf("sent %d and dropped %d after %d and %d", s, d, sent, dropped)
		}
		sent, dropped = s, d
	}
	if sent+dropped != bundles*each {
		t.Errorf("sent %d and dropped %d of %d", sent, dropped, bundles*each)
	}
}

// TestRedirectGone takes the tap away: what was to leave by it fails, and what comes after
// leaves by the socket.
func TestRedirectGone(t *testing.T) {
	inNamespace(t)
	c := newCable(t, "0")
	l, err := afxdp.Open(c.rep)
	must.Have(t, "afxdp", err)
	t.Cleanup(func() { l.Close() })
	must.Have(t, "afxdp", l.Redirect(func() int { return 1514 }))
	tap, err := netlink.LinkByName(fmt.Sprint("bf-out", c.rep))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(tap); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for i := range 5 {
		frames = append(frames, testFrame(60, 0, i))
	}
	send := func() error {
		for _, f := range frames {
			if err := l.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		return l.Flush()
	}
	if err := send(); err == nil {
		t.Error("a tap that is gone takes frames")
	}
	if err := send(); err != nil {
		t.Error(err)
	}
	checkSet(t, "sent", c.wire.frames(t, len(frames)), frames)
	if _, sent, dropped := l.Stats(); sent != 5 || dropped != 5 {
		t.Errorf("sent %d and dropped %d of 5 and 5", sent, dropped)
	}
}
