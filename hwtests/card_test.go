package hwtests

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/offload"
)

// TestFindCard refuses whatever scenarios cannot run on, and says what to do.
func TestFindCard(t *testing.T) {
	rep, dev := &fabric.Netdev{Name: "rep0"}, &fabric.Netdev{Name: "eth0"}
	at := fabric.PCI{Bus: 3}
	good := fabric.PF{Name: "nic0/pf0", PCI: at, Driver: "mlx5_core", Netdev: dev, TotalVFs: 8, NumVFs: 3, ESwitch: fabric.ESwitchSwitchdev, VFs: []fabric.VF{
		{Index: 0, PCI: fabric.PCI{Bus: 3, Function: 1}, Representor: rep}, {Index: 1, Representor: rep}, {Index: 2}}}
	inventory := func(change func(*fabric.PF)) fabric.Inventory {
		pf := good
		change(&pf)
		return fabric.Inventory{NICs: []fabric.NIC{{Name: "nic0", Serial: "S", PFs: []fabric.PF{pf}}}}
	}
	k, err := findCard(inventory(func(*fabric.PF) {}), at)
	if err != nil || len(k.free) != 2 || k.id != (fabric.PFID{PCI: at, Serial: "S"}) || k.modelName() != "mlx5" {
		t.Fatalf("%+v, %v", k, err)
	}
	refused := func(inv fabric.Inventory, at fabric.PCI, words string) {
		t.Helper()
		_, err := findCard(inv, at)
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_CARD" || f.Remedy == "" || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want E_CARD with %q", err, words)
		}
	}
	refused(fabric.Inventory{}, at, "no network card on PCI")
	refused(inventory(func(*fabric.PF) {}), fabric.PCI{Bus: 4}, "name one of nic:0000:03:00.0")
	refused(inventory(func(*fabric.PF) {}), fabric.PCI{Bus: 3, Function: 1}, "it is a VF")
	refused(inventory(func(pf *fabric.PF) { pf.Driver = "" }), at, "no driver")
	refused(inventory(func(pf *fabric.PF) { pf.Netdev = nil }), at, "in this namespace")
	refused(inventory(func(pf *fabric.PF) { pf.TotalVFs = 0 }), at, "SR-IOV")
	refused(inventory(func(pf *fabric.PF) { pf.ESwitch = fabric.ESwitchLegacy }), at, "mode switchdev")
	refused(inventory(func(pf *fabric.PF) { pf.VFs = pf.VFs[1:] }), at, "sriov_numvfs")
}

// TestRunCardRefuses has no card: nothing is touched.
func TestRunCardRefuses(t *testing.T) {
	check := func(pci, code string) {
		t.Helper()
		_, err := RunCard(t.Context(), pci, RunConfig{Terms: Terms{Say: t.Logf}})
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != code {
			t.Errorf("nic:%s: %v, want %s", pci, err, code)
		}
	}
	check("eth0", "E_USAGE")
	check("ffff:ff:1f.7", "E_CARD")
}

// TestPlugOf knows the kinds of cards, and where tcamsim is not to be had.
func TestPlugOf(t *testing.T) {
	if plug, err := plugOf("softnic"); plug != nil || err != nil {
		t.Errorf("softnic: %v", err)
	}
	var f *flow.Fault
	if _, err := plugOf("softcard"); !errors.As(err, &f) || f.Code != "E_USAGE" {
		t.Errorf("softcard: %v", err)
	}
}

