// Package ring maps the receive ring that an AF_PACKET socket shares with the
// kernel (TPACKET_V2: a fixed slot per frame, so that each is seen the moment it
// comes). It is the only place in afpacket that uses unsafe.
package ring

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring is the mapped receive ring. One goroutine at a time may use it.
type Ring struct {
	memory   []byte
	slotSize int
	next     int // the slot the kernel fills next, as far as Pop knows
	held     int // slots popped and not yet released: those just before next
}

// HeadRoom is how many bytes in front of a frame are free: space for one VLAN tag.
const HeadRoom = 4

// Frame is one received frame in its slot.
type Frame struct {
	Space  []byte // HeadRoom free bytes, then the frame from its destination MAC on
	Length int    // of the frame as it came; more than Space holds if it was cut
	Status uint32 // unix.TP_STATUS_…
	TCI    uint16 // the VLAN tag that the kernel took off; valid iff Status says so
	TPID   uint16 // the protocol of that tag; valid iff Status says so
}

// Map makes socket fd, which is not bound yet, receive into a ring of slots slots
// of slotSize bytes and maps it. A slot holds a frame and about 80 bytes.
func Map(fd, slots, slotSize int) (*Ring, error) {
	const block = 1 << 16
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("choose TPACKET_V2: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_RESERVE, HeadRoom); err != nil {
		return nil, fmt.Errorf("reserve head room: %w", err)
	}
	req := unix.TpacketReq{Block_size: block, Block_nr: uint32(slots * slotSize / block), Frame_size: uint32(slotSize), Frame_nr: uint32(slots)}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("make a ring of %d bytes: %w", slots*slotSize, err)
	}
	memory, err := unix.Mmap(fd, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map a ring: %w", err)
	}
	return &Ring{memory: memory, slotSize: slotSize}, nil
}

// header returns the head of slot i. It points into mapped memory, which does not
// move; slots are aligned to 16 bytes.
func (r *Ring) header(i int) *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.memory[i*r.slotSize]))
}

func (r *Ring) slots() int { return len(r.memory) / r.slotSize }

// Empty reports whether no frame waits.
func (r *Ring) Empty() bool {
	return r.held == r.slots() || atomic.LoadUint32(&r.header(r.next).Status)&unix.TP_STATUS_USER == 0
}

// Pop takes the next frame; ok is false if there is none. The frame is the
// caller's until [Ring.Release].
func (r *Ring) Pop() (f Frame, ok bool) {
	if r.Empty() {
		return f, false
	}
	h := r.header(r.next)
	start := r.next*r.slotSize + int(h.Mac)
	end := start + int(h.Snaplen)
	f = Frame{
		Space:  r.memory[start-HeadRoom : end : end],
		Length: int(h.Len), Status: h.Status, TCI: h.Vlan_tci, TPID: h.Vlan_tpid,
	}
	r.next = (r.next + 1) % r.slots()
	r.held++
	return f, true
}

// Release gives every popped slot back to the kernel.
func (r *Ring) Release() {
	for ; r.held > 0; r.held-- {
		i := (r.next - r.held + r.slots()) % r.slots()
		atomic.StoreUint32(&r.header(i).Status, unix.TP_STATUS_KERNEL)
	}
}

// Unmap gives the mapping back. The ring must not be used afterwards.
func (r *Ring) Unmap() error {
	err := unix.Munmap(r.memory)
	r.memory = nil
	return err
}
