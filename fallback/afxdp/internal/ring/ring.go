// Package ring maps what an AF_XDP socket shares with the kernel: packet memory,
// the four rings, and the option structs of the socket. It is the only place in
// afxdp that uses unsafe, and it never decides anything: who owns which frame is
// afxdp's business. Start reading at [Out] and [In].
//
// Every pointer made here points into memory that mmap returned, which the garbage
// collector neither moves nor frees, or lives for one system call only.
package ring

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Out is a ring that we fill and the kernel empties: fill or transmit. One
// goroutine at a time may use it.
type Out[T any] struct {
	shared[T]
	next uint32 // where the next element goes; ahead of what Publish showed
	room uint32 // how many elements surely fit before we look at the kernel's index again
}

// In is a ring that the kernel fills and we empty: receive or completion. One
// goroutine at a time may use it.
type In[T any] struct {
	shared[T]
	next  uint32 // the next element to take; ahead of what Release gave back
	ready uint32 // how many elements surely are there
}

// shared is the mapping behind a ring. Both indices only ever grow, modulo 2^32.
type shared[T any] struct {
	memory                    []byte
	producer, consumer, flags *uint32
	slots                     []T // a power of two
}

// MapOut maps a ring of size elements, a power of two, that lies at page of the
// socket fd.
func MapOut[T any](fd int, page int64, at unix.XDPRingOffset, size int) (*Out[T], error) {
	s, err := mapRing[T](fd, page, at, size)
	return &Out[T]{shared: s, room: uint32(size)}, err
}

// MapIn maps a ring of size elements, a power of two, that lies at page of the
// socket fd.
func MapIn[T any](fd int, page int64, at unix.XDPRingOffset, size int) (*In[T], error) {
	s, err := mapRing[T](fd, page, at, size)
	return &In[T]{shared: s}, err
}

func mapRing[T any](fd int, page int64, at unix.XDPRingOffset, size int) (shared[T], error) {
	var element T
	length := int(at.Desc) + size*int(unsafe.Sizeof(element))
	memory, err := unix.Mmap(fd, page, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return shared[T]{}, fmt.Errorf("map a ring: %w", err)
	}
	// The offsets are the kernel's for this very mapping; it aligns the indices to
	// 4 bytes and the elements to a cache line.
	return shared[T]{
		memory:   memory,
		producer: (*uint32)(unsafe.Pointer(&memory[at.Producer])),
		consumer: (*uint32)(unsafe.Pointer(&memory[at.Consumer])),
		flags:    (*uint32)(unsafe.Pointer(&memory[at.Flags])),
		slots:    unsafe.Slice((*T)(unsafe.Pointer(&memory[at.Desc])), size),
	}, nil
}

// Unmap gives the mapping back. The ring must not be used afterwards. The kernel
// keeps a queue busy for as long as any ring of its last socket is mapped.
func (s *shared[T]) Unmap() error {
	if s.memory == nil {
		return nil
	}
	err := unix.Munmap(s.memory)
	*s = shared[T]{}
	return err
}

// NeedWakeup reports whether the kernel wants a system call to go on.
func (s *shared[T]) NeedWakeup() bool {
	return atomic.LoadUint32(s.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}

// Push adds v; it returns false if the ring is full. The kernel sees v after
// [Out.Publish].
func (r *Out[T]) Push(v T) bool {
	if r.room == 0 {
		r.room = uint32(len(r.slots)) - (r.next - atomic.LoadUint32(r.consumer))
		if r.room == 0 {
			return false
		}
	}
	r.slots[r.next&uint32(len(r.slots)-1)] = v
	r.next++
	r.room--
	return true
}

// Publish shows the kernel what was pushed.
func (r *Out[T]) Publish() { atomic.StoreUint32(r.producer, r.next) }

// Pending returns how many elements the kernel has not taken yet.
func (r *Out[T]) Pending() uint32 { return r.next - atomic.LoadUint32(r.consumer) }

// Pop takes the next element; ok is false if there is none. What it holds may be
// overwritten after [In.Release].
func (r *In[T]) Pop() (v T, ok bool) {
	if r.ready == 0 {
		r.ready = atomic.LoadUint32(r.producer) - r.next
		if r.ready == 0 {
			return v, false
		}
	}
	v = r.slots[r.next&uint32(len(r.slots)-1)]
	r.next++
	r.ready--
	return v, true
}

// Empty reports whether the kernel has put nothing that was not popped.
func (r *In[T]) Empty() bool { return r.ready == 0 && atomic.LoadUint32(r.producer) == r.next }

// Release gives the slots of what was popped back to the kernel.
func (r *In[T]) Release() { atomic.StoreUint32(r.consumer, r.next) }

// hugePage is what the kernel can map at once: memory of that size which begins at a
// multiple of it.
const hugePage = 2 << 20

// Memory maps packet memory. It is in huge pages if the kernel has some: frames lie in each
// page of it in turn, more than a processor keeps translations for. All of it is there
// before the first frame comes. The mapping, which is to be unmapped, is longer.
func Memory(size int) (mapping, memory []byte, err error) {
	mapping, err = unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, nil, fmt.Errorf("map packet memory: %w", err)
	}
	at := -uintptr(unsafe.Pointer(unsafe.SliceData(mapping))) % hugePage // mapped: it does not move
	memory = mapping[at : int(at)+size : int(at)+size]
	unix.Madvise(memory, unix.MADV_HUGEPAGE) // a kernel without has small ones
	for i := 0; i < size; i += os.Getpagesize() {
		memory[i] = 0
	}
	return mapping, memory, nil
}

// Register makes memory, which mmap returned, the packet memory of socket fd.
func Register(fd int, memory []byte, frameSize int) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))), // mapped: it does not move
		Len:  uint64(len(memory)),
		Size: uint32(frameSize),
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0) // converted in the call, as unsafe.Pointer rule 4 wants
	if errno != 0 {
		return fmt.Errorf("register %d bytes of packet memory: %w", len(memory), errno)
	}
	return nil
}

// Offsets returns where in the mappings of fd the parts of its rings are.
func Offsets(fd int) (unix.XDPMmapOffsets, error) {
	return option[unix.XDPMmapOffsets](fd, unix.XDP_MMAP_OFFSETS)
}

// Statistics returns what the kernel counted for fd.
func Statistics(fd int) (unix.XDPStatistics, error) {
	return option[unix.XDPStatistics](fd, unix.XDP_STATISTICS)
}

func option[T any](fd, name int) (T, error) {
	var v T
	size := uint32(unsafe.Sizeof(v))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(name),
		uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&size)), 0) // rule 4 again
	if errno != 0 {
		return v, errno
	}
	return v, nil
}

// Write writes all of b to a file that takes it at once or not at all. The Go runtime is not
// told, so it must not be a file that waits.
func Write(fd int, b []byte) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))) // rule 4 again
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
