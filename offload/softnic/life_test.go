package softnic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
)

// makerEnv holds the Config with which this test binary, started again, plays the
// process that makes a card.
const makerEnv = "SOFTNIC_TEST_MAKER"

func TestMain(m *testing.M) {
	if text := os.Getenv(makerEnv); text != "" {
		playMaker(text)
	}
	if dir := os.Getenv(writerEnv); dir != "" {
		playWriter(dir)
	}
	os.Exit(m.Run())
}

// playMaker makes a card, puts entries in, says so, and goes on changing the table
// until it is killed.
func playMaker(text string) {
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	n, err := Create(c)
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	n.Apply(context.Background(), adds(makersEntries()...))
	os.Stdout.WriteString("made\n")
	for {
		n.SetFaults(Faults{}) // is a write, and changes nothing
	}
}

func makersEntries() []flow.Entry {
	return []flow.Entry{port80(1, 9, 3), port80(2, 8, 4), port80(3, 7, 5)}
}

// TestMakerDies kills the process that made a card, while it writes, and expects the
// card to answer packets and drivers as before.
func TestMakerDies(t *testing.T) {
	c := newCables(t)
	config := Config{Name: "orphan", Ports: c.ports, Entries: 8, PinDir: pinDir(t)}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	maker := exec.Command(os.Args[0])
	maker.Env = append(os.Environ(), makerEnv+"="+string(text))
	out, err := maker.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := in(c.card, maker.Start); err != nil { // a child is born into its thread's namespace
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	time.Sleep(20 * time.Millisecond)
	maker.Process.Kill()
	maker.Wait()
	if strings.TrimSpace(said) != "made" {
		t.Fatalf("the maker said %q", said)
	}

	n, err := Open(config.PinDir)
	must.Have(t, "xdp", err)
	if n.Name() != "orphan" || len(n.Ports()) != 3 {
		t.Errorf("it is called %q and has ports %v", n.Name(), n.Ports())
	}
	es := makersEntries()
	wantInstalled(t, n, es...)
	through(t, c, es, 3)

	mustApply(t, n, adds(port80(4, 99, 6))...)
	through(t, c, append(es, port80(4, 99, 6)), 6)
	if err := n.Destroy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(config.PinDir); !os.IsNotExist(err) {
		t.Errorf("after Destroy: %v", err)
	}
	if err := c.transmit(end{2, false}, frameTo(t, 3)); err != nil {
		t.Fatal(err)
	}
	if got := c.rest(t); len(got) != 0 {
		t.Errorf("a card that is gone still sends:\n%s", show(got))
	}
	// The netdevs are free for another card in the same place.
	if err := in(c.card, func() (err error) { n, err = Create(config); return err }); err != nil {
		t.Fatal(err)
	}
	through(t, c, nil, 3)
	if err := n.Destroy(); err != nil {
		t.Error(err)
	}
}

// through sends one frame to host dst from port 2 and compares what arrives with
// what the entries say.
func through(t *testing.T, c *cables, es []flow.Entry, dst byte) {
	t.Helper()
	frame := frameTo(t, dst)
	k, err := flow.Parse(frame, 2)
	if err != nil {
		t.Fatal(err)
	}
	var e *flow.Entry
	for i := range es {
		if es[i].Match.Matches(&k) {
			e = &es[i]
		}
	}
	if err := c.transmit(end{2, false}, frame); err != nil {
		t.Fatal(err)
	}
	want := due(e, frame, 2)
	if got := append(c.arrivals(t, len(want)), c.rest(t)...); !same(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", show(got), show(want))
	}
}

// TestHandles changes one card through several handles at once, which keep out of
// each other's way.
func TestHandles(t *testing.T) {
	b := newBench(t, MaxEntries, 1, 2)
	var wg sync.WaitGroup
	for h := range 4 {
		n, err := Open(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		wg.Go(func() {
			for i := range 100 {
				e := port80(flow.EntryID(1000*h+i+1), uint64(i), byte(h))
				if o := n.Apply(t.Context(), adds(e))[0]; o.Status != offload.Done {
					t.Errorf("handle %d: %+v", h, o)
				}
				if i%2 == 0 {
					if err := n.Evict(e.ID); err != nil {
						t.Errorf("handle %d: %v", h, err)
					}
				}
				if _, err := n.Counters(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := b.Installed(t.Context())
	if err != nil || len(got) != 200 {
		t.Errorf("%d entries, want 200, %v", len(got), err)
	}
	slots := map[uint32]bool{}
	for _, line := range b.mem.Table.Entry[:b.mem.Table.N] {
		if slots[line.Slot] {
			t.Errorf("two entries share slot %d", line.Slot)
		}
		slots[line.Slot] = true
	}
	if _, err := Open(filepath.Join(b.dir, "none")); err == nil {
		t.Error("opened a card that is not there")
	}
}

// TestClaim lets two handles want the same card. What is claimed is free again when its
// handle is closed, and a claim does not stand in the way of who looks, or of Destroy.
func TestClaim(t *testing.T) {
	b := newBench(t, 8, 1, 2)
	open := func() *NIC {
		n, err := Open(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	first, second := open(), open()
	if err := first.Claim(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*NIC{first, second} {
		if f, ok := errors.AsType[*flow.Fault](n.Claim()); !ok || f.Code != "E_SOFTNIC_CLAIMED" {
			t.Errorf("claimed twice: %v", f)
		}
	}
	if _, err := second.Installed(t.Context()); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Claim(); err != nil {
		t.Errorf("after the first is closed: %v", err)
	}
}
