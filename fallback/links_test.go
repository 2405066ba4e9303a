package fallback_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afpacket"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// The tests of this file have the kernel as their oracle: run them with -count=1.

// kind is a way to open a link, with the way to the kernel that goes with it.
type kind struct {
	name    string
	feature string // what BLADEFLOW_MUST calls it
	open    func(ifindex int) (openLink, error)
	kernel  func(reps map[flow.Port]int) (openKernel, error)
}

type openLink interface {
	fallback.Link
	Close() error
}

type openKernel interface {
	fallback.Kernel
	Close() error
}

var kinds = []kind{
	{"afxdp", "afxdp", func(i int) (openLink, error) { return afxdp.Open(i) },
		func(r map[flow.Port]int) (openKernel, error) { return afxdp.OpenKernel(r) }},
	{"afxdp+taps", "afxdp", redirected,
		func(r map[flow.Port]int) (openKernel, error) { return afpacket.OpenKernel(r) }},
	{"afpacket", "veth", func(i int) (openLink, error) { return afpacket.Open(i) },
		func(r map[flow.Port]int) (openKernel, error) { return afpacket.OpenKernel(r) }},
}

// each runs a test for every kind, on a cable whose rep has an open link.
func each(t *testing.T, test func(t *testing.T, k kind, c *cable, l openLink)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			inNamespace(t)
			c := newCable(t, "0")
			l, err := k.open(c.rep)
			must.Have(t, k.feature, err)
			t.Cleanup(func() { l.Close() })
			c.watchKernel(t)
			test(t, k, c, l)
		})
	}
}

// receive waits for n frames of ours and returns copies of them.
func receive(t testing.TB, l fallback.Link, n int) [][]byte {
	t.Helper()
	var got [][]byte
	batch := make([][]byte, 64)
	late := time.AfterFunc(3*time.Second, l.Wake)
	defer late.Stop()
	for len(got) < n {
		m, err := l.Recv(batch)
		if err != nil {
			t.Fatal("receive:", err)
		}
		if m == 0 {
			t.Fatalf("received %d frames of %d", len(got), n)
		}
		for _, f := range batch[:m] {
			if ours(f) {
				got = append(got, bytes.Clone(f))
			}
		}
	}
	return got
}

// checkSet is checkFrames where the order is unknown: recorders have a buffer per CPU.
func checkSet(t testing.TB, what string, got, want [][]byte) {
	t.Helper()
	checkFrames(t, what, slices.SortedFunc(slices.Values(got), bytes.Compare), slices.SortedFunc(slices.Values(want), bytes.Compare))
}

func checkFrames(t testing.TB, what string, got, want [][]byte) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Fatalf("%s: %d frames, want %d", what, len(got), len(want))
		case i >= len(want):
			t.Fatalf("%s: %d frames, want %d; the first too many is %x", what, len(got), len(want), got[i])
		case !bytes.Equal(got[i], want[i]):
			t.Fatalf("%s: frame %d:\n got %x\nwant %x", what, i, got[i], want[i])
		}
	}
}

// shapes are frames of all lengths up to the MTU with no to three tags.
func shapes() [][]byte {
	var frames [][]byte
	for tags := range 4 {
		shortest := 14 + 4*tags
		if tags > 0 {
			shortest += 2 // shorter ones the kernel drops before a tap sees them
		}
		for length := shortest; length <= 1514; length += 1 + length/7 {
			frames = append(frames, testFrame(length, tags, len(frames)))
		}
		frames = append(frames, testFrame(1514, tags, len(frames)))
	}
	return frames
}

// TestBytes sends frames of every shape both ways, byte for byte, once, in order;
// the kernel sees none of them.
func TestBytes(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		want := shapes()
		c.send(t, want...)
		checkFrames(t, "received", receive(t, l, len(want)), want)
		for _, f := range want {
			if err := l.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		checkSet(t, "sent", c.wire.frames(t, len(want)), want)
		checkFrames(t, "the kernel", c.kernel.frames(t, 0), nil)
		received, sent, dropped := l.Stats()
		if n := uint64(len(want)); received < n || sent != n || dropped != 0 {
			t.Errorf("stats: received %d, sent %d, dropped %d of %d", received, sent, dropped, n)
		}
	})
}

