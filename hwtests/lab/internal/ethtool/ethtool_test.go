package ethtool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestVeth sets features of a veth and reads its counters.
func TestVeth(t *testing.T) {
	ns, err := netns.New(fmt.Sprintf("bfethtool%d", os.Getpid()))
	must.Have(t, "veth", err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	var s *Socket
	if err := ns.Do(func() (err error) { s, err = Open(); return err }); err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	for _, on := range []bool{true, false, true} {
		err := s.SetFeatures("a", map[string]bool{"rx-gro": on, "tx-vlan-hw-insert": !on, "no-such-feature": true})
		if err != nil {
			t.Fatal(err)
		}
		if gro, vlan := active(t, s, "a", "rx-gro"), active(t, s, "a", "tx-vlan-hw-insert"); gro != on || vlan == on {
			t.Errorf("asked for gro %v and vlan %v, have %v and %v", on, !on, gro, vlan)
		}
		if !active(t, s, "b", "tx-vlan-hw-insert") {
			t.Error("the peer changed too")
		}
	}

	stats, err := s.Stats("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ns.Links().LinkByName("b")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := stats["peer_ifindex"], uint64(b.Attrs().Index); got != want {
		t.Errorf("peer_ifindex %d, want %d", got, want)
	}
	if _, there := stats["rx_queue_0_drops"]; !there {
		t.Errorf("no drop counter in %v", stats)
	}

	if _, err := s.Stats("gone"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a netdev that is not there: %v", err)
	}
	if err := s.SetFeatures("gone", map[string]bool{"rx-gro": true}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a netdev that is not there: %v", err)
	}
}

// active reports whether the kernel has a feature on: the third word of its block in
// struct ethtool_gfeatures.
func active(t *testing.T, s *Socket, netdev, feature string) bool {
	t.Helper()
	i := slices.Index(s.features, feature)
	if i < 0 {
		t.Fatalf("the kernel does not know %s", feature)
	}
	ne := binary.NativeEndian
	blocks := (len(s.features) + 31) / 32
	b := make([]byte, 8+blocks*16)
	ne.PutUint32(b, unix.ETHTOOL_GFEATURES)
	ne.PutUint32(b[4:], uint32(blocks))
	if err := s.do(netdev, b); err != nil {
		t.Fatal(err)
	}
	return ne.Uint32(b[8+i/32*16+8:])>>(i%32)&1 != 0
}
