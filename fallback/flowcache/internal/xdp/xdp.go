// Package xdp holds the program of the flow cache as a compiled object, and its memory
// as Go types. It decides nothing; package flowcache is the owner. Start reading with
// bpf/cache.h and bpf/cache.c. After a change of those, `make generate` compiles them;
// nothing else needs clang.
package xdp

//go:generate bpf2go -go-package xdp -target bpfel -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type state -type set -type entry -type verdict -type line -type port -type view -type transfer Cache bpf/cache.c

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Lines is how many lines the book has, Queues how many sockets a port may have, and
// Devices how many interface numbers are known in memory; greater ones are in the map
// Distant.
const (
	Lines   = 65536
	Queues  = 64
	Devices = 65536
)

// Memory is the cache's memory mapped into this process: what is stored here is what
// the program sees next. Epochs, stamps and counters need atomic access.
type Memory struct {
	State   *CacheState
	Sets    []CacheSet
	Book    []CacheLine
	Ports   []CachePort
	Devices []uint64
	maps    [][]byte
}

// Map maps the maps that hold the cache's memory.
func Map(control, sets, book, ports, devices *ebpf.Map) (*Memory, error) {
	m := &Memory{}
	c, err := mapped[CacheState](m, control)
	if err != nil {
		return nil, err
	}
	m.State = &c[0]
	if m.Sets, err = mapped[CacheSet](m, sets); err != nil {
		return nil, err
	}
	if m.Book, err = mapped[CacheLine](m, book); err != nil {
		return nil, err
	}
	if m.Ports, err = mapped[CachePort](m, ports); err != nil {
		return nil, err
	}
	if m.Devices, err = mapped[uint64](m, devices); err != nil {
		return nil, err
	}
	return m, nil
}

// mapped maps an array of T. The mapping is page aligned, outside the Go heap, holds no
// pointers, and is as long as the map's values, whose layout bpf2go took from the same C
// types; an array map rounds its values up to 8 bytes, which these sizes already are.
func mapped[T any](m *Memory, from *ebpf.Map) ([]T, error) {
	var v T
	if int(from.ValueSize()) != int(unsafe.Sizeof(v)) {
		m.Unmap()
		return nil, fmt.Errorf("map the cache's memory: values of %d bytes, want %d", from.ValueSize(), unsafe.Sizeof(v))
	}
	b, err := unix.Mmap(from.FD(), 0, int(from.MaxEntries())*int(unsafe.Sizeof(v)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Unmap()
		return nil, fmt.Errorf("map the cache's memory: %w", err)
	}
	m.maps = append(m.maps, b)
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), from.MaxEntries()), nil
}

// Unmap ends the use of m.
func (m *Memory) Unmap() error {
	maps := m.maps
	*m = Memory{}
	for _, b := range maps {
		if err := unix.Munmap(b); err != nil {
			return fmt.Errorf("unmap the cache's memory: %w", err)
		}
	}
	return nil
}
