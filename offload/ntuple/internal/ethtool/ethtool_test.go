package ethtool

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCall asks the loopback device for its rules, which it has none of, and devices
// that are not there.
func TestCall(t *testing.T) {
	check := func(name string, want unix.Errno) {
		t.Helper()
		b := binary.NativeEndian.AppendUint32(nil, 0x2e) // how many receive-flow rules
		if err := Call(name, append(b, make([]byte, 188)...)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	check("lo", unix.EOPNOTSUPP)
	check("nosuchdevice", unix.ENODEV)
	check(strings.Repeat("x", 16), unix.ENAMETOOLONG)
}
