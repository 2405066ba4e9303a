package softnic

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// pinDir returns a name in a bpffs of its own.
func pinDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	must.Have(tb, "xdp", unix.Mount("bpf", dir, "bpf", 0, "mode=0700"))
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			tb.Errorf("unmount: %v", err)
		}
	})
	return filepath.Join(dir, "card")
}

// onBench is a card that is on no netdev: frames are put into its programs by
// BPF_PROG_TEST_RUN, as if they came in by port in, and what they say is looked at.
type onBench struct {
	*NIC
	programs *xdp.CardObjects
	in       flow.Port
}

func newBench(tb testing.TB, entries int, ports ...flow.Port) onBench {
	tb.Helper()
	c := Config{Name: "bench", Entries: entries, PinDir: pinDir(tb)}
	for _, p := range ports {
		c.Ports = append(c.Ports, Port{p, "lo", "lo"})
	}
	must.Have(tb, "xdp", unix.Mkdir(c.PinDir, 0o700))
	card, err := c.load()
	must.Have(tb, "xdp", err)
	tb.Cleanup(func() { card.Close() })
	if err := c.pin(card); err != nil {
		tb.Fatal(err)
	}
	n, err := Open(c.PinDir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Destroy(); err != nil {
			tb.Error(err)
		}
	})
	n.mem.Table.Limit = uint32(entries)
	if err := n.SetFaults(Faults{}); err != nil {
		tb.Fatal(err)
	}
	return onBench{n, card, ports[len(ports)-1]} // lo is the port that was told last
}

// key returns what the card's parser sees of a frame.
func (b onBench) key(tb testing.TB, frame []byte) flow.Key {
	tb.Helper()
	ret, out, err := b.programs.CardKey.Test(frame)
	if err != nil || ret != 2 {
		tb.Fatalf("card_key on %x: returned %d, %v", frame, ret, err)
	}
	var k flow.Key
	for i := range k {
		for j := range 8 {
			k[i] |= uint64(out[8*i+j]) << (8 * j)
		}
	}
	return k
}

// TestParse compares the card's parser with the definition, bit for bit.
func TestParse(t *testing.T) {
	b := newBench(t, 1, 7)
	rng := rand.New(rand.NewPCG(1, 2))
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	seen := map[uint64]int{}
	for range n {
		frame := flowtest.Frame(rng)
		want, err := flow.Parse(frame, b.in)
		if err != nil {
			continue // BPF_PROG_TEST_RUN takes no such frame, nor does a netdev
		}
		seen[want.Get(flow.Flags)]++
		if got := b.key(t, frame); got != want {
			t.Fatalf("frame %x:\n%s", frame, cmp.Diff(want, got))
		}
	}
	t.Logf("frames by flags: %v", seen)
}

// fate is what the card did with a frame that was put into it.
type fate struct {
	entry flow.EntryID // the entry that counted it, 0 if none did
	stats Stats        // what the port's statistics grew by
	ret   uint32       // what the program returned
}

const xdpDrop, xdpRedirect = 1, 4

// put lets a frame come in by port in and returns what became of it.
func (b onBench) put(tb testing.TB, frame []byte, in flow.Port) fate {
	tb.Helper()
	if err := b.programs.Ports.Put(loopback, xdp.CardNetdev{Port: uint16(in)}); err != nil {
		tb.Fatal(err)
	}
	before, counted := b.portStats(tb, in), b.packets()
	ret, _, err := b.programs.CardPort.Test(frame)
	if err != nil {
		tb.Fatalf("card_port on %x: %v", frame, err)
	}
	f := fate{ret: ret, stats: b.portStats(tb, in).minus(before)}
	for id, n := range b.packets() {
		if n != counted[id] {
			f.entry = id
		}
	}
	return f
}

const loopback uint32 = 1 // its ifindex in every network namespace

// packets returns the packet counter of every entry.
func (b onBench) packets() map[flow.EntryID]uint64 {
	out := map[flow.EntryID]uint64{}
	for i := range b.mem.Table.Entry[:b.mem.Table.N] {
		line := &b.mem.Table.Entry[i]
		out[flow.EntryID(line.Id)] = b.count(line.Slot).Packets
	}
	return out
}

func (b onBench) portStats(tb testing.TB, p flow.Port) Stats {
	tb.Helper()
	all, err := b.Stats()
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range all {
		if s.Port == p {
			return s
		}
	}
	tb.Fatalf("no port %d", p)
	return Stats{}
}

func (s Stats) minus(o Stats) Stats {
	return Stats{Port: s.Port, Hits: s.Hits - o.Hits, Misses: s.Misses - o.Misses, Guarded: s.Guarded - o.Guarded, Odd: s.Odd - o.Odd,
		Conflicts: s.Conflicts - o.Conflicts, FromHost: s.FromHost - o.FromHost, Out: s.Out - o.Out, Full: s.Full - o.Full, Lost: s.Lost - o.Lost}
}

