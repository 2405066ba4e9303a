package maker

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMake makes frames on a netdev whose peer takes none: each is made once, numbered and
// timed, and no more than there is room for. What arrives TestMaker of package traffic sees.
func TestMake(t *testing.T) {
	ns, err := netns.New(fmt.Sprintf("bfmaker%d", os.Getpid()))
	must.Have(t, "veth", err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerTxQLen: -1}))
	must.Have(t, "xdp", ns.Do(func() error {
		if _, err := Open("gone", nil, 0, 1); err == nil || !strings.Contains(err.Error(), "gone") {
			t.Errorf("a netdev that is not there: %v", err)
		}
		m, err := Open("a", [][]byte{make([]byte, 60), make([]byte, MaxFrame)}, 5, 2*Batch)
		if err != nil {
			return err
		}
		defer m.Close()
		// What other tests have made frames with the kernel gives back late.
		batch := func() error {
			err := m.Make(Batch)
			for tries := 0; err == unix.EBUSY && tries < 1000; tries++ {
				time.Sleep(time.Millisecond)
				err = m.Make(Batch)
			}
			return err
		}
		if err := batch(); err != nil {
			return err
		}
		for _, want := range []int{Batch, 2 * Batch, 2 * Batch} {
			made, err := m.Made()
			if err != nil || made != want {
				t.Errorf("%d were made, want %d: %v", made, want, err)
			}
			times, err := m.Times(made)
			if err != nil {
				return err
			}
			for i := range times {
				if times[i] == 0 || i > 0 && times[i] < times[i-1] {
					t.Errorf("the %d-th was made at %d", i, times[i])
				}
			}
			if err := batch(); err != nil {
				return err
			}
		}
		if _, err := Open("a", [][]byte{make([]byte, MaxFrame+1)}, 0, 1); err == nil || !strings.Contains(err.Error(), "513 bytes") {
			t.Errorf("too long a frame: %v", err)
		}
		return nil
	}))
}
