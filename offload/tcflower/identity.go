package tcflower

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is who works a netdev.
type Identity struct {
	Driver   string // as ethtool -i says
	Firmware string // empty if the driver does not say
	Kernel   string // release of the running one, whose the driver is
}

// Identify asks the driver of the netdev called name, in the network namespace of the
// caller's thread.
func Identify(name string) (Identity, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Identity{}, fmt.Errorf("driver of %s: %w", name, err)
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return Identity{}, fmt.Errorf("driver of %s: %w", name, err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Identity{}, fmt.Errorf("kernel: %w", err)
	}
	return Identity{text(info.Driver[:]), strings.TrimSpace(text(info.Fw_version[:])), text(u.Release[:])}, nil
}
