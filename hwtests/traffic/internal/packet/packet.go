// Package packet is an AF_PACKET socket that sends many frames in one system call.
package packet

import (
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Batch is how many frames one call to [Socket.Send] may have.
const Batch = 32

// message is struct mmsghdr.
type message struct {
	header unix.Msghdr
	_      [8]byte // how much was sent, which is all of it
}

// Socket sends on one netdev and receives nothing.
type Socket struct {
	fd       int
	messages [Batch]message
	vectors  [Batch]unix.Iovec
}

// Open returns a socket on a netdev of the calling thread's namespace.
func Open(netdev string) (*Socket, error) {
	dev, err := net.InterfaceByName(netdev)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", netdev, err)
	}
	// Protocol 0: the kernel hands this socket no frame to receive.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket: qdisc bypass: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", netdev, err)
	}
	s := &Socket{fd: fd}
	for i := range s.messages {
		s.messages[i].header.Iov = &s.vectors[i]
		s.messages[i].header.SetIovlen(1)
	}
	return s, nil
}

// Send hands at most [Batch] frames to the netdev and returns how many it took. An
// error is about the first frame that it did not take; EINTR and ENOBUFS pass.
func (s *Socket) Send(frames [][]byte) (int, error) {
	for i, f := range frames {
		// The vectors are in a heap object that s keeps alive, and frames keeps what
		// they point to alive until the call has returned: rule (4) of unsafe.Pointer.
		s.vectors[i].Base = unsafe.SliceData(f)
		s.vectors[i].SetLen(len(f))
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages)), uintptr(len(frames)), 0, 0, 0)
	clear(s.vectors[:len(frames)])
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Passing reports whether an error of [Socket.Send] goes away by itself.
func Passing(err error) bool {
	return err == syscall.EINTR || err == syscall.ENOBUFS || err == syscall.EAGAIN
}
