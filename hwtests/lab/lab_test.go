package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// TestMain also is the process that TestKilled kills.
func TestMain(m *testing.M) {
	if os.Getenv("BLADEFLOW_LAB_CHILD") == "" {
		os.Exit(m.Run())
	}
	l, err := Up(context.Background(), Config{Blades: 1, VFs: 1})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(l.Name + "\n")
	select {}
}

// up builds a lab for a test.
func up(t *testing.T, c Config) *Lab {
	t.Helper()
	began := time.Now()
	l, err := Up(context.Background(), c)
	if err != nil {
		r := Doctor(context.Background())
		must.Have(t, FeatureVeth, r.Err(FeatureVeth))
		must.Have(t, FeatureXDP, r.Err(FeatureXDP))
		t.Fatal(err)
	}
	t.Logf("up in %v", time.Since(began))
	t.Cleanup(func() {
		began := time.Now()
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		t.Logf("down in %v", time.Since(began))
	})
	return l
}

// machine is what a lab could leave behind.
func machine(t *testing.T) (left []string) {
	t.Helper()
	names, err := netns.Names()
	if err != nil {
		t.Fatal(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, "link "+l.Attrs().Name)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		names = append(names, "mount "+strings.TrimSpace(line))
	}
	dirs, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, d := range dirs {
		names = append(names, "directory "+d.Name())
	}
	// Other labs may come and go meanwhile.
	mine, err := newName(0)
	if err != nil {
		t.Fatal(err)
	}
	mine = strings.TrimSuffix(mine, "0")
	for _, n := range names {
		if strings.Contains(n, mine) || strings.HasPrefix(n, "link") {
			left = append(left, n)
		}
	}
	slices.Sort(left)
	return left
}

func TestUpDown(t *testing.T) {
	before := machine(t)
	l := up(t, Config{Blades: 2, VFs: 4})
	other := up(t, Config{Blades: 1, VFs: 1, Bare: true})
	if l.Name == other.Name {
		t.Error("two labs have one name")
	}
	if n := len(machine(t)); n <= len(before) {
		t.Error("the lab cannot be seen")
	}
	if err := errors.Join(l.Down(), other.Down(), l.Down()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(before, machine(t)); d != "" {
		t.Errorf("left behind:\n%s", d)
	}
}

// TestPartial makes Up fail at each place where a lab touches the machine, and
// looks for what is left.
func TestPartial(t *testing.T) {
	up(t, Config{Blades: 1, VFs: 1, Bare: true}).Down() // or be skipped
	before := machine(t)
	for calls := range 12 {
		ctx := &failing{Context: context.Background(), after: calls}
		l, err := Up(ctx, Config{Blades: 1, VFs: 2, Bare: true})
		if err == nil {
			if err := l.Down(); err != nil {
				t.Error(err)
			}
			if calls < 7 {
				t.Errorf("Up did not notice after %d steps", calls)
			}
			continue
		}
		var f *flow.Fault
		if !errors.Is(err, context.Canceled) || !errors.As(err, &f) {
			t.Error(err)
		}
		if d := cmp.Diff(before, machine(t)); d != "" {
			t.Errorf("after %d steps left behind:\n%s", calls, d)
		}
	}
}

// failing is a context that is cancelled once its Err was asked for some times.
type failing struct {
	context.Context
	after int
}

func (f *failing) Err() error {
	if f.after--; f.after < 0 {
		return context.Canceled
	}
	return nil
}

// TestNeighbours checks that a workload knows all others, and knows them again after
// its link was down.
func TestNeighbours(t *testing.T) {
	l := up(t, Config{Blades: 2, VFs: 3, Bare: true, Sequences: 1})
	w := l.Blades[1].Workloads[0]
	link, err := w.Eth0.link()
	if err != nil {
		t.Fatal(err)
	}
	known := func() (n int) {
		t.Helper()
		list, err := w.Eth0.NS.Links().NeighList(link.Attrs().Index, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if x.State == netlink.NUD_PERMANENT {
				n++
			}
		}
		return n
	}
	if n := known(); n != 5 {
		t.Errorf("%d neighbours, want 5", n)
	}
	if err := errors.Join(w.Eth0.NS.Links().LinkSetDown(link), w.Eth0.NS.Links().LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	if n := known(); n != 0 {
		t.Errorf("%d neighbours survived: SetNeighbours is not needed any more", n)
	}
	if err := l.SetNeighbours(w); err != nil || known() != 5 {
		t.Errorf("%d neighbours, want 5: %v", known(), err)
	}
}

// TestKilled kills a process that has a lab up: the next Up removes that lab, and
// does not touch the one of a process that lives.
func TestKilled(t *testing.T) {
	up(t, Config{Blades: 1, VFs: 1, Bare: true}).Down()
	child := func() (*exec.Cmd, string) {
		t.Helper()
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "BLADEFLOW_LAB_CHILD=1")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		name := make([]byte, 100)
		n, _ := out.Read(name)
		if n == 0 {
			c.Wait()
			t.Fatalf("no lab in the child: %s", &stderr)
		}
		return c, strings.TrimSpace(string(name[:n]))
	}
	there := func(lab string) bool {
		names, err := netns.Names()
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(filepath.Join(stateDir, lab))
		return err == nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, lab) })
	}
	dead, deadLab := child()
	live, liveLab := child()
	dead.Process.Kill()
	dead.Wait()
	if !there(deadLab) {
		t.Fatal("killing a process removed its lab: this tests nothing")
	}
	up(t, Config{Blades: 1, VFs: 1, Bare: true})
	if there(deadLab) {
		t.Error("the lab of the killed process is still there")
	}
	if !there(liveLab) {
		t.Error("the lab of the living process is gone")
	}
	live.Process.Kill()
	live.Wait()
	if err := Clean(); err != nil || there(liveLab) {
		t.Errorf("Clean left a lab: %v", err)
	}
}

func TestOrphaned(t *testing.T) {
	mine, err := newName(3)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		mine:                                false,
		mine + "-b1-card":                   false,
		strings.Replace(mine, "-", "-z", 1): true,  // the number of this process, started at another time
		"bf4194305-0-0-fabric":              true,  // beyond the largest pid
		"bf4194305":                         false, // not a name of ours
		"bf-1-2":                            false,
		"bfx-1-2":                           false,
		"bf1-%-2":                           false,
		"kubernetes":                        false,
		"":                                  false,
	} {
		if got := orphaned(name); got != want {
			t.Errorf("orphaned(%q) = %v, want %v", name, got, want)
		}
	}
}

// TestScratch makes directories of this process, which Clean leaves, and one of a process
// that is gone.
func TestScratch(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	one, err := Scratch()
	if err != nil {
		t.Fatal(err)
	}
	two, err := Scratch()
	if err != nil || one == two {
		t.Fatalf("%s twice, %v", one, err)
	}
	gone := filepath.Join(os.TempDir(), scratch+"bf4194305-0-0") // beyond the largest pid
	if err := os.MkdirAll(filepath.Join(gone, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Clean(); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{one: true, two: true, gone: false} {
		if info, err := os.Stat(dir); (err == nil) != want || err == nil && info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v, want it there: %t", dir, info, err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Blades: -1}, {Blades: 201}, {VFs: 61}, {Entries: 1 << 20}, {Sequences: 1 << 30}, {Keep: -1}} {
		_, err := Up(context.Background(), c)
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != "E_LAB_CONFIG" {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
