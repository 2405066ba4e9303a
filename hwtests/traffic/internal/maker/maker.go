// Package maker makes frames inside the kernel (BPF_PROG_TEST_RUN with live frames,
// Linux 5.18) and sends them on a netdev, where one costs a fraction of what it does to
// send it from user space.
package maker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// MaxFrame is the longest frame that can be made.
const MaxFrame = 512

// Batch is how many frames are sent at once.
const Batch = 64

// context of an XDP program, struct xdp_md.
type context struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }

// Maker makes frames on one netdev. One goroutine at a time uses it, on a thread that is
// in the netdev's namespace.
type Maker struct {
	code    *ebpf.Collection
	hold    link.Link
	context context
	blank   []byte
	made    *ebpf.Memory
	times   *ebpf.Memory
}

// Open returns a maker on a netdev of the calling thread's namespace whose peer has NAPI.
// It makes the frames given in turn, each stamped with its sequence number in its last 8
// bytes, from first on: number n is frame n modulo their count. It can make room of them.
func Open(netdev string, frames [][]byte, first uint64, room int) (*Maker, error) {
	dev, err := net.InterfaceByName(netdev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", netdev, err)
	}
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	spec.Maps["frames"].MaxEntries, spec.Maps["times"].MaxEntries = uint32(len(frames)), uint32(room)
	for name, v := range map[string]any{"count": uint32(len(frames)), "first": first} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, err
		}
	}
	m := &Maker{blank: make([]byte, MaxFrame), context: context{DataEnd: MaxFrame, Ingress: uint32(dev.Index)}}
	if m.code, err = ebpf.NewCollection(spec); err != nil {
		return nil, err
	}
	if err := m.open(frames); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// frame is one as the program has it.
type frame struct {
	Length uint64
	Bytes  [MaxFrame + 8]byte
}

func (m *Maker) open(frames [][]byte) (err error) {
	for i, b := range frames {
		f := frame{Length: uint64(len(b))}
		if copy(f.Bytes[:MaxFrame], b) < len(b) {
			return fmt.Errorf("frame %d has %d bytes, and %d are the most", i, len(b), MaxFrame)
		}
		if err := m.code.Maps["frames"].Put(uint32(i), &f); err != nil {
			return err
		}
	}
	if m.made, err = m.code.Maps["made"].Memory(); err != nil {
		return err
	}
	if m.times, err = m.code.Maps["times"].Memory(); err != nil {
		return err
	}
	// While a program is attached nowhere, each call puts it into the kernel's dispatcher
	// and takes it out again, which takes 27 ms. On the loopback device it is in nobody's way.
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	m.hold, err = link.AttachXDP(link.XDPOptions{Program: m.code.Programs["make_frame"], Interface: lo.Index, Flags: link.XDPGenericMode})
	return err
}

// Make makes and sends n frames. One that finds the peer's ring full is lost, and the
// peer counts it. EBUSY passes: the kernel had no number left for what holds the frames.
func (m *Maker) Make(n int) error {
	_, err := m.code.Programs["make_frame"].Run(&ebpf.RunOptions{Data: m.blank, Context: m.context, Repeat: uint32(n), BatchSize: Batch, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
	if errors.Is(err, unix.ENOSPC) {
		return unix.EBUSY
	}
	return err
}

// Made returns how many frames were made.
func (m *Maker) Made() (int, error) {
	n, err := words(m.made, 1)
	if err != nil {
		return 0, err
	}
	return int(n[0]), nil
}

// Times returns when the first n frames were made, CLOCK_MONOTONIC in ns.
func (m *Maker) Times(n int) ([]int64, error) { return words(m.times, n) }

// words reads the first n words of an array that is mapped.
func words(from *ebpf.Memory, n int) ([]int64, error) {
	b := make([]byte, 8*n)
	if _, err := from.ReadAt(b, 0); err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(binary.NativeEndian.Uint64(b[8*i:]))
	}
	return out, nil
}

// Close takes the maker away.
func (m *Maker) Close() error {
	var err error
	if m.hold != nil {
		err = m.hold.Close()
	}
	m.code.Close()
	return err
}
