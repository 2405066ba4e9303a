package fallback_test

//go:generate bpf2go -go-package fallback_test -target bpfel -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type score -output-suffix _test traffic bpf/traffic.c

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// traffic makes frames at one far end and counts them at others.
type traffic struct {
	make, sink *ebpf.Program
	ends       *ebpf.Map
	score      *trafficScore
	dropped    uint64 // how many flows of a burst the table drops
}

// newTraffic loads the programs, for so many flows from this source address on, in the
// current namespace.
func newTraffic(t testing.TB, flows, source uint32) *traffic {
	t.Helper()
	spec, err := loadTraffic()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(spec.Variables[trafficVarFlows].Set(flows), spec.Variables[trafficVarSource].Set(source)); err != nil {
		t.Fatal(err)
	}
	var o trafficObjects
	must.Have(t, "xdp", spec.LoadAndAssign(&o, nil))
	t.Cleanup(func() { o.Close() })
	// A call of BPF_PROG_TEST_RUN puts the program into the kernel's dispatcher and takes it
	// out again, which takes 27 ms, unless it is there because a device has it.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("s%d", source)
	spare := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("p%d", source)}
	must.Have(t, "veth", netlink.LinkAdd(spare))
	held, err := link.AttachXDP(link.XDPOptions{Program: o.Make, Interface: spare.Index, Flags: link.XDPDriverMode})
	must.Have(t, "xdp", err)
	t.Cleanup(func() { held.Close() })
	memory, err := unix.Mmap(o.Scores.FD(), 0, int(unsafe.Sizeof(trafficScore{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(memory) })
	// Page aligned, as long as the map's value, and not the garbage collector's.
	return &traffic{make: o.Make, sink: o.Sink, ends: o.Ends, score: (*trafficScore)(unsafe.Pointer(&memory[0]))}
}

// sinkAt counts what arrives at the far end of a cable as frames of a port, from 0.
func (x *traffic) sinkAt(t testing.TB, c *cable, port uint32) {
	t.Helper()
	if err := x.ends.Put(uint32(c.far), port); err != nil {
		t.Fatal(err)
	}
}

func (x *traffic) made() uint64 { return atomic.LoadUint64(&x.score.Made) }

// due is how many of the frames made must come out.
func (x *traffic) due() uint64 { return x.made() - x.made()/burst*x.dropped }

// out is how many frames came out anywhere.
func (x *traffic) out() (n uint64) {
	for i := range x.score.Out {
		n += atomic.LoadUint64(&x.score.Out[i])
	}
	return n
}

// burst is how many frames one call makes, which leave together: one of each flow, if
// there are so many flows.
const burst = 64

// start makes frames at a far end until the test ends or stop is called, which waits for
// the last one; before each burst it asks whether to go on.
func (x *traffic) start(t testing.TB, far int, pace func() (goOn bool)) (stop func()) {
	t.Helper()
	return x.startOn(t, far, -1, pace)
}

// startOn is start on a CPU; -1 is any.
func (x *traffic) startOn(t testing.TB, far, cpu int, pace func() (goOn bool)) (stop func()) {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	var ending atomic.Bool
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that nobody inherits the namespace
		defer here.Close()
		if err := netns.Set(here); err != nil {
			ended <- err
			return
		}
		if cpu >= 0 {
			var only unix.CPUSet
			only.Set(cpu)
			if err := unix.SchedSetaffinity(0, &only); err != nil {
				ended <- err
				return
			}
		}
		context := make([]byte, 24) // struct xdp_md
		binary.NativeEndian.PutUint32(context[4:], 64)
		binary.NativeEndian.PutUint32(context[12:], uint32(far))
		run := &ebpf.RunOptions{Data: make([]byte, 64), Context: context, Repeat: burst, BatchSize: burst, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES}
		for !ending.Load() && pace() {
			// Each call takes one of 65,536 memory IDs, which the kernel gives back late.
			for _, err = x.make.Run(run); errors.Is(err, unix.ENOSPC); _, err = x.make.Run(run) {
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			ending.Store(true)
			if err := <-ended; err != nil {
				t.Error("make frames:", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// window lets at most n frames be on their way.
func (x *traffic) window(n uint64) func() bool {
	return func() bool {
		for start := time.Now(); x.due()-x.out()+burst > n; {
			if time.Since(start) > 10*time.Second {
				return false // lost: the test will count
			}
			time.Sleep(20 * time.Microsecond)
		}
		return true
	}
}

// every lets a burst go every so often, and makes up for none that was late.
func every(gap time.Duration) func() bool {
	next := time.Now()
	return func() bool {
		time.Sleep(time.Until(next))
		if now := time.Now(); next.Before(now) {
			next = now
		}
		next = next.Add(gap)
		return true
	}
}

// usableCPUs are those that this thread may run on.
func usableCPUs(t testing.TB) (cpus []int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// layTraffic lays cables of so many queues for ports 1 … n, whose far ends count what x
// makes.
func layTraffic(t testing.TB, n int, x *traffic, queues int) map[flow.Port]*cable {
	t.Helper()
	cables := map[flow.Port]*cable{}
	for port := flow.Port(1); int(port) <= n; port++ {
		cables[port] = layWide(t, string(rune('a'+port-1)), x.sink, queues)
	}
	return cables
}
