// Package ethtool makes one ethtool call on a netdev. It is apart because the call takes
// a pointer inside a structure.
package ethtool

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// request is struct ifreq with its data pointer, 40 bytes on 64-bit machines.
type request struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// Call lets the kernel work on buf, whose first four bytes are the command, for the
// netdev of that name in the network namespace of the caller's thread.
func Call(name string, buf []byte) error {
	if len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("netdev %q: %w", name, unix.ENAMETOOLONG)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var r request
	copy(r.name[:], name)
	// The buffer is pinned for the length of the call, so the kernel may have its address
	// (rule 4 of package unsafe covers the pointer to r).
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&buf[0])
	r.data = unsafe.Pointer(&buf[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}
