package tcflower

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// The tests of this file work on a kernel that has cls_flower: the one in the virtual
// machine (hwtests/vm). Elsewhere they are skipped, unless BLADEFLOW_MUST names flower.

// inKernel gives the test a network namespace of its own with three dummy devices, and
// skips it where the kernel has no flower.
func inKernel(t *testing.T) []Port {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	must.Have(t, "flower", unix.Unshare(unix.CLONE_NEWNET))
	var out []Port
	for i := range 3 {
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("xflow%d", i)}}
		must.Have(t, "flower", netlink.LinkAdd(link))
		must.Have(t, "flower", netlink.LinkSetUp(link))
		out = append(out, Port{flow.Port(i + 1), uint32(link.Index)})
	}
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := line{kernel: s}
	probe := Filter{Device: out[0].Device, Parent: Ingress, Priority: 1, Protocol: EthAll, Handle: 1, Flags: SkipHW, Actions: []Action{{Kind: "gact", Verdict: Drop}}}
	as, err := l.ask(t.Context(), []message{clsact(probe.Device), change(offload.Add, &probe), change(offload.Remove, &probe)})
	if err == nil {
		for _, a := range as {
			if a.errno != 0 {
				err = errors.Join(err, fmt.Errorf("%w: %s", a.errno, a.text))
			}
		}
	}
	must.Have(t, "flower", err)
	return out
}

