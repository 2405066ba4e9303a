// Package afxdp finds out whether a netdev takes AF_XDP sockets, by binding one. The
// socket that carries packets is in fallback/afxdp.
package afxdp

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bind binds a copying AF_XDP socket to queue 0 of a netdev of the calling thread's
// namespace and closes it again.
func Bind(netdev string) error {
	dev, err := net.InterfaceByName(netdev)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	const chunk, chunks = 2048, 8
	memory, err := unix.Mmap(-1, 0, chunk*chunks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	// struct xdp_umem_reg: address, length, chunk size, headroom. The memory is not
	// Go's, so its address does not change; memory keeps it mapped.
	ne := binary.NativeEndian
	reg := ne.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(&memory[0]))))
	reg = ne.AppendUint64(reg, uint64(len(memory)))
	reg = ne.AppendUint32(reg, chunk)
	reg = ne.AppendUint32(reg, 0)
	if err := unix.SetsockoptString(fd, unix.SOL_XDP, unix.XDP_UMEM_REG, string(reg)); err != nil {
		return fmt.Errorf("register memory: %w", err)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, chunks); err != nil {
			return fmt.Errorf("ring %d: %w", ring, err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(dev.Index)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}