// TestBurst lets 2,000 frames wait for a receiver that is late.
func TestBurst(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		var want [][]byte
		for i := range 2000 {
			want = append(want, testFrame(64, i%3, i))
		}
		for batch := range slices.Chunk(want, 50) {
			c.send(t, batch...)
			time.Sleep(200 * time.Microsecond) // 250,000 a second at most
		}
		checkFrames(t, "received", receive(t, l, len(want)), want)
		checkFrames(t, "the kernel", c.kernel.frames(t, 0), nil)
		if _, _, dropped := l.Stats(); dropped != 0 {
			t.Errorf("%d frames dropped", dropped)
		}
	})
}

// TestOverflow sends more than fits: what is missing is counted.
func TestOverflow(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		const n = 6000
		for i := range n {
			c.send(t, testFrame(64, 0, i))
		}
		time.Sleep(20 * time.Millisecond)
		got := 0
		batch := make([][]byte, 64)
		for {
			time.AfterFunc(50*time.Millisecond, l.Wake)
			m, err := l.Recv(batch)
			if err != nil {
				t.Fatal(err)
			}
			if m == 0 {
				break
			}
			got += m
		}
		if _, _, dropped := l.Stats(); got+int(dropped) < n || dropped == 0 {
			t.Errorf("received %d and dropped %d of %d", got, dropped, n)
		}
	})
}

// TestPass hands frames to the kernel, which gets each once; the link and the
// workload get none.
func TestPass(t *testing.T) {
	each(t, func(t *testing.T, k kind, c *cable, l openLink) {
		kernel, err := k.kernel(map[flow.Port]int{7: c.rep})
		must.Have(t, k.feature, err)
		defer kernel.Close()
		want := shapes()
		for _, f := range want {
			if err := kernel.Deliver(7, f); err != nil {
				t.Fatal(err)
			}
		}
		checkSet(t, "the kernel", c.kernel.frames(t, len(want)), want)
		checkFrames(t, "the workload", c.wire.frames(t, 0), nil)
		c.send(t, testFrame(60, 1, 1)) // had the link got any, they would come first
		checkFrames(t, "the link", receive(t, l, 1), [][]byte{testFrame(60, 1, 1)})
		if err := kernel.Deliver(8, want[0]); err == nil {
			t.Error("delivered on a port without a representor")
		}
	})
}

// TestAlone closes the link: the kernel has its device back.
func TestAlone(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		c.send(t, testFrame(60, 0, 1))
		receive(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal("close:", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal("close again:", err)
		}
		c.send(t, testFrame(60, 0, 2))
		checkFrames(t, "the kernel", c.kernel.frames(t, 1), [][]byte{testFrame(60, 0, 2)})
		if l.Send(testFrame(60, 0, 3)) == nil {
			t.Error("a closed link sends")
		}
	})
}

// TestAgain opens what was closed: nothing keeps the queue busy.
func TestAgain(t *testing.T) {
	each(t, func(t *testing.T, k kind, c *cable, l openLink) {
		for range 5 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if l, err = k.open(c.rep); err != nil {
				t.Fatal(err)
			}
			c.send(t, testFrame(60, 0, 1))
			receive(t, l, 1)
		}
		l.Close()
	})
}

// TestIdle waits without using the CPU, and until it is woken.
func TestIdle(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		batch := make([][]byte, 8)
		for range 3 {
			start, used := time.Now(), cpuTime(t)
			time.AfterFunc(100*time.Millisecond, l.Wake)
			for {
				n, err := l.Recv(batch)
				if err != nil {
					t.Fatalf("woken: %d, %v", n, err)
				}
				if n == 0 {
					break
				}
			}
			if wait := time.Since(start); wait < 90*time.Millisecond {
				t.Errorf("woke after %v", wait)
			}
			if used := cpuTime(t) - used; used > 20*time.Millisecond {
				t.Errorf("waiting took %v of CPU time", used)
			}
		}
		l.Wake() // before anybody waits
		if n, err := l.Recv(batch); n != 0 || err != nil {
			t.Errorf("woken early: %d, %v", n, err)
		}
	})
}

// cpuTime is what this process has used so far.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// TestUnplugged takes the device away: receiving is quiet, sending fails, closing works.
func TestUnplugged(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		dev, err := netlink.LinkByIndex(c.rep)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(dev); err != nil {
			t.Fatal(err)
		}
		if errors.Join(l.Send(testFrame(60, 0, 1)), l.Flush()) == nil {
			t.Error("a device that is gone sends")
		}
		time.AfterFunc(20*time.Millisecond, l.Wake)
		if n, err := l.Recv(make([][]byte, 8)); n != 0 || err != nil {
			t.Errorf("received %d, %v", n, err)
		}
	})
}

