package discover

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// parseVPD reads PCI vital product data: resources of a tag, a length and data, of
// which the read-only one (0x90) has fields of two letters, a length byte and text.
// ok is false if the data breaks off; what was read up to there is returned.
func parseVPD(b []byte) (fields map[string]string, ok bool) {
	fields = map[string]string{}
	for len(b) > 0 {
		tag, size, header := b[0], 0, 1
		if tag&0x80 != 0 {
			if len(b) < 3 {
				return fields, false
			}
			size, header = int(binary.LittleEndian.Uint16(b[1:])), 3
		} else {
			size = int(tag & 7)
		}
		if tag>>3 == 0x0f { // end
			return fields, true
		}
		if len(b) < header+size {
			return fields, false
		}
		if tag == 0x90 {
			for f := b[header : header+size]; len(f) >= 3; {
				n := int(f[2])
				if len(f) < 3+n {
					return fields, false
				}
				if key := string(f[:2]); key != "RV" { // the checksum and padding
					fields[key] = printable(f[3 : 3+n])
				}
				f = f[3+n:]
			}
		}
		b = b[header+size:]
	}
	return fields, false
}

func printable(b []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b)))
}

// deviceSerial returns the device serial number capability in PCI configuration
// space, written as lspci does, or "" if there is none or the space was read
// without the rights to see it whole.
func deviceSerial(config []byte) string {
	le := binary.LittleEndian
	const serialNumber, first = 0x0003, 0x100
	for offset, steps := first, 0; offset >= first && offset+12 <= len(config) && steps < 1024; steps++ {
		header := le.Uint32(config[offset:])
		if header&0xffff == serialNumber {
			n := le.Uint64(config[offset+4:])
			var parts []string
			for shift := 56; shift >= 0; shift -= 8 {
				parts = append(parts, fmt.Sprintf("%02x", byte(n>>shift)))
			}
			return strings.Join(parts, "-")
		}
		offset = int(header >> 20 &^ 3)
	}
	return ""
}
