// Package ethtool reads and sets what the SIOCETHTOOL ioctl offers and the lab
// needs: a netdev's features and its driver's counters.
package ethtool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// String sets (linux/ethtool.h).
const (
	setStats    = 1
	setFeatures = 4
)

const nameSize = 32 // ETH_GSTRING_LEN

// Socket speaks to the netdevs of the namespace it was opened in.
type Socket struct {
	fd       int
	features []string // names of the features, in the kernel's order; read once
}

// Open opens a socket in the calling thread's namespace.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ethtool: %w", err)
	}
	return &Socket{fd: fd}, nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// request is struct ifreq.
type request struct {
	name [unix.IFNAMSIZ]byte
	data *byte
	_    [16]byte
}

// do runs one command; command begins with its number and takes the answer.
func (s *Socket) do(netdev string, command []byte) error {
	r := &request{data: &command[0]} // a pointer in a Go struct: the runtime keeps command in place and alive
	copy(r.name[:unix.IFNAMSIZ-1], netdev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(r)))
	runtime.KeepAlive(r)
	if errno != 0 {
		return fmt.Errorf("ethtool %s command %#x: %w", netdev, binary.NativeEndian.Uint32(command), errno)
	}
	return nil
}

// strings returns the names of one string set of a netdev.
func (s *Socket) strings(netdev string, set uint32) ([]string, error) {
	ne := binary.NativeEndian
	// ethtool_sset_info: cmd, reserved, set mask 64, then one length
	info := make([]byte, 20)
	ne.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	ne.PutUint64(info[8:], 1<<set)
	if err := s.do(netdev, info); err != nil {
		return nil, err
	}
	n := int(ne.Uint32(info[16:]))
	// ethtool_gstrings: cmd, set, length, names
	b := make([]byte, 12+n*nameSize)
	ne.PutUint32(b, unix.ETHTOOL_GSTRINGS)
	ne.PutUint32(b[4:], set)
	ne.PutUint32(b[8:], uint32(n))
	if err := s.do(netdev, b); err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		name, _, _ := bytes.Cut(b[12+i*nameSize:12+(i+1)*nameSize], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}

// SetFeatures turns features of a netdev on or off, by the names that `ethtool -k`
// calls them in the kernel (rx-gro, tx-vlan-hw-insert). A feature that the kernel
// does not know or the driver cannot change is left alone.
func (s *Socket) SetFeatures(netdev string, features map[string]bool) error {
	if s.features == nil {
		names, err := s.strings(netdev, setFeatures)
		if err != nil {
			return err
		}
		s.features = names
	}
	ne := binary.NativeEndian
	// ethtool_sfeatures: cmd, number of blocks, then per 32 features: valid, requested
	blocks := (len(s.features) + 31) / 32
	b := make([]byte, 8+blocks*8)
	ne.PutUint32(b, unix.ETHTOOL_SFEATURES)
	ne.PutUint32(b[4:], uint32(blocks))
	for name, on := range features {
		i := slices.Index(s.features, name)
		if i < 0 {
			continue
		}
		valid := b[8+i/32*8:]
		bit := uint32(1) << (i % 32)
		ne.PutUint32(valid, ne.Uint32(valid)|bit)
		if on {
			ne.PutUint32(valid[4:], ne.Uint32(valid[4:])|bit)
		}
	}
	return s.do(netdev, b)
}

// Stats returns the driver's counters of a netdev by name.
func (s *Socket) Stats(netdev string) (map[string]uint64, error) {
	names, err := s.strings(netdev, setStats)
	if err != nil {
		return nil, err
	}
	ne := binary.NativeEndian
	// ethtool_stats: cmd, number, values
	b := make([]byte, 8+len(names)*8)
	ne.PutUint32(b, unix.ETHTOOL_GSTATS)
	ne.PutUint32(b[4:], uint32(len(names)))
	if err := s.do(netdev, b); err != nil {
		return nil, err
	}
	stats := make(map[string]uint64, len(names))
	for i, name := range names {
		stats[name] = ne.Uint64(b[8+i*8:])
	}
	return stats, nil
}