// answer is the definition: the first entry by priority that holds the key, unless
// the model says that the card misses it.
func answer(m *device.Model, entries []flow.Entry, k flow.Key) *flow.Entry {
	for i := range m.Missed {
		if m.Missed[i].Matches(&k) {
			return nil
		}
	}
	var best *flow.Entry
	for i := range entries {
		if e := &entries[i]; e.Match.Matches(&k) && (best == nil || e.Priority > best.Priority) {
			best = e
		}
	}
	return best
}

// want is the fate that the definition gives a frame whose answer is e.
func want(m *device.Model, e *flow.Entry, k flow.Key, in flow.Port) fate {
	f := fate{ret: xdpRedirect, stats: Stats{Port: in}}
	switch {
	case e == nil && (k.Get(flow.Flags)&(flow.FlagOdd|flow.FlagFragLater)) != 0:
		f.stats.Odd = 1
	case e == nil:
		f.stats.Misses = 1
	case e.Punt():
		f.entry, f.stats.Guarded = e.ID, 1
	default:
		f.entry, f.stats.Hits = e.ID, 1
		if !slices.ContainsFunc(e.Actions, func(a flow.Action) bool { return len(a.Ports) > 0 }) {
			f.ret = xdpDrop
		}
	}
	return f
}

// entries turns rules into entries that the card can hold: some are guards, what is
// software's alone becomes a drop, and a second copy to a port is left out.
func entries(rng *rand.Rand, rules []flow.Rule) []flow.Entry {
	var out []flow.Entry
	for i, r := range rules {
		e := flow.Entry{ID: flow.EntryID(i + 1), Rule: r.ID, Priority: uint64(r.Priority), Match: r.Match, Kind: flow.EntryKind(rng.IntN(3))}
		if e.Kind != flow.GuardEntry {
			e.Actions = hardware(r.Actions)
		}
		out = append(out, e)
	}
	return out
}

func hardware(actions flow.Actions) flow.Actions {
	var out flow.Actions
	sent := map[flow.Port]bool{}
	for _, a := range actions {
		if a.Op == flow.Normal || a.Op == flow.Pass {
			a = flow.Action{Op: flow.Drop}
		}
		if a.Op == flow.Output || a.Op == flow.Mirror {
			var ports []flow.Port
			for _, p := range a.Ports {
				if !sent[p] {
					ports = append(ports, p)
				}
				sent[p] = true
			}
			switch a.Ports = ports; {
			case len(ports) > 0:
			case a.Op == flow.Output:
				a = flow.Action{Op: flow.Drop}
			default:
				continue
			}
		}
		out = append(out, a)
	}
	return out
}

// mustApply applies ops that must all be done.
func mustApply(tb testing.TB, n *NIC, ops ...offload.Op) []offload.Outcome {
	tb.Helper()
	out := n.Apply(tb.Context(), ops)
	for i, o := range out {
		if o.Status != offload.Done {
			tb.Fatalf("%s of entry %x: %+v", ops[i].Kind, ops[i].Entry.ID, o)
		}
	}
	return out
}

func adds(entries ...flow.Entry) []offload.Op {
	var ops []offload.Op
	for _, e := range entries {
		ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
	}
	return ops
}

func removes(entries ...flow.Entry) []offload.Op {
	var ops []offload.Op
	for _, e := range entries {
		ops = append(ops, offload.Op{Kind: offload.Remove, Entry: e})
	}
	return ops
}

