// Package live runs an XDP program on a frame as if a device had received it
// (BPF_PROG_TEST_RUN with live frames, Linux 5.18). It is a thin layer over one
// system call and uses unsafe to fill the call's structs.
//
// Everything the kernel gets the address of lies in memory that mmap returned,
// which the garbage collector neither moves nor frees.
package live

import (
	"fmt"
	"os"
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

// Runner runs programs on frames. One goroutine at a time may use it.
type Runner struct {
	memory []byte // a page with attr and context, then a page for the frame
	attr   *runAttr
	ctx    *context
	frame  []byte
}

// NewRunner makes a runner.
func NewRunner() (*Runner, error) {
	page := os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	const contextAt = 128 // behind attr, aligned
	r := &Runner{memory: memory, frame: memory[page:]}
	r.attr = (*runAttr)(unsafe.Pointer(&memory[0]))
	r.ctx = (*context)(unsafe.Pointer(&memory[contextAt]))
	*r.attr = runAttr{
		dataIn:    uint64(uintptr(unsafe.Pointer(&r.frame[0]))),
		contextIn: uint64(uintptr(unsafe.Pointer(r.ctx))), contextSizeIn: uint32(unsafe.Sizeof(*r.ctx)),
		repeat: 1, batchSize: 1, flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	}
	return r, nil
}

// Run runs program once on a copy of frame as received by the device ifindex of
// the calling thread's network namespace. What the program returns then happens.
func (r *Runner) Run(program, ifindex int, frame []byte) error {
	if len(frame) > len(r.frame) {
		return unix.EMSGSIZE
	}
	n := uint32(copy(r.frame, frame))
	r.attr.program, r.attr.dataSizeIn = uint32(program), n
	// The last call wrote its length here. Left alone it is a limit, and a longer
	// frame would be run and then reported as ENOSPC.
	r.attr.dataSizeOut = 0
	*r.ctx = context{dataEnd: n, ingress: uint32(ifindex)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(r.attr)), unsafe.Sizeof(*r.attr))
	if errno != 0 {
		return errno
	}
	return nil
}

// Close gives the memory back. The runner must not be used afterwards.
func (r *Runner) Close() error { return unix.Munmap(r.memory) }