// TestUser finds who uses a VF that nobody has set up: a guest, a container, a bridge, this
// machine itself.
func TestUser(t *testing.T) {
	ns, err := netns.NewUnnamed()
	must.Have(t, "veth", err)
	t.Cleanup(func() { ns.Close() })
	links := ns.Links()
	must.Have(t, "veth", links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "rep0"}))
	k := &card{vfs: &provision.Netlink{Links: links}}
	rep, dev := &fabric.Netdev{Name: "rep0"}, &fabric.Netdev{Name: "eth0"}
	check := func(vf fabric.VF, words string) {
		t.Helper()
		how, err := k.user(&vf)
		if err != nil || words == "" && how != "" || !strings.Contains(how, words) {
			t.Errorf("%+v: %q, %v, want %q", vf, how, err, words)
		}
	}
	check(fabric.VF{}, "")
	check(fabric.VF{Driver: "igbvf", Netdev: dev, Representor: rep}, "")
	check(fabric.VF{Driver: "vfio-pci", Representor: rep}, "has driver vfio-pci")
	check(fabric.VF{Driver: "mlx5_core", Representor: rep}, "another namespace")
	link := func(name string) netlink.Link {
		t.Helper()
		l, err := links.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if err := links.AddrAdd(link("eth0"), &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{192, 0, 2, 1}, Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	check(fabric.VF{Driver: "igbvf", Netdev: dev, Representor: rep}, "eth0 with address 192.0.2.1/24")
	check(fabric.VF{Representor: rep}, "")
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	must.Have(t, "veth", links.LinkAdd(bridge))
	if err := links.LinkSetMaster(link("rep0"), bridge); err != nil {
		t.Fatal(err)
	}
	check(fabric.VF{Representor: rep}, "rep0 in a bridge")
	if _, err := k.user(&fabric.VF{Representor: &fabric.Netdev{Name: "gone"}}); err == nil {
		t.Error("a netdev that is not there")
	}
}

// TestVFsSpared takes no VF away while somebody uses one, whatever was allowed.
func TestVFsSpared(t *testing.T) {
	k := &card{take: true, used: []string{"VF 3 is a guest's"}}
	if _, _, err := runVFs(t.Context(), Terms{card: k}); err == nil || !strings.Contains(err.Error(), "VF 3 is a guest's") {
		t.Error(err)
	}
}

// deaf is a device that takes everything, and of whose answers those that it was told to
// lose are lost.
type deaf struct {
	offload.Driver
	has  []flow.Entry
	lost []int // by how many operations went before
	ops  int
}

func (d *deaf) Installed(context.Context) ([]flow.Entry, error) { return slices.Clone(d.has), nil }

func (d *deaf) Apply(_ context.Context, ops []offload.Op) []offload.Outcome {
	out := make([]offload.Outcome, len(ops))
	for i, op := range ops {
		d.has = slices.DeleteFunc(d.has, func(e flow.Entry) bool { return e.ID == op.Entry.ID })
		if op.Kind == offload.Add {
			d.has = append(d.has, op.Entry)
		}
		if slices.Contains(d.lost, d.ops) {
			out[i] = offload.Outcome{Status: offload.Unknown, Text: "no answer"}
		}
		d.ops++
	}
	return out
}

// TestEmpty has a card take entries of which nobody hears whether they are in: they are
// taken out with the others, and what others have put in stays.
func TestEmpty(t *testing.T) {
	all := dropping(4)
	ops, other := all[:3], all[3].Entry
	d := &deaf{has: []flow.Entry{other}, lost: []int{1}}
	in, f, wrong, err := fill(t.Context(), d, ops)
	if err != nil || len(in) != 2 || f.In != 2 || len(wrong) == 0 {
		t.Fatalf("%d are in: %+v, %v, %v", len(in), f, wrong, err)
	}
	if wrong, err := empty(d, ops); err != nil || len(wrong) > 0 {
		t.Errorf("%v, %v", wrong, err)
	}
	if len(d.has) != 1 || d.has[0].ID != other.ID {
		t.Errorf("left are %v", d.has)
	}
}

// TestWire brings a netdev up for as long as it looks, and waits for its frame no longer
// because others come.
func TestWire(t *testing.T) {
	ns, err := netns.NewUnnamed()
	must.Have(t, "veth", err)
	t.Cleanup(func() { ns.Close() })
	must.Have(t, "veth", ns.Links().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "rep0"}))
	err = ns.Do(func() error {
		out, err := openWire("eth0")
		if err != nil {
			return err
		}
		up, err := openWire("rep0")
		if err != nil {
			return err
		}
		if err := out.send(noStation); err != nil {
			return err
		}
		if to, err := up.receive(time.Now().Add(time.Minute)); err != nil || to != noStation {
			t.Errorf("a frame for %x, %v", to, err)
		}
		foreign := make([]byte, 60)
		foreign[12] = 0x08
		for range 100 {
			if err := unix.Sendto(out.fd, foreign, 0, &unix.SockaddrLinklayer{Ifindex: out.index}); err != nil {
				return err
			}
		}
		if err := out.send(noStation); err != nil {
			return err
		}
		if to, err := up.receive(time.Now()); err == nil {
			t.Errorf("behind frames of others, when time was up, there was still one for %x", to)
		}
		return errors.Join(up.close(), out.close())
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth0", "rep0"} {
		if l, err := ns.Links().LinkByName(name); err != nil || l.Attrs().RawFlags&unix.IFF_UP != 0 {
			t.Errorf("%s is still up, %v", name, err)
		}
	}
}
