package observe

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pair returns a namespace with the veth pair a–b, up.
func pair(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New(fmt.Sprintf("bfobserve%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-")))
	must.Have(t, "veth", err)
	t.Cleanup(func() { ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	for _, name := range []string{"a", "b"} {
		l, err := ns.Links().LinkByName(name)
		if err == nil {
			err = ns.Links().LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

// send sends frames under sequence numbers 0, 1, … from a to b.
func send(t *testing.T, ns *netns.NS, frames ...[]byte) {
	t.Helper()
	s, err := traffic.Open(ns, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(frames...), Count: len(frames), Rate: 100_000})
	if err != nil || r.Sent != len(frames) {
		t.Fatalf("sent %+v of %d: %v", r, len(frames), err)
	}
}

// settle waits until the observer has seen n frames.
func settle(t *testing.T, o *Observer, n uint64) {
	t.Helper()
	for range 2000 {
		if s := o.Totals(); s.Recorded+s.Foreign+s.Beyond >= n {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%s: saw %+v of %d frames", o.Name, o.Totals(), n)
}

// ethernet returns n bytes of a frame to nobody in particular.
func ethernet(rng *rand.Rand, n int) []byte {
	f := make([]byte, n)
	for i := range f {
		f[i] = byte(rng.Uint32())
	}
	copy(f, []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5}) // local experimental type
	return f
}

// kinds runs f with each kind of observer.
func kinds(t *testing.T, f func(t *testing.T, ns *netns.NS, attach func(Config) *Observer)) {
	for _, k := range []struct {
		name   string
		attach func(*netns.NS, string, Config) (*Observer, error)
	}{{"xdp", AtXDP}, {"tcx", AtTCX}} {
		t.Run(k.name, func(t *testing.T) {
			ns := pair(t)
			f(t, ns, func(c Config) *Observer {
				o, err := k.attach(ns, "b", c)
				must.Have(t, "xdp", err)
				t.Cleanup(func() {
					if err := o.Close(); err != nil {
						t.Error(err)
					}
				})
				return o
			})
		})
	}
}

// TestCells sends frames of every length and checks each cell and each whole frame.
func TestCells(t *testing.T) {
	kinds(t, func(t *testing.T, ns *netns.NS, attach func(Config) *Observer) {
		rng := rand.New(rand.NewPCG(1, 2))
		var frames [][]byte
		for n := 14 + traffic.Trailer; n <= 1514; n++ {
			frames = append(frames, ethernet(rng, n))
		}
		o := attach(Config{Sequences: len(frames), Keep: len(frames)})
		before := time.Now()
		send(t, ns, frames...)
		settle(t, o, uint64(len(frames)))
		if got, want := o.Totals(), (Totals{Recorded: uint64(len(frames))}); got != want {
			t.Errorf("totals %+v, want %+v", got, want)
		}
		kept := o.Frames()
		if len(kept) != len(frames) {
			t.Fatalf("%d frames kept, want %d", len(kept), len(frames))
		}
		for i, f := range frames {
			traffic.Stamp(f, uint64(i))
			c := o.Cell(uint64(i))
			if !c.Same(Expect(f)) {
				t.Fatalf("%d bytes: cell %+v, want %+v", len(f), c, Expect(f))
			}
			if c.First == 0 || c.First != c.Last || time.Duration(c.Last-c.First) > time.Since(before) {
				t.Errorf("%d bytes: came at %d and %d", len(f), c.First, c.Last)
			}
			if kept[i].Sequence != uint64(i) || !bytes.Equal(kept[i].Bytes, f) || kept[i].Time != c.First {
				t.Fatalf("frame %d kept as %d\n%s", i, kept[i].Sequence, cmp.Diff(f, kept[i].Bytes))
			}
		}
		o.Reset()
		if got := o.Totals(); got != (Totals{}) || len(o.Frames()) != 0 || o.Cell(3) != (Cell{}) {
			t.Errorf("after Reset: %+v", got)
		}
	})
}

// TestTags checks that frames are recorded with the tags they had on the wire, which
// the kernel takes away before TCX.
func TestTags(t *testing.T) {
	kinds(t, func(t *testing.T, ns *netns.NS, attach func(Config) *Observer) {
		plain := ethernet(rand.New(rand.NewPCG(3, 4)), 80)
		tag := func(f []byte, tags ...byte) []byte { return append(append(bytes.Clone(f[:12]), tags...), f[12:]...) }
		frames := [][]byte{
			tag(plain, 0x81, 0x00, 0x60, 0x0a),
			tag(plain, 0x88, 0xa8, 0xef, 0xff),
			tag(plain, 0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x20, 0x08),
			tag(plain, 0x81, 0x00, 0x00, 0x00),
		}
		o := attach(Config{Sequences: len(frames), Keep: len(frames)})
		send(t, ns, frames...)
		settle(t, o, uint64(len(frames)))
		for i, f := range frames {
			traffic.Stamp(f, uint64(i))
			if c := o.Cell(uint64(i)); !c.Same(Expect(f)) {
				t.Errorf("frame %d: cell %+v, want %+v", i, c, Expect(f))
			}
		}
		for i, k := range o.Frames() {
			if d := cmp.Diff(frames[i], k.Bytes); d != "" {
				t.Errorf("frame %d: %s", i, d)
			}
		}
	})
}

// TestCopies sends the same sequence number several times, with the same bytes and
// with others: sums tell all cases apart.
func TestCopies(t *testing.T) {
	ns := pair(t)
	o, err := AtXDP(ns, "b", Config{Sequences: 1})
	must.Have(t, "xdp", err)
	defer o.Close()
	rng := rand.New(rand.NewPCG(5, 6))
	right, wrong := ethernet(rng, 100), ethernet(rng, 100)
	traffic.Stamp(right, 0)
	traffic.Stamp(wrong, 0)
	flipped := bytes.Clone(right)
	flipped[50] ^= 0x10
	for _, came := range [][][]byte{{right}, {right, right}, {right, wrong}, {wrong, right}, {flipped}, {right, right, right}} {
		o.Reset()
		for _, f := range came {
			send(t, ns, f)
		}
		settle(t, o, uint64(len(came)))
		for _, want := range [][][]byte{{right}, {right, right}, {right, wrong}, {flipped}, {right, right, right}, {}} {
			sum := func(fs [][]byte) (n int) {
				for _, f := range fs {
					for _, b := range f[:70] {
						n = n*31 + int(b)
					}
				}
				return n
			}
			same := len(came) == len(want) && sum(sorted(came)) == sum(sorted(want))
			if got := o.Cell(0).Same(Expect(want...)); got != same {
				t.Errorf("%d frames came, %d expected: Same = %v, want %v", len(came), len(want), got, same)
			}
		}
	}
}

func sorted(fs [][]byte) [][]byte { return slices.SortedFunc(slices.Values(fs), bytes.Compare) }

// TestForeign checks that frames without a stamp, and with one too large, are
// counted apart.
func TestForeign(t *testing.T) {
	kinds(t, func(t *testing.T, ns *netns.NS, attach func(Config) *Observer) {
		o := attach(Config{Sequences: 2})
		rng := rand.New(rand.NewPCG(7, 8))
		f := ethernet(rng, 64)
		send(t, ns, f, f, f, f, f)
		settle(t, o, 5)
		sendPlain(t, ns, f, f[:15], f[:30])
		settle(t, o, 8)
		if got, want := o.Totals(), (Totals{Recorded: 2, Beyond: 3, Foreign: 3}); got != want {
			t.Errorf("totals %+v, want %+v", got, want)
		}
	})
}

// sendPlain sends frames as they are, without a stamp.
func sendPlain(t *testing.T, ns *netns.NS, frames ...[]byte) {
	t.Helper()
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName("a")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHash checks that the hash tells frames apart that differ in one bit, in length
// or in order.
func TestHash(t *testing.T) {
	f := ethernet(rand.New(rand.NewPCG(9, 10)), 97)
	seen := map[uint64]string{Hash(f): "itself"}
	check := func(what string, g []byte) {
		h := Hash(g)
		if have, twice := seen[h]; twice {
			t.Errorf("%s hashes like %s", what, have)
		}
		seen[h] = what
	}
	for i := range f {
		for bit := range 8 {
			g := bytes.Clone(f)
			g[i] ^= 1 << bit
			check(fmt.Sprintf("byte %d bit %d", i, bit), g)
		}
	}
	for n := range f {
		check(fmt.Sprintf("the first %d", n), f[:n])
		check(fmt.Sprintf("%d zeros", n+1), make([]byte, n+1))
	}
	g := bytes.Clone(f)
	copy(g[16:], f[24:32])
	copy(g[24:], f[16:24])
	check("two words swapped", g)
}

// BenchmarkObserve measures what an XDP observer adds to a frame, without a netdev.
func BenchmarkObserve(b *testing.B) {
	for _, size := range []int{64, 1514} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			o := &Observer{config: Config{Sequences: 1}}
			must.Have(b, "xdp", o.load("observe_xdp"))
			defer o.Close()
			f := ethernet(rand.New(rand.NewPCG(1, 1)), size)
			traffic.Stamp(f, 0)
			p, ns := o.code.Programs["observe_xdp"], 0.0
			for b.Loop() {
				_, d, err := p.Benchmark(f, 10_000, nil)
				if err != nil {
					b.Fatal(err)
				}
				ns += float64(d)
			}
			b.ReportMetric(ns/float64(b.N), "ns/frame")
		})
	}
}
