// Package calls makes the system calls of the bench's sender without telling the Go runtime.
// It decides nothing, and is the only place in peers that uses unsafe.
//
// While a call is told, the runtime's watcher wakes every 20 µs to see whether it has ended.
// The sender's calls last for half a millisecond, one after the other, and the watcher would
// run on the CPU of what is measured: 3 % of a path in user space that lives in this process,
// for calls that no agent makes. What is not told keeps its place among GOMAXPROCS and
// holds up the garbage collector until it returns.
//
// Everything the kernel gets the address of lies in memory that mmap returned, which the
// garbage collector neither moves nor frees, or lives for one system call only.
package calls

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runAttr is the test member of union bpf_attr.
type runAttr struct {
	program, result          uint32
	dataSizeIn, dataSizeOut  uint32
	dataIn, dataOut          uint64
	repeat, duration         uint32
	contextSizeIn, sizeOut   uint32
	contextIn, contextOut    uint64
	flags, cpu, batchSize, _ uint32
}

// context is struct xdp_md.
type context struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }

// Maker makes frames: it runs an XDP program on copies of a frame as if a device had received
// them (BPF_PROG_TEST_RUN with live frames, Linux 5.18). One goroutine at a time may use it.
type Maker struct {
	memory []byte // a page with attr, context and frame
	attr   *runAttr
}

// NewMaker makes a maker of frames that the device ifindex of the calling thread's network
// namespace seems to receive.
func NewMaker(program, ifindex int, frame []byte) (*Maker, error) {
	const contextAt, frameAt = 128, 192 // behind attr, aligned
	size := os.Getpagesize()
	if frameAt+len(frame) > size {
		return nil, unix.EMSGSIZE
	}
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	m := &Maker{memory: memory, attr: (*runAttr)(unsafe.Pointer(&memory[0]))}
	n := uint32(copy(memory[frameAt:], frame))
	*(*context)(unsafe.Pointer(&memory[contextAt])) = context{dataEnd: n, ingress: uint32(ifindex)}
	*m.attr = runAttr{
		program: uint32(program), dataSizeIn: n, dataIn: uint64(uintptr(unsafe.Pointer(&memory[frameAt]))),
		contextIn: uint64(uintptr(unsafe.Pointer(&memory[contextAt]))), contextSizeIn: uint32(unsafe.Sizeof(context{})),
		batchSize: 64, flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	}
	return m, nil
}

// Make makes n frames, or fewer if a signal interrupts it.
func (m *Maker) Make(n int) error {
	m.attr.repeat, m.attr.dataSizeOut = uint32(n), 0 // the last call wrote a length there, which would be a limit
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(m.attr)), unsafe.Sizeof(*m.attr))
	if errno != 0 && errno != unix.EINTR {
		return errno
	}
	return nil
}

// Close gives the memory back. The maker must not be used afterwards.
func (m *Maker) Close() error { return unix.Munmap(m.memory) }

// Nap lets other threads of this CPU run for some time, or less if a signal ends it.
func Nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&t)), 0, 0, 0) // converted in the call: rule 4
}
