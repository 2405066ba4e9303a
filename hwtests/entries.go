package hwtests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// Stations of frames that nobody but these scenarios sends.
const (
	someStation = 0x020000000000 // and those after it have entries
	noStation   = 0x02000000ffff // no entry answers
	testType    = 0x88b5         // EtherType for experiments
)

// driver opens tc flower on the representor of one free VF, port 1.
func (k *card) driver() (*tcflower.Driver, error) {
	if !slices.Contains(k.model.Actions, flow.Drop) {
		return nil, fmt.Errorf("device model %s says that the card drops nothing: no rules for it", k.model.Name)
	}
	dev, err := net.InterfaceByName(k.free[0].Representor.Name)
	if err != nil {
		return nil, err
	}
	return tcflower.Open(tcflower.Options{Model: k.model, Ports: []tcflower.Port{{Port: 1, Device: uint32(dev.Index)}}})
}

// dropping are n entries that drop what is for a station, by number.
func dropping(n int) (out []offload.Op) {
	for i := range n {
		e := flow.Entry{ID: 0xb1ad<<48 | flow.EntryID(i+1), Rule: flow.RuleID(i + 1), Priority: uint64(i), Actions: flow.Actions{{Op: flow.Drop}}}
		e.Match.Pin(flow.EthType, testType, flow.EthType.Max())
		e.Match.Pin(flow.DstMAC, someStation|uint64(i), flow.DstMAC.Max())
		out = append(out, offload.Op{Kind: offload.Add, Entry: e})
	}
	return out
}

// Filled is what [runEntries] and [runPackets] saw.
type Filled struct {
	Asked   int            `json:"asked"`
	In      int            `json:"in"`
	Refused map[string]int `json:"refused,omitempty"` // by code
	Words   []string       `json:"words,omitempty"`   // of the driver, each once
	Dropped int            `json:"dropped,omitempty"` // packets, by the card
	Up      int            `json:"up,omitempty"`      // packets that came to software
}

// fill puts entries in and reads them back, and returns those that are in. What it puts in
// [empty] takes out.
func fill(ctx context.Context, d offload.Driver, ops []offload.Op) (in []flow.Entry, f *Filled, wrong []string, err error) {
	f = &Filled{Asked: len(ops), Refused: map[string]int{}}
	for i, o := range d.Apply(ctx, ops) {
		switch {
		case o.Status == offload.Done:
			in = append(in, ops[i].Entry)
		case ctx.Err() != nil: // nobody asks any more
		case o.Code == "" || o.Text == "":
			wrong = append(wrong, fmt.Sprintf("entry %d: refused without code or words: %+v", i, o))
		default:
			f.Refused[string(o.Code)]++
			if !slices.Contains(f.Words, o.Text) {
				f.Words = append(f.Words, o.Text)
			}
		}
	}
	f.In = len(in)
	have, err := those(ctx, d, ops)
	if err != nil {
		return in, f, wrong, err
	}
	for i := range in {
		if !slices.ContainsFunc(have, func(e flow.Entry) bool { return e.Equal(&in[i]) }) {
			wrong = append(wrong, fmt.Sprintf("entry %x was taken and is not read back", in[i].ID))
		}
	}
	if len(have) != len(in) {
		wrong = append(wrong, fmt.Sprintf("%d entries were taken, %d are read back", len(in), len(have)))
	}
	return in, f, wrong, nil
}

// empty takes out what [fill] put in, those entries too of which it was not heard whether
// they are in, as when the run was ended meanwhile.
func empty(d offload.Driver, ops []offload.Op) (wrong []string, err error) {
	ctx := context.Background() // also when the run was ended
	in, err := those(ctx, d, ops)
	if err != nil {
		return nil, err
	}
	var out []offload.Op
	for _, e := range in {
		out = append(out, offload.Op{Kind: offload.Remove, Entry: e})
	}
	for i, o := range d.Apply(ctx, out) {
		if o.Status != offload.Done {
			wrong = append(wrong, fmt.Sprintf("entry %x was not taken out: %s", in[i].ID, o.Text))
		}
	}
	left, err := those(ctx, d, ops)
	if len(left) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d entries are left", len(left)))
	}
	return wrong, err
}

// those are the entries of ops that a device has. It may have others'.
func those(ctx context.Context, d offload.Driver, ops []offload.Op) ([]flow.Entry, error) {
	have, err := d.Installed(ctx)
	return slices.DeleteFunc(have, func(e flow.Entry) bool {
		return !slices.ContainsFunc(ops, func(o offload.Op) bool { return o.Entry.ID == e.ID })
	}), err
}

// someEntries is how many entries are tried: few cards have room for less.
const someEntries = 100

func runEntries(ctx context.Context, t Terms) (any, []string, error) {
	d, err := t.card.driver()
	if err != nil {
		return nil, nil, err
	}
	ops := dropping(someEntries)
	_, f, wrong, err := fill(ctx, d, ops)
	more, left := empty(d, ops)
	return f, append(wrong, more...), errors.Join(err, left, d.Close())
}

