// Package xdp holds the programs of the emulated card as compiled objects, and its
// memory as Go types. It decides nothing; package softnic is the driver. Start
// reading with bpf/card.h and bpf/card.c. After a change of those, `make generate`
// compiles them; nothing else needs clang.
package xdp

//go:generate bpf2go -go-package xdp -target bpfel -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type match_table -type change -type entry -type action -type faults -type slot -type port_stats -type netdev Card bpf/card.c

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Memory is the card's memory mapped into this process: what is stored here is
// what the programs see next. Version, Packets and Bytes need atomic access.
type Memory struct {
	Table *CardMatchTable
	Slots []CardSlot
	maps  [2][]byte
}

// Map maps the two maps that hold the card's memory.
func Map(table, slots *ebpf.Map) (*Memory, error) {
	if size := int(table.ValueSize()); size != int(unsafe.Sizeof(CardMatchTable{})) {
		return nil, fmt.Errorf("map the card's memory: a table of %d bytes: another version of the program made the card", size)
	}
	m := &Memory{}
	for i, x := range []*ebpf.Map{table, slots} {
		size := int(x.MaxEntries()) * int(x.ValueSize())
		b, err := unix.Mmap(x.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map the card's memory: %w", err)
		}
		m.maps[i] = b
	}
	// Both are page aligned, outside the Go heap, hold no pointers, and are as long
	// as the maps' values, whose layout bpf2go took from the same C types; an array
	// map rounds its values up to 8 bytes, which these sizes already are.
	m.Table = (*CardMatchTable)(unsafe.Pointer(&m.maps[0][0]))
	m.Slots = unsafe.Slice((*CardSlot)(unsafe.Pointer(&m.maps[1][0])), slots.MaxEntries())
	return m, nil
}

// Unmap ends the use of m.
func (m *Memory) Unmap() error {
	m.Table, m.Slots = nil, nil
	for _, b := range m.maps {
		if err := unix.Munmap(b); err != nil {
			return fmt.Errorf("unmap the card's memory: %w", err)
		}
	}
	return nil
}