func model(tb testing.TB, n *NIC) *device.Model {
	tb.Helper()
	m, err := n.Model(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return &m
}

// TestDecision puts every key of small universes, and random frames, into random
// tables and compares the card's answer with the definition.
func TestDecision(t *testing.T) {
	b := newBench(t, 16, 1, 2, 3)
	m := model(t, b.NIC)
	rng := rand.New(rand.NewPCG(3, 4))
	rounds := 12
	if testing.Short() {
		rounds = 2
	}
	tried := map[string]int{}
	for _, u := range flowtest.Universes() {
		for range rounds {
			es := entries(rng, u.Rules(rng, 1+rng.IntN(16), []flow.Port{1, 2, 3}))
			mustApply(t, b.NIC, adds(es...)...)
			try := func(frame []byte, in flow.Port) {
				k, err := flow.Parse(frame, in)
				if err != nil {
					return
				}
				e := answer(m, es, k)
				got, want := b.put(t, frame, in), want(m, e, k, in)
				if got != want {
					t.Fatalf("universe %s, frame %x from port %d: got %+v, want %+v (entry %+v)", u.Name, frame, in, got, want, e)
				}
				switch {
				case want.stats.Odd == 1:
					tried["odd"]++
				case e == nil:
					tried["miss"]++
				default:
					tried[e.Kind.String()]++
				}
			}
			for _, k := range u.Keys {
				in := flow.Port(k.Get(flow.InPort))
				if !m.Has(in) {
					continue
				}
				frame, err := flow.Frame(k, []byte("payload"))
				if err != nil {
					t.Fatal(err)
				}
				try(frame, in)
			}
			for range 50 {
				try(flowtest.Frame(rng), flow.Port(1+rng.IntN(3)))
			}
			mustApply(t, b.NIC, removes(es...)...)
		}
	}
	t.Logf("frames by answer: %v", tried)
	for _, kind := range []string{"odd", "miss", "rule", "guard", "piece"} {
		if tried[kind] < 100 {
			t.Errorf("only %d frames were answered by %s", tried[kind], kind)
		}
	}
}

// TestBlind makes the card lie about one bit and expects that frames show it and the
// dump does not.
func TestBlind(t *testing.T) {
	b := newBench(t, 16, 1, 2, 3)
	var k flow.Key = flowtest.TCP()
	e := flow.Entry{ID: 1, Rule: 1, Priority: 1, Actions: flow.Actions{{Op: flow.Drop}}}
	e.Match.Pin(flow.DstLo, k.Get(flow.DstLo), 0xffffffff)
	mustApply(t, b.NIC, adds(e)...)
	k.Set(flow.DstLo, k.Get(flow.DstLo)^4)
	frame, err := flow.Frame(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, hits uint64) {
		t.Helper()
		if got := b.put(t, frame, 2); got.stats.Hits != hits {
			t.Errorf("%s: %d hits, want %d", what, got.stats.Hits, hits)
		}
		if got, err := b.Installed(t.Context()); err != nil || len(got) != 1 || !got[0].Equal(&e) {
			t.Errorf("%s: the dump is %+v, %v", what, got, err)
		}
	}
	check("honest", 0)
	var blind flow.Key
	blind.Set(flow.DstLo, 4)
	if err := b.SetFaults(Faults{Blind: blind}); err != nil {
		t.Fatal(err)
	}
	check("blind", 1)
	if err := b.SetFaults(Faults{}); err != nil {
		t.Fatal(err)
	}
	check("honest again", 0)
}

// TestDeaf has a card that lists entries which it never answers by, for a bit of a mask or for
// a range, and expects that frames go to the entry below.
func TestDeaf(t *testing.T) {
	b := newBench(t, 16, 1, 2, 3)
	k := flowtest.TCP()
	below := flow.Entry{ID: 1, Rule: 1, Priority: 1, Actions: flow.Actions{{Op: flow.Drop}}}
	above := flow.Entry{ID: 2, Rule: 2, Priority: 2, Kind: flow.GuardEntry}
	above.Match.Pin(flow.DstLo, k.Get(flow.DstLo), 0xffffffff)
	ranged := flow.Entry{ID: 3, Rule: 2, Priority: 3, Kind: flow.GuardEntry}
	port := uint16(k.Get(flow.DstPort))
	ranged.Match.SetPorts(flow.DstPort, port-1, port+1)
	mustApply(t, b.NIC, adds(ranged, above, below)...)
	frame, err := flow.Frame(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(deaf flow.Key, hits, guarded uint64) {
		t.Helper()
		if err := b.SetFaults(Faults{Deaf: deaf}); err != nil {
			t.Fatal(err)
		}
		if got := b.put(t, frame, 2); got.stats.Hits != hits || got.stats.Guarded != guarded {
			t.Errorf("deaf to %v: %d hits and %d guarded, want %d and %d", deaf, got.stats.Hits, got.stats.Guarded, hits, guarded)
		}
		wantInstalled(t, b.NIC, ranged, above, below)
	}
	var address, ports, both flow.Key
	address.Set(flow.DstLo, 1)
	ports.Set(flow.DstPort, 1)
	both.Set(flow.DstLo, 1)
	both.Set(flow.DstPort, 1)
	check(flow.Key{}, 0, 1)
	check(address, 0, 1)
	check(ports, 0, 1)
	check(both, 1, 0)
	check(flow.Key{}, 0, 1)
}

// BenchmarkPort measures the port program alone on a frame that only the last of n
// entries matches. It says how programs compare, not what a port can carry.
func BenchmarkPort(b *testing.B) {
	for _, n := range []int{0, 16, 128, 512} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			card := newBench(b, max(n, 1), 1, 2)
			k := flowtest.TCP()
			for i := range n {
				e := flow.Entry{ID: flow.EntryID(i + 1), Rule: 1, Priority: uint64(n - i), Kind: flow.PieceEntry, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{1}}}}
				e.Match.Pin(flow.DstLo, k.Get(flow.DstLo)+uint64(n-1-i), 0xffffffff)
				mustApply(b, card.NIC, adds(e)...)
			}
			frame, err := flow.Frame(k, make([]byte, 10))
			if err != nil {
				b.Fatal(err)
			}
			ret, d, err := card.programs.CardPort.Benchmark(frame, b.N, b.ResetTimer)
			if err != nil || ret != xdpRedirect {
				b.Fatalf("returned %d, %v", ret, err)
			}
			b.ReportMetric(float64(d.Nanoseconds()), "ns/packet")
		})
	}
}
