package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// setVFs makes so many VFs of the card. A card with VFs has to lose them first.
func setVFs(t *testing.T, n int) {
	t.Helper()
	if err := os.WriteFile("/sys/bus/pci/devices/"+card+"/sriov_numvfs", []byte(strconv.Itoa(n)), 0); err != nil {
		t.Fatal(err)
	}
}

// there is what the kernel has: PCI functions, netdevs, and what devlink knows.
func there(t *testing.T) (out []string) {
	t.Helper()
	for _, pattern := range []string{"/sys/bus/pci/devices/*", "/sys/class/net/*", "/sys/bus/pci/drivers/igb*/0*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if base := filepath.Base(name); strings.HasPrefix(base, "eth") { // they are numbered anew
				name = "a netdev"
			}
			out = append(out, name)
		}
	}
	return out
}

// linked waits until a netdev has a link: rates are refused before.
func linked(t *testing.T, name string) netlink.Link {
	t.Helper()
	for {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile("/sys/class/net/" + name + "/carrier"); err == nil && text[0] == '1' {
			return link
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// vfInfo is what `ip -j link` says of a VF.
type vfInfo struct {
	VF      int
	Address string
	VLANs   []struct{ VLAN int } `json:"vlan_list"`
	Rate    struct {
		Max int `json:"max_tx"`
		Min int `json:"min_tx"`
	}
	Spoofchk, Trust bool
	State           string `json:"link_state"`
}

// shown is what ip says of the card's VFs, by its uplink.
func shown(t *testing.T) []vfInfo {
	return answer[[]struct {
		VFs []vfInfo `json:"vfinfo_list"`
	}](t, "ip", "-j", "-d", "link", "show", "dev", "simr0")[0].VFs
}

// setting is what an inventory's words for a VF would be.
func (v vfInfo) setting(t *testing.T) fabric.Setting {
	s := fabric.Setting{Trust: v.Trust, Spoof: !v.Spoofchk, Traffic: v.State != "disable", MAC: mac(t, v.Address)}
	if len(v.VLANs) > 0 {
		s.VLAN = uint16(v.VLANs[0].VLAN)
	}
	s.QoS = fabric.QoS{Guaranteed: fabric.BitsPerSecond(v.Rate.Min) * 1e6, Maximum: fabric.BitsPerSecond(v.Rate.Max) * 1e6}
	return s
}

func mac(t *testing.T, text string) (out uint64) {
	m, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range m {
		out = out<<8 | uint64(b)
	}
	return out
}

// TestCardLife creates VFs, sets one up as a vNIC wants it, moves that to another, resets
// and removes them, BLADEFLOW_VM_ROUNDS times: nothing is left of any round.
func TestCardLife(t *testing.T) {
	must.InMachine(t)
	seed := flowtest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	links, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	t.Cleanup(func() {
		os.WriteFile("/sys/bus/pci/devices/"+card+"/sriov_numvfs", []byte("0"), 0) // may be so
		setVFs(t, 7)
		linked(t, "eth0")
	})
	linked(t, "eth0")
	setVFs(t, 0)
	bare := there(t)
	for round := range flowtest.Count(t, "BLADEFLOW_VM_ROUNDS", 1) {
		n := 2 + rng.IntN(6)
		setVFs(t, n)
		if more := len(there(t)) - len(bare); more != 4*n { // function, driver, netdev and representor
			t.Errorf("round %d: %d VFs brought %d things:\n%s", round, n, more, strings.Join(there(t), "\n"))
		}
		pf := linked(t, "eth0")
		for i := range n { // a VF of this card has told it an address of its own
			if err := netlink.LinkSetVfHardwareAddr(pf, i, make(net.HardwareAddr, 6)); err != nil {
				t.Fatal(err)
			}
		}
		inv, err := discover.Glance()
		if err != nil {
			t.Fatal(err)
		}
		vfs := &provision.Netlink{Blade: "b1", Links: links, Inventory: func() (fabric.Inventory, error) { return inv, nil }}
		nic := inv.NICs[0]
		id := func(index int) fabric.VFID {
			return fabric.VFID{Blade: "b1", PF: fabric.PFID{PCI: nic.PFs[0].PCI, Serial: nic.Serial}, Index: index}
		}
		do := func(kind fabric.StepKind, index int, s fabric.Setting) {
			t.Helper()
			if err := provision.Do(vfs, fabric.Step{Kind: kind, Blade: "b1", VF: id(index), Setting: s}); err != nil {
				t.Fatalf("round %d: %s VF %d: %v", round, kind, index, err)
			}
		}
		s := fabric.Setting{MAC: station | rng.Uint64N(1<<16), VLAN: uint16(rng.IntN(4095)), Trust: rng.IntN(2) == 0, Spoof: rng.IntN(2) == 0,
			QoS: fabric.QoS{Maximum: fabric.BitsPerSecond(10+rng.IntN(900)) * 1e6}}
		on := s
		on.Traffic = true
		from := rng.IntN(n)
		to := (from + 1 + rng.IntN(n-1)) % n
		for _, at := range []int{from, to} {
			do(fabric.Configure, at, s)
			do(fabric.Connect, at, on)
			if have := shown(t)[at].setting(t); have != on {
				t.Errorf("round %d: ip shows VF %d as %+v, want %+v", round, at, have, on)
			}
			do(fabric.Clear, at, fabric.Setting{})
		}
		if left, err := vfs.Read(); err != nil || len(left) > 0 {
			t.Errorf("round %d: after the reset there are %v, %v", round, left, err)
		}
		setVFs(t, 0)
		if now := there(t); !slices.Equal(now, bare) {
			t.Fatalf("round %d: left is\n%s\nwant\n%s", round, strings.Join(now, "\n"), strings.Join(bare, "\n"))
		}
	}
}

// TestCardVLANs sends from one VF of igb to another: they hear each other in one VLAN, and
// not in two. The frames that must not arrive go before one that must.
func TestCardVLANs(t *testing.T) {
	must.InMachine(t)
	pf := linked(t, "eth0")
	vf := func(i int) *tap {
		names, err := filepath.Glob(fmt.Sprintf("/sys/bus/pci/devices/%s/virtfn%d/net/*", card, i))
		if err != nil || len(names) != 1 {
			t.Fatalf("VF %d has netdevs %v, %v", i, names, err)
		}
		p := openTap(t, filepath.Base(names[0]))
		linked(t, filepath.Base(names[0]))
		return p
	}
	a, b := vf(0), vf(1)
	b.patience(time.Second) // then what it waits for is sent again
	address := func(p *tap) uint64 {
		link, err := netlink.LinkByIndex(p.index)
		if err != nil {
			t.Fatal(err)
		}
		return mac(t, link.Attrs().HardwareAddr.String())
	}
	from, to := address(a), address(b)
	tagged := func(i, vlan int) {
		t.Helper()
		if err := netlink.LinkSetVfVlan(pf, i, vlan); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { tagged(0, 0); tagged(1, 0) })
	kind := byte(0)
	// hears sends frames of a new kind until one arrives, and fails if one of an older
	// kind does.
	hears := func(what string) {
		t.Helper()
		kind++
		for {
			f := frame(from, to)
			f[14] = kind
			a.send(f)
			switch got := b.payload(); got {
			case 0: // it was lost: the switch had not seen the change yet
			case kind:
				return
			default:
				t.Errorf("%s: a frame of kind %d arrived, want %d", what, got, kind)
			}
		}
	}
	deaf := func() {
		kind++
		for range 10 {
			f := frame(from, to)
			f[14] = kind
			a.send(f)
		}
	}
	hears("untagged")
	tagged(1, 7)
	deaf()
	tagged(0, 7)
	hears("both in VLAN 7")
	tagged(1, 0)
	deaf()
	tagged(1, 8)
	deaf()
	tagged(0, 8)
	hears("both in VLAN 8")
}