// TestDown takes the device down and up again, which is no reason to give up.
func TestDown(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		dev, err := netlink.LinkByIndex(c.rep)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan [][]byte)
		go func() { got <- receive(t, l, 1) }()
		time.Sleep(10 * time.Millisecond)
		if err := netlink.LinkSetDown(dev); err != nil {
			t.Fatal(err)
		}
		l.Send(testFrame(60, 0, 8)) // may fail, must not hang
		l.Flush()
		if err := netlink.LinkSetUp(dev); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		c.send(t, testFrame(60, 0, 9))
		checkFrames(t, "after up", <-got, [][]byte{testFrame(60, 0, 9)})
	})
}

// TestSenders sends on one link from several goroutines at once, in rounds of what a veth
// holds: 256 frames.
func TestSenders(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		const rounds, senders, frames = 16, 4, 32
		for round := range rounds {
			failed := make(chan error, senders)
			var want [][]byte
			for s := range senders {
				var mine [][]byte
				for i := range frames {
					mine = append(mine, testFrame(64, 0, (round*senders+s)*frames+i))
				}
				want = append(want, mine...)
				go func() {
					for _, f := range mine {
						if err := l.Send(f); err != nil {
							failed <- err
							return
						}
					}
					failed <- l.Flush()
				}()
			}
			for range senders {
				if err := <-failed; err != nil {
					t.Error(err)
				}
			}
			checkSet(t, "sent", c.wire.frames(t, len(want)), want)
		}
	})
}

// TestLinkAllocations pins that receiving and sending allocate nothing.
func TestLinkAllocations(t *testing.T) {
	each(t, func(t *testing.T, _ kind, c *cable, l openLink) {
		var frames [][]byte
		for i := range 6 {
			frames = append(frames, testFrame(64, i%2, i))
		}
		batch := make([][]byte, 8)
		if n := testing.AllocsPerRun(200, func() {
			for _, f := range frames {
				unix.Send(c.socket, f, 0)
			}
			n, err := l.Recv(batch)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range batch[:n] {
				if err := l.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// TestDatapathOnVeth is the whole path on real devices: random tables and frames
// through two links and the kernel, against flow.Judge.
func TestDatapathOnVeth(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			inNamespace(t)
			cables := map[flow.Port]*cable{1: newCable(t, "a"), 2: newCable(t, "b")}
			config := fallback.Config{Links: map[flow.Port]fallback.Link{}}
			reps := map[flow.Port]int{}
			for port, c := range cables {
				l, err := k.open(c.rep)
				must.Have(t, k.feature, err)
				t.Cleanup(func() { l.Close() })
				config.Links[port] = l
				reps[port] = c.rep
			}
			kernel, err := k.kernel(reps)
			must.Have(t, k.feature, err)
			t.Cleanup(func() { kernel.Close() })
			config.Kernel = kernel
			for _, c := range cables {
				c.watchKernel(t)
			}
			d := run(t, config)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 40 {
				tab := randomTable(rng, []flow.Port{1, 2})
				swap(t, d, tab)
				in := flow.Port(1 + i%2)
				var want []flow.Emission
				for n := range 10 {
					f := testFrame(64+rng.IntN(500), rng.IntN(4), 10*i+n)
					f[5] = byte(rng.IntN(4)) // a station, or nobody
					for _, e := range flow.Judge(tab, f, in) {
						if e.Kernel || cables[e.Port] != nil {
							want = append(want, e)
						}
					}
					cables[in].send(t, f)
				}
				var got []flow.Emission
				for port, c := range cables {
					add := func(r *recorder, kernel bool) {
						n := 0
						for _, e := range want {
							if e.Port == port && e.Kernel == kernel {
								n++
							}
						}
						for _, f := range r.frames(t, n) {
							got = append(got, flow.Emission{Port: port, Kernel: kernel, Bytes: f})
						}
					}
					add(c.wire, false)
					add(c.kernel, true)
				}
				if !flow.SameEmissions(got, want) {
					t.Fatalf("table %d: got%s\nwant%s", i, show(got), show(want))
				}
			}
			if s := d.Stats(); s.Failed != 0 {
				t.Errorf("failures: %+v", s)
			}
		})
	}
}
