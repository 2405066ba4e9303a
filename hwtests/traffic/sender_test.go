package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire returns a sender and an observer at the two ends of a veth pair.
func wire(tb testing.TB, sequences int) (*traffic.Sender, *observe.Observer) {
	tb.Helper()
	ns, o := cable(tb, sequences)
	s, err := traffic.Open(ns, "a")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s, o
}

// cable returns a namespace with a veth pair, a and b, and an observer at b.
func cable(tb testing.TB, sequences int) (*netns.NS, *observe.Observer) {
	tb.Helper()
	ns, err := netns.New(fmt.Sprintf("bftraffic%d", os.Getpid()))
	must.Have(tb, "veth", err)
	tb.Cleanup(func() { ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(tb, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	for _, name := range []string{"a", "b"} {
		l, err := ns.Links().LinkByName(name)
		if err == nil {
			// With a queueing discipline a full ring comes back as ENOBUFS.
			queue := &netlink.GenericQdisc{QdiscType: "pfifo", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}}
			err = errors.Join(ns.Links().QdiscAdd(queue), ns.Links().LinkSetUp(l))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	o, err := observe.AtXDP(ns, "b", observe.Config{Sequences: sequences})
	must.Have(tb, "xdp", err)
	tb.Cleanup(func() { o.Close() })
	return ns, o
}

var frame = append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5}, make([]byte, 50)...)

// arrived waits for n frames and reports how many came.
func arrived(o *observe.Observer, n int) uint64 {
	for range 2000 {
		if o.Totals().Recorded >= uint64(n) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return o.Totals().Recorded
}

func TestSend(t *testing.T) {
	const n = 10_000
	s, o := wire(t, 2*n)
	for _, c := range []traffic.Load{
		{Rate: 5_000, Count: 500},
		{Rate: 100_000, Count: n},
		{Rate: 300_000, Count: n, First: n},
		{Rate: 50_000, Burst: 1, Count: n / 10},
		{Count: n}, // as fast as it goes
	} {
		o.Reset()
		c.Frames, c.Times = traffic.Cycle(frame), true
		r, err := s.Send(context.Background(), c)
		if err != nil || r.Sent != c.Count || len(r.Times) != c.Count {
			t.Fatalf("%d frames at %d: sent %d, %d times: %v", c.Count, c.Rate, r.Sent, len(r.Times), err)
		}
		if got := arrived(o, c.Count); got != uint64(c.Count) {
			t.Errorf("%d frames at %d: %d arrived", c.Count, c.Rate, got)
		}
		for i := range uint64(c.Count) {
			f := append([]byte(nil), frame...)
			traffic.Stamp(f, c.First+i)
			cell := o.Cell(c.First + i)
			if !cell.Same(observe.Expect(f)) {
				t.Fatalf("sequence number %d: %+v", c.First+i, cell)
			}
			if cell.First < r.Times[i] {
				t.Fatalf("sequence number %d: sent at %d, came at %d", c.First+i, r.Times[i], cell.First)
			}
		}
		rate := float64(r.Sent) / r.Took.Seconds()
		t.Logf("asked for %d pps: %.0f pps, %d retries", c.Rate, rate, r.Retries)
		if c.Rate > 0 && rate > 1.1*float64(c.Rate) {
			t.Errorf("asked for %d pps, got %.0f", c.Rate, rate)
		}
	}
}

func TestSendEnds(t *testing.T) {
	s, _ := wire(t, 1)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	stopping := func(sequence uint64) []byte {
		if sequence == 9 {
			stop()
		}
		return frame
	}
	r, err := s.Send(ctx, traffic.Load{Frames: stopping, Count: 1 << 30, Rate: 1000, Burst: 1})
	if !errors.Is(err, context.Canceled) || r.Sent != 10 {
		t.Errorf("sent %d: %v", r.Sent, err)
	}
	r, err = s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(frame[:15]), Count: 1})
	if err == nil || r.Sent != 0 {
		t.Errorf("a frame too short for a stamp: %+v, %v", r, err)
	}
	r, err = s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(make([]byte, 2000)), Count: 1})
	if !errors.Is(err, unix.EMSGSIZE) || r.Sent != 0 {
		t.Errorf("a frame longer than the MTU: %+v, %v", r, err)
	}
}

func TestStamp(t *testing.T) {
	f := append([]byte(nil), frame...)
	if _, ok := traffic.Sequence(f); ok {
		t.Error("a frame without a stamp has a number")
	}
	traffic.Stamp(f, 0x0102030405060708)
	if n, ok := traffic.Sequence(f); !ok || n != 0x0102030405060708 {
		t.Errorf("%x, %v", n, ok)
	}
	if _, ok := traffic.Sequence(f[:15]); ok {
		t.Error("a short frame has a number")
	}
}

func BenchmarkSend(b *testing.B) {
	s, _ := wire(b, 1)
	b.ResetTimer()
	r, err := s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(frame), Count: b.N})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(r.Sent)/r.Took.Seconds(), "frames/s")
}
