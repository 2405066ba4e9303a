package ring

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// channels is struct ethtool_channels.
type channels struct {
	cmd                                 uint32
	maxRX, maxTX, maxOther, maxCombined uint32
	receive, transmit, other, combined  uint32
}

// Channels is how many queues a device has.
type Channels struct{ Receive, Transmit int }

// Queues returns over how many queues a device spreads frames. It fails where the driver
// does not say. The calling thread must be in the device's network namespace.
func Queues(ifindex int) (Channels, error) {
	dev, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return Channels{}, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Channels{}, err
	}
	defer unix.Close(fd)
	c := channels{cmd: unix.ETHTOOL_GCHANNELS}
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&c)} // a real pointer, so that c is where it says
	copy(req.name[:unix.IFNAMSIZ-1], dev.Name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return Channels{}, fmt.Errorf("%s: ask for channels: %w", dev.Name, errno)
	}
	return Channels{int(c.receive + c.combined), int(c.transmit + c.combined)}, nil
}
