package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// The tests of this file and of vf_test.go and inventory_test.go run inside the machine.

// parameter sets a parameter of tcamsim for the length of a test.
func parameter(t *testing.T, name, value string) {
	t.Helper()
	file := "/sys/module/tcamsim/parameters/" + name
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(file, was, 0o644) })
}

// tap sends and receives whole frames at a netdev.
type tap struct {
	*testing.T
	fd, index int
}

// openTap brings a netdev up.
func openTap(t *testing.T, name string) *tap {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	p := &tap{t, fd, link.Attrs().Index}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.index}); err != nil {
		t.Fatal(err)
	}
	p.patience(time.Minute)
	return p
}

// patience sets how long receive waits.
func (p *tap) patience(d time.Duration) {
	p.Helper()
	wait := unix.NsecToTimeval(int64(d))
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		p.Fatal(err)
	}
}

// frame is one that nobody but these tests sends, to a station.
func frame(from, to uint64) []byte {
	b := make([]byte, 60)
	for i := range 6 {
		b[i], b[6+i] = byte(to>>(40-8*i)), byte(from>>(40-8*i))
	}
	b[12], b[13] = 0x88, 0xb5 // for experiments
	return b
}

func (p *tap) send(b []byte) {
	p.Helper()
	if err := unix.Sendto(p.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: p.index}); err != nil {
		p.Fatal(err)
	}
}

// receive returns the next frame of ours which comes in, nil if none comes within its patience.
func (p *tap) receive() []byte {
	p.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(p.fd, b, 0)
		switch l, ok := from.(*unix.SockaddrLinklayer); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			p.Fatal(err)
		case n > 14 && b[12] == 0x88 && b[13] == 0xb5 && (!ok || l.Pkttype != unix.PACKET_OUTGOING):
			return b[:n]
		}
	}
}

// next returns the station that the next frame is for, 0 if there is none.
func (p *tap) next() (to uint64) {
	if b := p.receive(); b != nil {
		for _, v := range b[:6] {
			to = to<<8 | uint64(v)
		}
	}
	return to
}

// payload returns the first byte after the header of the next frame, 0 if there is none.
func (p *tap) payload() byte {
	if b := p.receive(); b != nil {
		return b[14]
	}
	return 0
}

const (
	nobody  = 0x02000000ffff // the station of a frame that no entry answers
	station = 0x020000000000
)

// at is a port of the card: its representor and what is outside.
type at struct{ rep, outside *tap }

func openPort(t *testing.T, index int) at {
	n := strconv.Itoa(index)
	return at{openTap(t, "simr"+n), openTap(t, "simf"+n)}
}

// drops are n entries that drop what is for a station, by number.
func drops(n int) (out []flow.Entry) {
	for i := range n {
		e := flow.Entry{ID: 0xb1ad<<48 | flow.EntryID(i+1), Rule: flow.RuleID(i + 1), Priority: uint64(i), Actions: flow.Actions{{Op: flow.Drop}}}
		e.Match.Pin(flow.EthType, 0x88b5, flow.EthType.Max())
		e.Match.Pin(flow.DstMAC, station|uint64(i), flow.DstMAC.Max())
		out = append(out, e)
	}
	return out
}

