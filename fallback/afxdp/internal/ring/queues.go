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

// ReceiveQueues returns how many queues a device spreads received frames over. It
// fails where the driver does not say. The calling thread must be in the device's
// network namespace.
func ReceiveQueues(ifindex int) (int, error) {
	dev, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
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
		return 0, fmt.Errorf("%s: ask for channels: %w", dev.Name, errno)
	}
	return int(c.receive + c.combined), nil
}
