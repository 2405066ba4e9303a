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
// each call: 29 to 48 µs of CPU per frame, where afpacket.Kernel takes 0.5. It must
// not be used beside an afpacket link, which would take the frames for received ones.
//
// The kernel finds the representor by its number in the network namespace of the
// calling thread, so one thread of the Kernel's own lives there and makes the calls.
type Kernel struct {
	ports    map[flow.Port]int // ifindex of the representor
	pass     *ebpf.Program
	frames   chan received
	outcomes chan error
	ended    chan struct{}

	mu     sync.Mutex // one frame at a time; guards closed
	closed bool
}

type received struct {
	ifindex int
	frame   []byte
}

// OpenKernel makes a Kernel for the representors of ports, given by ifindex, and
// tries each with a frame that is dropped. The calling thread must be in their
// network namespace.
func OpenKernel(ports map[flow.Port]int) (*Kernel, error) {
	k := &Kernel{ports: ports, frames: make(chan received), outcomes: make(chan error), ended: make(chan struct{})}
	if err := k.open(); err != nil {
		return nil, &flow.Fault{Code: "E_LIVE_FRAMES", What: "pass to the kernel by XDP live frames", Why: err.Error(),
			Remedy: "use a tap device instead", Err: err}
	}
	return k, nil
}

func (k *Kernel) open() error {
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	started := make(chan error)
	go k.serve(here, started)
	return <-started
}

// serve is the thread in the namespace. It is never unlocked: the runtime ends a
// thread whose goroutine ends that way, so that nobody inherits the namespace.
func (k *Kernel) serve(home netns.NsHandle, started chan<- error) {
	defer close(k.ended)
	runtime.LockOSThread()
	err := netns.Set(home)
	home.Close()
	if err != nil {
		started <- fmt.Errorf("enter the network namespace: %w", err)
		return
	}
	runner, err := live.NewRunner()
	if err != nil {
		started <- err
		return
	}
	defer runner.Close()
	if err := k.load(runner); err != nil {
		started <- err
		return
	}
	defer k.pass.Close()
	started <- nil
	for f := range k.frames {
		k.outcomes <- run(runner, k.pass.FD(), f)
	}
}

// load makes the program, and tries every device with one that drops.
func (k *Kernel) load(runner *live.Runner) (err error) {
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
	for port, ifindex := range k.ports {
		if err := run(runner, drop.FD(), received{ifindex, make([]byte, 60)}); err != nil {
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
// gives them back late: ENOSPC means too many calls of late, and passes.
func run(runner *live.Runner, program int, f received) error {
	const tries = 20
	for i := 0; ; i++ {
		err := runner.Run(program, f.ifindex, f.frame)
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.ENOMEM) || i == tries {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Deliver makes a frame arrive in the kernel on the representor of port.
func (k *Kernel) Deliver(port flow.Port, frame []byte) error {
	ifindex, ok := k.ports[port]
	if !ok {
		return fmt.Errorf("pass to the kernel: port %d has no representor here", port)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return os.ErrClosed
	}
	k.frames <- received{ifindex, frame}
	if err := <-k.outcomes; err != nil {
		return fmt.Errorf("pass to the kernel on interface %d: %w", ifindex, err)
	}
	return nil
}

// Close ends the thread.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.closed = true
		close(k.frames)
		<-k.ended
	}
	return nil
}