// TestKernelConformance runs the suite of all drivers on the stock kernel's flower.
func TestKernelConformance(t *testing.T) {
	at := inKernel(t)[:2] // each port is a dump more, everywhere
	m, err := device.Load("mlx5")
	if err != nil {
		t.Fatal(err)
	}
	offloadtest.Run(t, func(t *testing.T) offload.Driver {
		d, err := Open(Options{Model: m, Ports: inKernel(t)[:2], Software: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}, offloadtest.Options{Ports: []flow.Port{1, 2}, Base: base(), Admits: func(e *flow.Entry) bool {
		s := site{at, true}
		_, why := s.encode(e)
		return why == nil
	}})
}

// TestKernelEntries puts random entries of every field and action into the stock kernel
// and reads them back equal.
func TestKernelEntries(t *testing.T) {
	at := inKernel(t)
	d, err := Open(Options{Ports: at, Software: true, Model: everything()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	seed := flowtest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := map[flow.EntryID]flow.Entry{}
	var ops []offload.Op
	for i := range flowtest.Count(t, "BLADEFLOW_VM_ENTRIES", 500) {
		e := flow.Entry{ID: 0xb1ad<<48 | flow.EntryID(i), Rule: flow.RuleID(rng.Uint64()), Kind: flow.EntryKind(rng.IntN(3)), Priority: rng.Uint64N(200), Match: someMatch(rng)}
		if e.Match.Valid() != nil {
			continue
		}
		if e.Kind != flow.GuardEntry {
			if e.Actions = someActions(rng); e.Actions.Metered() {
				e.Kind = flow.RuleEntry // a piece has no meter
			}
		}
		if _, why := d.site.encode(&e); why == nil {
			ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
		}
	}
	for i, out := range d.Apply(t.Context(), ops) {
		switch e := ops[i].Entry; {
		case out.Status == offload.Done:
			want[e.ID] = e
		case out.Code != offload.CodeExists: // two may have one match in one priority
			t.Errorf("%+v: %+v", e, out)
		}
	}
	have, err := d.Installed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != len(want) || len(want) < len(ops)*3/4 {
		t.Errorf("%d entries read, %d put in, of %d", len(have), len(want), len(ops))
	}
	for _, e := range have {
		if w := want[e.ID]; !e.Equal(&w) {
			t.Errorf("read back other than put in:\n have %+v\n want %+v", e, w)
		}
	}
	did := map[string]int{}
	for _, e := range want {
		for _, a := range e.Actions {
			did[a.Op.String()]++
		}
	}
	t.Logf("%d entries with %v", len(want), did)
}

// everything is a model of a device without limits.
func everything() device.Model {
	m := device.Model{Name: "kernel", Version: 1, Order: device.Honoured, Ranges: true, Punt: true, MissFalls: true, Counters: true,
		Actions: []flow.Op{flow.Drop, flow.Output, flow.Mirror, flow.VLANPush, flow.VLANPop, flow.VLANSet, flow.Set, flow.Police}}
	for p := range m.Fields {
		m.Fields[p] = device.Any
	}
	return m
}

// TestKernelGolden sends what tc sent for the golden file to the kernel, and reads it
// back: every key and action is still there, and nothing else is.
func TestKernelGolden(t *testing.T) {
	at := inKernel(t)
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := line{kernel: s}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	var command string
	for text := range strings.Lines(string(b)) {
		if text = strings.TrimSpace(text); strings.HasPrefix(text, "tc ") || strings.HasPrefix(text, "#") {
			command = text
			continue
		}
		var body []byte
		if _, err := fmt.Sscanf(text, "%x", &body); err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(body)
		if err != nil {
			t.Fatal(err)
		}
		f.Device, f.Handle = at[0].Device, 1
		if f.InDev != "" {
			f.InDev = "xflow0"
		}
		f.Flags = f.Flags&^SkipSW | SkipHW
		for i := range f.Actions {
			if f.Actions[i].Kind == "mirred" {
				f.Actions[i].Mirred.Device = at[1].Device
			}
		}
		as, err := l.ask(t.Context(), []message{change(offload.Add, &f)})
		if err != nil {
			t.Fatal(err)
		}
		if as[0].errno != 0 {
			t.Logf("not taken: %s: %s (%v)", command, as[0].text, as[0].errno)
			continue
		}
		taken++
		if *update {
			t.Logf("dump of %s\n%x", command, l.dumped(t, f.Device, f.Parent))
		}
		have, err := l.dump(t.Context(), f.Device, f.Parent)
		if err != nil || len(have) != 1 {
			t.Errorf("%s: %d filters, %v", command, len(have), err)
		} else if g := have[0]; !slices.EqualFunc(g.Keys, f.told(), equalKeys) || len(g.Unknown) != len(f.Unknown) || len(g.Actions) != len(f.Actions) || g.Flags&SkipHW == 0 {
			t.Errorf("%s: read back %+v, sent %+v", command, g, f)
		} else {
			for i := range g.Actions {
				if a, b := g.Actions[i], f.Actions[i]; a.Kind != b.Kind || a.Verdict != b.Verdict || a.Mirred != b.Mirred || a.Csum != b.Csum || !slices.Equal(a.Edits, b.Edits) {
					t.Errorf("%s: action %d is %+v, sent %+v", command, i, a, b)
				}
			}
		}
		if as, err = l.ask(t.Context(), []message{change(offload.Remove, &f)}); err != nil || as[0].errno != 0 {
			t.Errorf("%s: not removed: %v %v", command, err, as)
		}
	}
	if taken < 30 {
		t.Errorf("only %d were taken", taken)
	}
	t.Logf("%d taken", taken)
}

// card is the first representor of the test bed's card: a module of the kernel whose
// table has as many lines as a parameter says (hwtests/vm/tcamsim). Tests without it are
// skipped, unless BLADEFLOW_MUST names tcamsim.
const card, cardSize = "simr1", "/sys/module/tcamsim/parameters/table_size"

// TestCardFull gives a card with 10 lines 100 entries: 10 are in, and 90 are refused with
// a code and the driver's own words.
func TestCardFull(t *testing.T) {
	link, err := netlink.LinkByName(card)
	must.Have(t, "tcamsim", err)
	was, err := os.ReadFile(cardSize)
	must.Have(t, "tcamsim", err)
	defer os.WriteFile(cardSize, was, 0o644)
	if err := os.WriteFile(cardSize, []byte("10"), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := Open(Options{Ports: []Port{{1, uint32(link.Attrs().Index)}}, Model: everything()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var es []flow.Entry
	for i := range 100 {
		e := flow.Entry{ID: 0xb1ad<<48 | flow.EntryID(i+1), Rule: flow.RuleID(i), Priority: uint64(i), Actions: flow.Actions{{Op: flow.Drop}}}
		e.Match.Pin(flow.EthType, flow.EthARP, flow.EthType.Max())
		e.Match.Pin(flow.DstMAC, 0x020000000000|uint64(i), flow.DstMAC.Max())
		es = append(es, e)
	}
	in := 0
	var done []offload.Op
	for i, out := range d.Apply(t.Context(), adds(es...)) {
		switch {
		case out.Status == offload.Done:
			in++
			done = append(done, offload.Op{Kind: offload.Remove, Entry: es[i]})
		case out.Code != offload.CodeFull || !strings.Contains(out.Text, "full"):
			t.Errorf("entry %d: %+v", i, out)
		}
	}
	have, err := d.Installed(t.Context())
	if err != nil || len(have) != 10 || in != 10 {
		t.Errorf("%d are in, %d are read back, %v", in, len(have), err)
	}
	for i, out := range d.Apply(t.Context(), done) {
		if out.Status != offload.Done {
			t.Errorf("remove %d: %+v", i, out)
		}
	}
	if have, err := d.Installed(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("%d are left, %v", len(have), err)
	}
}

// dumped returns the body of the only message of a dump that tells of a filter.
func (l *line) dumped(t *testing.T, dev, parent uint32) []byte {
	t.Helper()
	f := Filter{Device: dev, Parent: parent}
	l.seq++
	ask := message{kind: unix.RTM_GETTFILTER, flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, seq: l.seq, body: f.appendHead(nil)}
	if err := l.Send(ask.append(nil)); err != nil {
		t.Fatal(err)
	}
	var body []byte
	for done := false; !done; {
		b, err := l.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if err := eachMessage(b, func(m message) error {
			done = done || m.kind == unix.NLMSG_DONE
			if f, err := ParseFilter(m.body); m.kind == unix.RTM_NEWTFILTER && err == nil && f.Handle != 0 {
				body = append([]byte(nil), m.body...)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return body
}

// rules are n filters of one priority, each for another address and port.
func rules(dev uint32, n int, flags Flags) []Filter {
	var out []Filter
	for i := range n {
		f := Filter{Device: dev, Parent: Ingress, Priority: 10, Protocol: flow.EthIPv4, Handle: uint32(i + 1), Flags: flags, Actions: []Action{{Kind: "gact", Verdict: Drop}}}
		f.put(KeyEthType, []byte{8, 0}, nil)
		f.put(KeyProto, []byte{flow.ProtoTCP}, nil)
		f.put(KeyDstIPv4, binary.BigEndian.AppendUint32(nil, 0x0a010000|uint32(i)), nil)
		f.put(KeyTCPDst, []byte{0, 80}, nil)
		out = append(out, f)
	}
	return out
}

// TestKernelRate compares what a batch puts in with one-by-one calls of the netlink
// library and with tc -batch, in one run. Ratios mean something, the rates of an emulated
// machine do not.
func TestKernelRate(t *testing.T) {
	must.Long(t, "it puts in thousands of filters three times")
	at := inKernel(t)
	compareRates(t, at[0].Device, "xflow0", 0, 3)
}

// TestCardRate is TestKernelRate with filters for the card alone, whose own time all three
// pay: it is most of what an emulated machine takes for a filter.
func TestCardRate(t *testing.T) {
	must.Long(t, "it puts in thousands of filters three times")
	link, err := netlink.LinkByName(card)
	must.Have(t, "tcamsim", err)
	was, err := os.ReadFile(cardSize)
	must.Have(t, "tcamsim", err)
	defer os.WriteFile(cardSize, was, 0o644)
	if err := os.WriteFile(cardSize, []byte("5000"), 0o644); err != nil {
		t.Fatal(err)
	}
	compareRates(t, uint32(link.Attrs().Index), card, SkipSW, 3)
}

// compareRates puts n filters into a device in three ways, in turn, and compares each way
// with the batches beside it: what else the machine does disturbs neighbours alike. The
// middle of these ratios is what counts.
func compareRates(t *testing.T, dev uint32, name string, flags Flags, overTool float64) {
	n := flowtest.Count(t, "BLADEFLOW_VM_FILTERS", 500)
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := line{kernel: s}
	var ms []message
	for _, f := range rules(dev, n, flags) {
		for i := range f.Actions {
			f.Actions[i].Shared = flags&SkipSW != 0
		}
		ms = append(ms, change(offload.Add, &f))
	}
	only := ""
	if flags&SkipSW != 0 {
		only = "skip_sw "
	}
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "filter add dev %s ingress protocol ip prio 10 flower %sip_proto tcp dst_ip 10.1.%d.%d dst_port 80 action drop\n", name, only, i>>8, i&255)
	}
	file := t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	ways := []struct {
		what  string
		put   func() error
		least float64
		over  []float64 // how many times as long it takes as batches, round by round
	}{
		{what: "batches", put: func() error {
			as, err := l.ask(t.Context(), ms)
			for _, a := range as {
				if a.errno != 0 {
					err = errors.Join(err, a.errno)
				}
			}
			return err
		}},
		{what: "netlink library, one by one", least: 5, put: func() error {
			p := netlink.FilterAttrs{LinkIndex: int(dev), Parent: netlink.HANDLE_MIN_INGRESS, Priority: 10, Protocol: unix.ETH_P_IP}
			tcp := nl.IPProto(unix.IPPROTO_TCP)
			for i := range n {
				err := netlink.FilterAdd(&netlink.Flower{FilterAttrs: p, EthType: unix.ETH_P_IP, IPProto: &tcp, DestIP: net.IPv4(10, 1, byte(i>>8), byte(i)), DestPort: 80, SkipSw: flags&SkipSW != 0,
					Actions: []netlink.Action{&netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_SHOT}}}})
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{what: "tc -batch", least: overTool, put: func() error {
			out, err := exec.Command("tc", "-batch", file).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}},
	}
	took := func(put func() error) float64 {
		q := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: 0xffff0000, Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact"}
		netlink.QdiscDel(q) // there may be none
		if err := netlink.QdiscAdd(q); err != nil {
			t.Fatal(err)
		}
		unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0) // what was freed is freed, and in nobody's time
		start := time.Now()
		if err := put(); err != nil {
			t.Fatal(err)
		}
		return time.Since(start).Seconds()
	}
	var fast []float64
	for range 9 {
		before := took(ways[0].put)
		for i := range ways {
			between := took(ways[i].put)
			after := took(ways[0].put)
			ways[i].over = append(ways[i].over, between/((before+after)/2))
			fast = append(fast, before)
			before = after
		}
	}
	slices.Sort(fast)
	t.Logf("%-28s %8.0f filters a second", ways[0].what, float64(n)/fast[len(fast)/2])
	for _, w := range ways {
		slices.Sort(w.over)
		middle := w.over[len(w.over)/2]
		t.Logf("%-28s %.1f times as long, %.1f to %.1f", w.what, middle, w.over[0], w.over[len(w.over)-1])
		if middle < w.least {
			t.Errorf("%s: batches are %.1f times as fast, want %.0f", w.what, middle, w.least)
		}
	}
}
