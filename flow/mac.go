package flow

import (
	"fmt"
	"strconv"
	"strings"
)

// FormatMAC writes a 48-bit MAC as aa:bb:cc:dd:ee:ff.
func FormatMAC(m uint64) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", byte(m>>40), byte(m>>32), byte(m>>24), byte(m>>16), byte(m>>8), byte(m))
}

// ParseMAC reads aa:bb:cc:dd:ee:ff.
func ParseMAC(s string) (uint64, error) {
	parts := strings.Split(s, ":")
	var m uint64
	for _, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(parts) != 6 || len(p) != 2 {
			return 0, &Fault{Code: "E_MAC", What: fmt.Sprintf("MAC %q", s), Why: "not six bytes in hexadecimal", Remedy: "write it as aa:bb:cc:dd:ee:ff"}
		}
		m = m<<8 | b
	}
	return m, nil
}
