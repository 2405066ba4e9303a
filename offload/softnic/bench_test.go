package softnic

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
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
