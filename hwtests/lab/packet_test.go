package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// udp returns a frame from one workload to another, with room for a stamp.
func udp(t *testing.T, from, to *Workload, payload int) []byte {
	t.Helper()
	var k flow.Key
	k.Set(flow.SrcMAC, from.MAC)
	k.Set(flow.DstMAC, to.MAC)
	k.Set(flow.EthType, flow.EthIPv4)
	k.Set(flow.Proto, flow.ProtoUDP)
	k.Set(flow.TTL, 64)
	k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	k.Set(flow.DstPort, 4789)
	k.SetSrc(from.IP4)
	k.SetDst(to.IP4)
	f, err := flow.Frame(k, make([]byte, payload))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// tagged puts VLAN tags in front of a frame.
func tagged(f []byte, tags ...byte) []byte {
	return append(append(append([]byte(nil), f[:12]...), tags...), f[12:]...)
}

// send sends frames in order by a sender and waits until all is quiet.
func send(t *testing.T, l *Lab, open func() (*traffic.Sender, error), first uint64, frames ...[]byte) {
	t.Helper()
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(frames...), First: first, Count: len(frames), Rate: 20_000})
	if err != nil || r.Sent != len(frames) {
		t.Fatalf("sent %d of %d: %v", r.Sent, len(frames), err)
	}
	if err := l.Settle(context.Background(), 30*time.Millisecond); err != nil {
		t.Fatal(err)
	}
}

// place is where a frame was seen: a port of a blade, outside or by the kernel.
type place struct {
	blade  string
	port   flow.Port
	kernel bool
}

// seenOf returns what every observer of the lab has of one sequence number.
func (l *Lab) seenOf(sequence uint64) map[place]observe.Cell {
	at := map[place]observe.Cell{}
	for _, b := range l.Blades {
		for _, p := range b.Attached {
			for _, kernel := range []bool{false, true} {
				o := p.Leaves
				if kernel {
					o = p.Kernel
				}
				if c := o.Cell(sequence); c.Copies > 0 {
					c.First, c.Last = 0, 0
					at[place{b.Name, p.Port, kernel}] = c
				}
			}
		}
	}
	return at
}

// expect compares what was seen of a frame with where it should be, and nowhere else.
func expect(t *testing.T, l *Lab, sequence uint64, frame []byte, want ...place) {
	t.Helper()
	f := append([]byte(nil), frame...)
	traffic.Stamp(f, sequence)
	expected := map[place]observe.Cell{}
	for _, p := range want {
		expected[p] = observe.Expect(f)
	}
	diff := func() string { return cmp.Diff(expected, l.seenOf(sequence), cmp.AllowUnexported(place{})) }
	d := diff()
	for began := time.Now(); d != "" && time.Since(began) < 5*time.Second; d = diff() { // on a busy machine
		time.Sleep(20 * time.Millisecond)
	}
	if d != "" {
		t.Errorf("frame %d: (-want +got)\n%s", sequence, d)
	}
}

