package afxdp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/afxdp/internal/live"
	"github.com/bladeflow/bladeflow/flow"
)

// Kernel hands frames to the kernel as XDP live frames: the kernel runs a program
// that says XDP_PASS on each, as if the representor had received it. The program
// that leads the representor's frames to a [Link] does not see them.
//
// It needs no device of its own, but the kernel makes and drops a page pool for
// each call: 22 to 32 µs of CPU per frame, where afpacket.Kernel takes 0.5 to 2. It must
// not be used beside an afpacket link, which would take the frames for received ones.
//
// The kernel finds the representor by its number in the network namespace of the
// calling thread. Where that is another one than the representors', the thread goes there
// for the call. (A thread of its own that lived there cost two changes of threads for each
// frame, one frame at a time for all ports: where others wanted the processors, a batch of
// 64 frames kept its worker, and with it the next table, for up to seconds.)
type Kernel struct {
	home  netns.NsHandle // the representors' namespace
	inode uint64         // what it is known by
	pass  *ebpf.Program
	ports map[flow.Port]*receiver
}

// receiver is one representor.
type receiver struct {
	ifindex int

	mu     sync.Mutex // one frame at a time; guards what follows
	runner *live.Runner
	closed bool
}

// OpenKernel makes a Kernel for the representors of ports, given by ifindex, and
// tries each with a frame that is dropped. The calling thread must be in their
// network namespace.
func OpenKernel(ports map[flow.Port]int) (*Kernel, error) {
	k := &Kernel{home: netns.None(), ports: map[flow.Port]*receiver{}}
	if err := k.open(ports); err != nil {
		k.Close()
		return nil, &flow.Fault{Code: "E_LIVE_FRAMES", What: "pass to the kernel by XDP live frames", Why: err.Error(),
			Remedy: "use a tap device instead", Err: err}
	}
	return k, nil
}

// open makes the program, and tries every device with one that drops.
func (k *Kernel) open(ports map[flow.Port]int) (err error) {
	if k.home, err = netns.Get(); err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	var at unix.Stat_t
	if err := unix.Fstat(int(k.home), &at); err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	k.inode = at.Ino
	const xdpDrop, xdpPass = 1, 2 // enum xdp_action
	saying := func(action int32) *ebpf.ProgramSpec {
		return &ebpf.ProgramSpec{Name: "bladeflow_pass", Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, action), asm.Return()}}
	}
	drop, err := ebpf.NewProgram(saying(xdpDrop))
	if err != nil {
		return fmt.Errorf("load an XDP program: %w", err)
	}
	defer drop.Close()
	for port, ifindex := range ports {
		r := &receiver{ifindex: ifindex}
		if r.runner, err = live.NewRunner(); err != nil {
			return err
		}
		k.ports[port] = r
		if err := r.run(drop.FD(), make([]byte, 60)); err != nil {
			return fmt.Errorf("try port %d, interface %d: %w", port, ifindex, err)
		}
	}
	k.pass, err = ebpf.NewProgram(saying(xdpPass))
	if err != nil {
		return fmt.Errorf("load an XDP program: %w", err)
	}
	return nil
}

// run makes one call. Every call takes one of 65,536 memory IDs and the kernel
// gives them back late: ENOSPC means too many calls of late, and passes. mu is held, but
// when the Kernel is opened.
func (r *receiver) run(program int, frame []byte) error {
	const tries = 20
	for i := 0; ; i++ {
		err := r.runner.Run(program, r.ifindex, frame)
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.ENOMEM) || i == tries {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Deliver makes a frame arrive in the kernel on the representor of port.
func (k *Kernel) Deliver(port flow.Port, frame []byte) error {
	r, ok := k.ports[port]
	if !ok {
		return fmt.Errorf("pass to the kernel: port %d has no representor here", port)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	if err := k.there(func() error { return r.run(k.pass.FD(), frame) }); err != nil {
		return fmt.Errorf("pass to the kernel on interface %d: %w", r.ifindex, err)
	}
	return nil
}

// there runs f on a thread that is in the representors' namespace. A thread that does not
// come back from there stays locked, and ends with its goroutine.
func (k *Kernel) there(f func() error) error {
	runtime.LockOSThread()
	var at unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &at); err == nil && at.Ino == k.inode {
		defer runtime.UnlockOSThread()
		return f()
	}
	back, err := netns.Get()
	if err == nil {
		defer back.Close()
		err = netns.Set(k.home)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if lost := netns.Set(back); lost != nil {
		return errors.Join(err, lost)
	}
	runtime.UnlockOSThread()
	return err
}

// Close ends it.
func (k *Kernel) Close() error {
	var errs []error
	for _, r := range k.ports {
		r.mu.Lock()
		if !r.closed {
			r.closed = true
			errs = append(errs, r.runner.Close())
		}
		r.mu.Unlock()
	}
	errs = append(errs, k.pass.Close())
	k.pass = nil
	if k.home.IsOpen() {
		errs = append(errs, k.home.Close())
	}
	return errors.Join(errs...)
}
