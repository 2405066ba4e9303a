package afxdp

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/vishvananda/netlink"
)

func TestBind(t *testing.T) {
	ns, err := netns.New(fmt.Sprintf("bfafxdp%d", os.Getpid()))
	must.Have(t, "veth", err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	for _, name := range []string{"a", "b"} {
		l, err := ns.Links().LinkByName(name)
		if err == nil {
			err = ns.Links().LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	must.Have(t, "afxdp", ns.Do(func() error { return Bind("a") }))
	// The kernel lets go of a closed socket's queue a moment later.
	again := ns.Do(func() error { return Bind("a") })
	for began := time.Now(); again != nil && time.Since(began) < 5*time.Second; {
		time.Sleep(5 * time.Millisecond)
		again = ns.Do(func() error { return Bind("a") })
	}
	if again != nil {
		t.Errorf("the first socket is still there: %v", again)
	}
	if err := ns.Do(func() error { return Bind("gone") }); err == nil {
		t.Error("a socket was bound to a netdev that is not there")
	}
}