func runPackets(ctx context.Context, t Terms) (found any, wrong []string, failed error) {
	k := t.card
	outside := k.outside(k.free[0])
	if outside == "" {
		return nil, nil, errors.New("the VF's netdev is not in this namespace: no packets can be sent")
	}
	out, err := openWire(outside)
	if err != nil {
		return nil, nil, err
	}
	defer func() { failed = errors.Join(failed, out.close()) }()
	up, err := openWire(k.free[0].Representor.Name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { failed = errors.Join(failed, up.close()) }()
	// A VF that nobody uses is off, and cards look at what addresses VFs send from.
	defer func() { failed = errors.Join(failed, k.clear(k.free[0].Index)) }()
	if err := k.connect(k.free[0].Index, fabric.Setting{MAC: out.address()}); err != nil {
		return nil, nil, err
	}
	const stations = 20 // every other has an entry
	var ops []offload.Op
	for i, op := range dropping(stations) {
		if i%2 == 0 {
			ops = append(ops, op)
		}
	}
	d, err := k.driver()
	if err != nil {
		return nil, nil, err
	}
	in, f, wrong, err := fill(ctx, d, ops)
	if err == nil {
		var more []string
		more, err = k.judgePackets(ctx, d, in, f, out, up, stations)
		wrong = append(wrong, more...)
	}
	more, left := empty(d, ops)
	return f, append(wrong, more...), errors.Join(err, left, d.Close())
}

// judgePackets sends a frame for each station and says which came up wrongly, or did not.
func (k *card) judgePackets(ctx context.Context, d *tcflower.Driver, in []flow.Entry, f *Filled, out, up *wire, stations int) (wrong []string, err error) {
	drops := map[uint64]bool{}
	for _, e := range in {
		drops[e.Match.Value.Get(flow.DstMAC)] = true
	}
	for i := range stations {
		if err := out.send(someStation | uint64(i)); err != nil {
			return nil, err
		}
	}
	if err := out.send(noStation); err != nil {
		return nil, err
	}
	came, until := map[uint64]int{}, time.Now().Add(patience)
	for came[noStation] == 0 {
		to, err := up.receive(until)
		if err != nil {
			return nil, fmt.Errorf("the frame that no entry answers did not come up: %w", err)
		}
		came[to]++
	}
	for i := range stations {
		to := someStation | uint64(i)
		f.Up += came[to]
		if drops[to] {
			f.Dropped++
		}
		if want := map[bool]int{true: 0, false: 1}[drops[to]]; came[to] != want {
			wrong = append(wrong, fmt.Sprintf("station %012x: %d frames came to software, want %d", to, came[to], want))
		}
	}
	// Counters may be late by what the model says, and by what nobody says.
	for until := time.Now().Add(k.model.CounterLag + 5*time.Second); ; time.Sleep(50 * time.Millisecond) {
		counts, err := d.Counters(ctx)
		if err != nil {
			return wrong, err
		}
		counts = slices.DeleteFunc(counts, func(c offload.Count) bool { // the card may have entries of others, or that an agent left
			return !slices.ContainsFunc(in, func(e flow.Entry) bool { return e.ID == c.Entry })
		})
		right := len(counts) == len(in) && !slices.ContainsFunc(counts, func(c offload.Count) bool { return c.Packets != 1 })
		if right {
			return wrong, nil
		}
		if time.Now().After(until) {
			return append(wrong, fmt.Sprintf("one packet was sent to each entry, counted are %+v", counts)), nil
		}
	}
}

// patience is how long a frame may take on its way through the card.
const patience = 5 * time.Second

// wire sends and receives whole frames at a netdev, which is up meanwhile.
type wire struct {
	fd, index int
	mac       [6]byte
	down      string // its name, if it was down before
}

func openWire(name string) (*wire, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	w := &wire{index: dev.Index, mac: [6]byte(dev.HardwareAddr)}
	if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		return nil, err
	}
	if dev.Flags&net.FlagUp == 0 {
		w.down, err = name, linkSet(name, true)
	}
	if err == nil {
		err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// address is the netdev's own.
func (w *wire) address() (mac uint64) {
	for _, b := range w.mac {
		mac = mac<<8 | uint64(b)
	}
	return mac
}

func (w *wire) close() error {
	err := unix.Close(w.fd)
	if w.down != "" {
		err = errors.Join(err, linkSet(w.down, false))
	}
	return err
}

// send sends a frame from the netdev's own address: cards check that of VFs.
func (w *wire) send(to uint64) error {
	b := make([]byte, 60)
	for i := range 6 {
		b[i], b[6+i] = byte(to>>(40-8*i)), w.mac[i]
	}
	b[12], b[13] = testType>>8, testType&0xff
	return unix.Sendto(w.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
}

// receive returns the station that the next frame of ours is for. It waits until then, and
// not longer because frames of others come.
func (w *wire) receive(until time.Time) (to uint64, err error) {
	b := make([]byte, 2048)
	for {
		wait := unix.NsecToTimeval(max(int64(time.Until(until)), int64(time.Millisecond))) // 0 is for ever
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return 0, err
		}
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		switch l, ok := from.(*unix.SockaddrLinklayer); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n > 14 && b[12] == testType>>8 && b[13] == testType&0xff && (!ok || l.Pkttype != unix.PACKET_OUTGOING):
			for _, v := range b[:6] {
				to = to<<8 | uint64(v)
			}
			return to, nil
		case time.Now().After(until):
			return 0, unix.EAGAIN // as if nothing had come
		}
	}
}