// arrived waits until an observer has recorded n frames, or nothing comes any more.
func arrived(t *testing.T, l *Lab, o *observe.Observer, n uint64) {
	t.Helper()
	for began := time.Now(); o.Totals().Recorded < n && time.Since(began) < 10*time.Second; {
		if err := l.Settle(context.Background(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if got := o.Totals(); got != (observe.Totals{Recorded: n}) {
		t.Errorf("%s: %+v of %d frames", o.Name, got, n)
	}
}

// TestMiss checks the way of frames that the card does not answer: to the
// representor of the port they came in by, unchanged, whatever their tags; and the
// way back, from the representor to the port.
func TestMiss(t *testing.T) {
	l := up(t, Config{Blades: 2, VFs: 2})
	sequence := uint64(0)
	for _, b := range l.Blades {
		for _, p := range b.Attached {
			f := udp(t, l.Blades[0].Workloads[0], b.Workloads[1], 18)
			frames := [][]byte{f, tagged(f, 0x81, 0, 0x60, 10), tagged(f, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), udp(t, b.Workloads[1], b.Workloads[0], 1472)}
			send(t, l, p.Sender, sequence, frames...)
			send(t, l, p.HostSender, sequence+uint64(len(frames)), frames...)
			for i, f := range frames {
				expect(t, l, sequence+uint64(i), f, place{b.Name, p.Port, true})
			}
			for i, f := range frames {
				want := []place{{b.Name, p.Port, false}}
				if p.Port == Uplink { // it leaves the uplink, and the other blade's card misses it
					want = append(want, place{l.Blades[2-b.Number].Name, Uplink, true})
				}
				expect(t, l, sequence+uint64(len(frames)+i), f, want...)
			}
			sequence += 2 * uint64(len(frames))
		}
	}
	if d, err := l.Drops(); err != nil || d.Total() > 0 {
		t.Errorf("%v\n%s", err, d)
	}
}

// TestHit puts entries into the cards and checks that their copies, and only they,
// arrive: at another workload, through the uplink at a workload of the other
// blade, and mirrored.
func TestHit(t *testing.T) {
	l := up(t, Config{Blades: 2, VFs: 2})
	ctx := context.Background()
	a, b := l.Blades[0], l.Blades[1]
	for _, blade := range l.Blades {
		var ops []offload.Op
		for _, s := range stations(l, blade) {
			e := flow.Entry{ID: flow.EntryID(s.MAC), Kind: flow.PieceEntry, Rule: 1, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{s.Port}}}}
			e.Match.Pin(flow.DstMAC, s.MAC, flow.DstMAC.Max())
			ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
		}
		for _, o := range blade.NIC.Apply(ctx, ops) {
			if o.Status != offload.Done {
				t.Fatalf("blade %s: %+v", blade.Name, o)
			}
		}
	}
	local := udp(t, a.Workloads[0], a.Workloads[1], 18)
	across := udp(t, a.Workloads[0], b.Workloads[1], 1400)
	tag := tagged(across, 0x81, 0, 0x20, 7)
	send(t, l, a.At(2).Sender, 0, local, across, tag)
	expect(t, l, 0, local, place{"b1", 3, false})
	for i, f := range [][]byte{1: across, 2: tag} {
		if f != nil {
			expect(t, l, uint64(i), f, place{"b1", Uplink, false}, place{"b2", 3, false})
		}
	}
	if d, err := l.Drops(); err != nil || d.Total() > 0 {
		t.Errorf("%v\n%s", err, d)
	}
}

// stations lists all workloads of the lab as one blade sees them.
func stations(l *Lab, b *Blade) (all []flow.Station) {
	for _, o := range l.Blades {
		for _, p := range o.Attached[1:] {
			port := p.Port
			if o != b {
				port = Uplink
			}
			all = append(all, flow.Station{MAC: p.Workload.MAC, Port: port})
		}
	}
	return all
}

// TestHub checks that the fabric carries what a Linux bridge would not: frames for
// link-local groups, frames with odd source addresses, frames to itself.
func TestHub(t *testing.T) {
	l := up(t, Config{Blades: 3, VFs: 1, Bare: true})
	frames := make([][]byte, 4)
	for i, macs := range []string{
		"\x01\x80\xc2\x00\x00\x00\x02\x00\x00\x00\x00\x01",
		"\x01\x80\xc2\x00\x00\x0e\x02\x00\x00\x00\x00\x01",
		"\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00",
		"\x02\x00\x00\x00\x00\x01\x01\x00\x5e\x00\x00\x01",
	} {
		frames[i] = append([]byte(macs), make([]byte, 60)...)
	}
	// The card's side of the first blade's wire sends; nothing joins the others' to
	// anything, so an observer there tells what came out of the hub.
	var ends []*observe.Observer
	for _, b := range l.Blades {
		p := b.At(Uplink)
		o, err := observe.AtXDP(p.Front.NS, p.Front.Name, observe.Config{Sequences: len(frames)})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		ends = append(ends, o)
	}
	front := l.Blades[0].At(Uplink).Front
	send(t, l, func() (*traffic.Sender, error) { return traffic.Open(front.NS, front.Name) }, 0, frames...)
	for i, f := range frames {
		traffic.Stamp(f, uint64(i))
		for j, o := range ends {
			want := observe.Expect(f)
			if j == 0 {
				want = observe.Cell{}
			}
			if c := o.Cell(uint64(i)); !c.Same(want) {
				t.Errorf("frame %d at blade %d: %+v, want %+v", i, j+1, c, want)
			}
		}
		expect(t, l, uint64(i), f, place{"b1", Uplink, false})
	}
}

// TestDrops loses frames on purpose: Drops has to show it, and Since to name it.
func TestDrops(t *testing.T) {
	l := up(t, Config{Blades: 1, VFs: 1})
	before, err := l.Drops()
	if err != nil || before.Total() != 0 {
		t.Fatalf("a fresh lab has lost frames: %v\n%s", err, before)
	}
	// A representor's peer that is down takes no frames: the card loses them.
	b := l.Blades[0]
	rep := b.At(2).Representor
	link, err := rep.link()
	if err == nil {
		err = rep.NS.Links().LinkSetDown(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := udp(t, b.Workloads[0], b.Workloads[0], 18)
	send(t, l, b.At(2).Sender, 0, f, f, f)
	after, err := l.Drops()
	if err != nil {
		t.Fatal(err)
	}
	lost := after.Since(before)
	if lost.Total() == 0 {
		t.Error("three frames vanished and no counter grew")
	}
	t.Logf("a representor that is down:\n%s", lost)
	if again := after.Since(after); len(again) != 0 {
		t.Errorf("nothing happened and %v grew", again)
	}
	if d := (Drops{"x": 5, "y": 1}).Since(Drops{"x": 3, "z": 9}); !cmp.Equal(d, Drops{"x": 2, "y": 1}) {
		t.Errorf("Since = %v", d)
	}
}

// TestMillion sends a million frames as fast as they are taken without loss, over
// the hit path, and counts every one.
func TestMillion(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	l := up(t, Config{Blades: 1, VFs: 2, Sequences: n})
	b := l.Blades[0]
	e := flow.Entry{ID: 1, Kind: flow.PieceEntry, Rule: 1, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{3}}}}
	if o := b.NIC.Apply(context.Background(), []offload.Op{{Kind: offload.Add, Entry: e}}); o[0].Status != offload.Done {
		t.Fatal(o)
	}
	s, err := b.At(2).Sender()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(udp(t, b.Workloads[0], b.Workloads[1], 18)), Count: n, Rate: 300_000})
	if err != nil {
		t.Fatal(err)
	}
	arrived(t, l, b.At(3).Leaves, uint64(n))
	t.Logf("%d frames in %v, %d retries", r.Sent, r.Took, r.Retries)
	began, copies := time.Now(), 0
	for i := range uint64(n) {
		copies += int(b.At(3).Leaves.Cell(i).Copies)
	}
	t.Logf("read in %v", time.Since(began))
	if copies != n {
		t.Error(fmt.Sprint(copies, " copies arrived of ", n))
	}
	if d, err := l.Drops(); err != nil || d.Total() > 0 {
		t.Errorf("%v\n%s", err, d)
	}
}

// TestBackpressure sends faster than the card takes frames, whose work is done by a
// thread of its own: the sender has to wait, and nothing is lost.
func TestBackpressure(t *testing.T) {
	const n = 200_000
	l := up(t, Config{Blades: 1, VFs: 1, Sequences: n})
	b := l.Blades[0]
	p := b.At(2)
	dir := t.TempDir()
	err := p.Front.NS.Do(func() error { // a sysfs shows the namespace it was mounted in
		if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil {
			return err
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		return os.WriteFile(filepath.Join(dir, "class/net", p.Front.Name, "threaded"), []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Sender()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Send(context.Background(), traffic.Load{Frames: traffic.Cycle(udp(t, b.Workloads[0], b.Workloads[0], 18)), Count: n})
	if err != nil {
		t.Errorf("%d of %d frames, %d retries: %v", r.Sent, n, r.Retries, err)
	}
	t.Logf("%d retries", r.Retries) // none if the machine was kind
	arrived(t, l, p.Kernel, n)
	if d, err := l.Drops(); err != nil || d.Total() > 0 {
		t.Errorf("%v\n%s", err, d)
	}
}
