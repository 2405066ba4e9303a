package flow

import (
	"fmt"
	"net/netip"
	"strings"
)

// addressRow is an address with a prefix length or a mask. An IPv4 address is the
// last 32 bits of the field.
func addressRow(name string, hi, lo Field) fieldRow {
	return fieldRow{name: name, values: "an IPv4 or IPv6 address, ADDRESS/LENGTH or ADDRESS/MASK",
		read: func(r *reader, s string) error {
			a, mask, err := readAddress(s)
			if err != nil {
				return err
			}
			ethType := uint64(EthIPv6)
			if a.Is4() {
				ethType = EthIPv4
			}
			if err := r.imply(EthType, ethType, EthType.Max()); err != nil {
				return err
			}
			vh, vl := AddrWords(a)
			mh, ml := AddrWords(mask)
			if err := r.pin(hi, vh&mh, mh); err != nil {
				return err
			}
			return r.pin(lo, vl&ml, ml)
		},
		write: func(m *Match, _ *Ports, bare bool) string { return writeAddress(m, hi, lo, bare) }}
}

// readAddress reads an address and its mask, which is of the same version.
func readAddress(s string) (a, mask netip.Addr, err error) {
	s, m, has := strings.Cut(s, "/")
	if a, err = netip.ParseAddr(s); err != nil || a.Zone() != "" {
		return a, mask, fmt.Errorf("%q is not an address", s)
	}
	length := a.BitLen()
	if has {
		if mask, err = netip.ParseAddr(m); err == nil && mask.Zone() == "" && mask.BitLen() == length {
			return a, mask, nil
		}
		n, err := number(m, uint64(a.BitLen()))
		if err != nil {
			return a, mask, fmt.Errorf("%q is neither a length of 0 to %d nor a mask", m, a.BitLen())
		}
		length = int(n)
	}
	return a, prefixMask(length, a.BitLen()), nil
}

// prefixMask returns an address of the given width with its first length bits set.
func prefixMask(length, width int) netip.Addr {
	var b [16]byte
	for i := range length {
		b[i/8] |= 0x80 >> (i % 8)
	}
	if width == 32 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

func writeAddress(m *Match, hi, lo Field, bare bool) string {
	mh, ml := m.Mask.Get(hi), m.Mask.Get(lo)
	if mh|ml == 0 {
		return ""
	}
	four := mh == 0 && ml>>32 == 0
	if !bare {
		switch {
		case m.Mask.Get(EthType) != EthType.Max():
			return ""
		case m.Value.Get(EthType) == EthIPv6:
			four = false
		case m.Value.Get(EthType) != EthIPv4 || !four:
			return ""
		}
	}
	a, mask := wordsAddr(m.Value.Get(hi), m.Value.Get(lo), four), wordsAddr(mh, ml, four)
	length := 0
	for length < mask.BitLen() && prefixMask(length, mask.BitLen()) != mask {
		length++
	}
	switch {
	case length == mask.BitLen() && prefixMask(length, length) == mask:
		return a.String()
	case length < mask.BitLen():
		return fmt.Sprintf("%s/%d", a, length)
	}
	return fmt.Sprintf("%s/%s", a, mask)
}

// wordsAddr is the inverse of [AddrWords].
func wordsAddr(hi, lo uint64, four bool) netip.Addr {
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	if four {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}
