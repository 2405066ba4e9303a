package peers

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestRun measures every path that this machine has once, with few frames: the figures
// say nothing, but every path must carry frames, and nothing may be left behind.
func TestRun(t *testing.T) {
	s, err := newStand(newTraffic(1, 1, 1).flows, false)
	must.Have(t, "veth", err)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := kept(t)
	r, err := Run(context.Background(), Config{Frames: 5000, RoundTrips: 50, Repetitions: 1, Rules: 300, Flows: 64, Seed: 1})
	must.Have(t, "afxdp", err)
	if after := kept(t); !slices.Equal(before, after) {
		t.Errorf("before it kept\n%v\nand after\n%v", before, after)
	}
	measured := map[string][]Mode{}
	for _, p := range r.Paths {
		measured[p.Name] = append(measured[p.Name], p.Mode)
		if p.CPU.Median <= 0 || p.Delivered <= 0 || p.Delivered > 1 {
			t.Errorf("%+v", p)
		}
	}
	for _, l := range r.Latency {
		if l.P50.Median <= 0 || l.P99.Median < l.P50.Median || l.Lost > 0 {
			t.Errorf("%+v", l)
		}
	}
	for _, l := range r.LeftOut {
		t.Logf("left out: %s: %s", l.Name, l.Why)
	}
	for _, p := range paths() {
		if slices.ContainsFunc(r.LeftOut, func(l LeftOut) bool { return l.Name == p.name }) {
			continue
		}
		for _, mode := range p.modes {
			if !slices.Contains(measured[p.name], mode) && (r.Machine.Cores > 1 || mode == OneCore || mode == ToKernel) {
				t.Errorf("%s was not measured: %s", p.name, mode)
			}
		}
		if p.both && !slices.ContainsFunc(r.Latency, func(l Latency) bool { return l.Name == p.name }) {
			t.Errorf("%s: no round trips", p.name)
		}
	}
	if len(r.Ratios) == 0 {
		t.Error("no ratios")
	}
}

// kept returns what a run could leave behind in this process and its namespace:
// netdevs, and how many files are open. Namespaces, programs and maps are files.
func kept(t *testing.T) []string {
	t.Helper()
	var names []string
	devs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devs {
		names = append(names, d.Name)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		to, _ := os.Readlink("/proc/self/fd/" + f.Name())
		names = append(names, to)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		return name == "" || name == "anon_inode:[eventpoll]" || name == "anon_inode:[eventfd]"
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Flows: 3}, {Flows: 1 << 17}, {Frames: -1}, {Only: []string{"token-ring"}}} {
		_, err := Run(context.Background(), c)
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != "E_BENCH" || f.Remedy == "" {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestFrame checks that frames are what the parser makes the flow's key of, with a right
// checksum.
func TestFrame(t *testing.T) {
	traffic := newTraffic(100, 64, 7)
	table, err := traffic.table(flow.Action{Op: flow.Drop})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range traffic.flows {
		b := f.frame()
		k, err := flow.Parse(b, insidePort)
		if err != nil || k.Get(flow.Flags) != flow.FlagIP|flow.FlagL4 || address(k.Get(flow.SrcLo)) != f.src || address(k.Get(flow.DstLo)) != f.dst ||
			k.Get(flow.SrcPort) != uint64(f.srcPort) || k.Get(flow.DstPort) != uint64(f.dstPort) {
			t.Fatalf("%+v: %x: %v", f, b, err)
		}
		var sum uint32
		for i := 14; i < 34; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if sum>>16+sum&0xffff != 0xffff {
			t.Errorf("%+v: header sums up to %x", f, sum)
		}
		if rule := table.Lookup(&k); rule == table.Len() {
			t.Errorf("%+v meets no rule", f)
		}
	}
}

// TestPin checks that a run gives the threads back.
func TestPin(t *testing.T) {
	var before, one, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	last := 0
	for cpu := range len(before) * 64 {
		if before.IsSet(cpu) {
			last = cpu
		}
	}
	restore, err := pin(last)
	if err != nil {
		t.Fatal(err)
	}
	if unix.SchedGetaffinity(0, &one); one.Count() != 1 || !one.IsSet(last) {
		t.Errorf("pinned to %d: %v", last, one)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if unix.SchedGetaffinity(0, &after); after != before {
		t.Errorf("before %v, after %v", before, after)
	}
}
