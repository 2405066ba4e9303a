package fabric

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// PCI is the address of one function on the PCI bus. The zero value is a real
// address, so a PCI that may be absent is kept with a flag or not at all.
type PCI struct {
	Domain   uint32
	Bus      uint8
	Device   uint8 // 0-31
	Function uint8 // 0-7
}

// ParsePCI reads the kernel's form, 0000:03:00.1. Domains above ffff have more digits.
func ParsePCI(s string) (PCI, error) {
	rest, function, dot := strings.Cut(s, ".")
	parts := strings.Split(rest, ":")
	if !dot || len(parts) != 3 || len(parts[0]) < 4 || len(parts[1]) != 2 || len(parts[2]) != 2 || len(function) != 1 {
		return PCI{}, fmt.Errorf("PCI address %q: not of the form 0000:03:00.1", s)
	}
	domain, err1 := strconv.ParseUint(parts[0], 16, 32)
	bus, err2 := strconv.ParseUint(parts[1], 16, 8)
	device, err3 := strconv.ParseUint(parts[2], 16, 5)
	fn, err4 := strconv.ParseUint(function, 8, 3)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return PCI{}, fmt.Errorf("PCI address %q: %w", s, err)
	}
	return PCI{uint32(domain), uint8(bus), uint8(device), uint8(fn)}, nil
}

// String returns the kernel's form.
func (p PCI) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", p.Domain, p.Bus, p.Device, p.Function)
}

// Slot returns the address without its function: what all functions of one card share.
func (p PCI) Slot() string { return fmt.Sprintf("%04x:%02x:%02x", p.Domain, p.Bus, p.Device) }

// Compare orders addresses by domain, bus, device and function.
func (p PCI) Compare(o PCI) int {
	return cmp.Or(cmp.Compare(p.Domain, o.Domain), cmp.Compare(p.Bus, o.Bus),
		cmp.Compare(p.Device, o.Device), cmp.Compare(p.Function, o.Function))
}