// put gives entries to a port's driver and returns what it said.
func put(t *testing.T, p at, entries []flow.Entry) (*tcflower.Driver, []offload.Outcome) {
	t.Helper()
	m, err := device.Load("tcamsim")
	if err != nil {
		t.Fatal(err)
	}
	d, err := tcflower.Open(tcflower.Options{Model: m, Ports: []tcflower.Port{{Port: 1, Device: uint32(p.rep.index)}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background() // the test's own is over
		have, err := d.Installed(ctx)
		if err != nil {
			t.Error(err)
		}
		d.Apply(ctx, ops(offload.Remove, have))
		d.Close()
	})
	return d, d.Apply(t.Context(), ops(offload.Add, entries))
}

func ops(kind offload.OpKind, entries []flow.Entry) (out []offload.Op) {
	for _, e := range entries {
		out = append(out, offload.Op{Kind: kind, Entry: e})
	}
	return out
}

// missed sends a frame for each of n stations into a port, and one for nobody, and
// returns which of them came up to software.
func missed(p at, n int) (out []uint64) {
	for i := range n {
		p.outside.send(frame(station|0xfe00, station|uint64(i)))
	}
	p.outside.send(frame(station|0xfe00, nobody))
	for {
		switch to := p.rep.next(); to {
		case 0:
			p.rep.Fatal("the frame that no entry answers did not come")
		case nobody:
			return out
		default:
			out = append(out, to)
		}
	}
}

// TestCardFullPackets gives a table with 10 lines 30 entries. What is in answers, and the
// rest comes up: the card is a sound part of the table.
func TestCardFullPackets(t *testing.T) {
	must.InMachine(t)
	parameter(t, "table_size", "10")
	p := openPort(t, 1)
	entries := drops(30)
	d, outcomes := put(t, p, entries)
	var want []uint64
	for i, out := range outcomes {
		if out.Status == offload.Done {
			continue
		}
		want = append(want, station|uint64(i))
		if out.Code != offload.CodeFull || !strings.Contains(out.Text, "full") {
			t.Errorf("entry %d: %+v", i, out)
		}
	}
	if len(want) != 20 {
		t.Errorf("%d of 30 were refused, want 20", len(want))
	}
	if have := missed(p, len(entries)); !slices.Equal(have, want) {
		t.Errorf("to software came %x, want %x", have, want)
	}
	counts, err := d.Counters(t.Context())
	if err != nil || len(counts) != 10 {
		t.Errorf("%d counters, %v", len(counts), err)
	}
	for _, n := range counts {
		if n.Packets != 1 {
			t.Errorf("%+v: one packet was sent for each", n)
		}
	}
}

// TestCardLies has a card that says it drops, and forwards. What the kernel says of it is
// what was put in; only packets show it.
func TestCardLies(t *testing.T) {
	must.InMachine(t)
	p, uplink := openPort(t, 1), openPort(t, 0)
	entries := drops(3)
	for _, lie := range []string{"0", "1"} {
		parameter(t, "lie_every", lie)
		d, outcomes := put(t, p, entries)
		for _, out := range outcomes {
			if out.Status != offload.Done {
				t.Errorf("lie_every=%s: %+v", lie, out)
			}
		}
		have, err := d.Installed(t.Context())
		if err != nil || len(have) != len(entries) {
			t.Errorf("lie_every=%s: %d entries, %v", lie, len(have), err)
		}
		for i := range have {
			if j := slices.IndexFunc(entries, func(e flow.Entry) bool { return e.ID == have[i].ID }); j < 0 || !have[i].Equal(&entries[j]) {
				t.Errorf("lie_every=%s: read back %+v", lie, have[i])
			}
		}
		if up := missed(p, len(entries)); len(up) > 0 {
			t.Errorf("lie_every=%s: to software came %x", lie, up)
		}
		var leaked []uint64
		uplink.rep.send(frame(station|0xfe00, nobody)) // leaves at once, after what went before
		for to := uplink.outside.next(); to != nobody; to = uplink.outside.next() {
			if to == 0 {
				t.Fatal("the frame of the host did not leave")
			}
			leaked = append(leaked, to)
		}
		if want := len(entries) * int(lie[0]-'0'); len(leaked) != want {
			t.Errorf("lie_every=%s: %d dropped frames left by the uplink, want %d", lie, len(leaked), want)
		}
		if out := d.Apply(t.Context(), ops(offload.Remove, have)); slices.ContainsFunc(out, func(o offload.Outcome) bool { return o.Status != offload.Done }) {
			t.Errorf("lie_every=%s: remove: %+v", lie, out)
		}
	}
}

// TestCardFails has firmware that fails at every third insertion: the others are in.
func TestCardFails(t *testing.T) {
	must.InMachine(t)
	parameter(t, "fail_every", "3")
	p := openPort(t, 1)
	entries := drops(9)
	d, outcomes := put(t, p, entries)
	failed := 0
	for i, out := range outcomes {
		if out.Status != offload.Done {
			failed++
			if !strings.Contains(out.Text, "injected firmware failure") {
				t.Errorf("entry %d: %+v", i, out)
			}
		}
	}
	have, err := d.Installed(t.Context())
	if err != nil || failed != 3 || len(have) != 6 {
		t.Errorf("%d failed and %d are in, of 9: %v", failed, len(have), err)
	}
	if up := missed(p, len(entries)); len(up) != 3 {
		t.Errorf("to software came %x, want three", up)
	}
}
