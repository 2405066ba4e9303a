package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestPinnedCache runs two agents after each other on one pinned cache, and a third that
// wants none. What the first has pinned is on the netdevs until the third takes it off;
// the second goes on with its counters. (Its flows are what hwtests.Deaths is about.)
func TestPinnedCache(t *testing.T) {
	dir := t.TempDir()
	must.Have(t, "xdp", unix.Mount("bpf", dir, "bpf", 0, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	pins := filepath.Join(dir, "flows")
	var missing error // this kernel's AF_XDP
	inNamespace(t, func(t *testing.T) {
		taken := func() bool {
			l, err := netlink.LinkByName("rep0")
			return err == nil && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
		}
		f := configuration(t, "  datapath: afxdp\n  cache: {pins: "+pins+"}\n  ports: [{name: nic0/pf0, netdev: rep0, fail: kernel}, {name: nic0/pf0/vf0, netdev: rep1}]\n  uplink: nic0/pf0\n")
		rewrite(t, f.Rules[0], cross)
		refused := f
		refused.Ports = []PortMap{f.Ports[0], {Name: f.Ports[1].Name, Netdev: "nothing"}}
		if _, err := Open(refused, quiet); err == nil {
			t.Error("an agent began without a netdev")
		}
		if _, err := os.Stat(pins); taken() || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("an agent that never began has left its cache: %v", err)
		}
		var counted uint64
		for round := range 2 {
			d, err := Open(f, quiet)
			if err != nil {
				missing = err
				return
			}
			end := running(t, d)
			until(t, d, "the first generation", func(s *Status) bool {
				return s.Generation == 1 && s.Links[0].XDP == "native (in only)" && s.Links[0].Fail == "kernel" && s.Links[1].Fail == "closed" && s.Cache.Pins == pins
			})
			passes(t, "far1", "far0")
			until(t, d, "the frames are counted", func(s *Status) bool {
				r, _ := s.Rule("cross/out")
				return r.Software.Packets+r.Cache.Packets > counted
			})
			r, _ := d.Agent().Status().Rule("cross/out")
			counted = r.Software.Packets + r.Cache.Packets
			end()
			if !taken() {
				t.Errorf("agent %d has taken its program along", round)
			}
		}
		f.Datapath, f.Cache.Pins = "afpacket", ""
		if _, err := Open(f, quiet); err == nil || !strings.Contains(err.Error(), "the pinned flow cache of an agent before answers on it") {
			t.Errorf("an agent begins beside a cache whose pins it does not know: %v", err)
		}
		f.Cache.Pins = pins
		d, err := Open(f, quiet)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := os.Stat(pins); taken() || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the cache is still there: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	must.Have(t, "afxdp", missing)
}
