package flowcache

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

// TestClosing is what messages of the kernel say of ways.
func TestClosing(t *testing.T) {
	const family = 27
	message := func(command uint8, features uint64) []byte {
		return slices.Concat((&nl.Genlmsg{Command: command, Version: 1}).Serialize(),
			nl.NewRtAttr(netdevIfindex, nl.Uint32Attr(5)).Serialize(),
			nl.NewRtAttr(netdevXDPFeatures, binary.NativeEndian.AppendUint64(nil, features)).Serialize())
	}
	check := func(what string, kind uint16, message []byte, want bool) {
		t.Helper()
		if ifindex, closed := closing(kind, message, family); closed != want || closed && ifindex != 5 {
			t.Errorf("%s: %v for interface %d, want %v for 5", what, closed, ifindex, want)
		}
	}
	none, all := message(netdevChanged, 0), message(netdevChanged, ^uint64(0))
	check("takes none", family, none, true)
	check("takes none, but others", family, message(netdevChanged, ^uint64(featureTransmit)), true)
	check("takes some", family, message(netdevChanged, featureTransmit), false)
	check("takes all", family, all, false)
	check("another command", family, message(netdevGetDevice, 0), false)
	check("another family", family+1, none, false)
	for n := range none {
		check("cut short", family, none[:n], false)
	}
}
