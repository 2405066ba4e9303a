package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestCardManyVFs sets up VFs of a PF that has 300: what the kernel says of so many, with
// their counters, does not fit into one attribute, and readers that ask for it get
// nonsense. Of a PF with more than fit even without counters nothing is taken for all.
func TestCardManyVFs(t *testing.T) {
	must.InMachine(t)
	const vfs = 300
	module, err := os.ReadFile("/modules/manyvfs")
	if err == nil {
		err = unix.InitModule(module, fmt.Sprintf("vfs=%d", vfs))
	}
	if err != nil {
		t.Fatal(err)
	}
	links, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	pf := fabric.PF{Name: "nic0/pf0", PCI: fabric.PCI{Bus: 9}, Netdev: &fabric.Netdev{Name: "many0"}, TotalVFs: vfs, NumVFs: vfs}
	tried := []int{0, 221, 222, 255, 299}
	rep := func(i int) *fabric.Netdev { // those that are not tried share one: making 300 takes long
		if !slices.Contains(tried, i) {
			i = vfs
		}
		return &fabric.Netdev{Name: fmt.Sprintf("rep%d", i)}
	}
	for i := range vfs {
		pf.VFs = append(pf.VFs, fabric.VF{Index: i, Representor: rep(i)})
	}
	for _, i := range append(tried, vfs) {
		dummy := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("rep%d", i)}}
		if err := links.LinkAdd(dummy); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { links.LinkDel(dummy) })
	}
	t.Cleanup(func() {
		if err := unix.DeleteModule("manyvfs", 0); err != nil {
			t.Error(err)
		}
	})
	n := &provision.Netlink{Blade: "b1", Links: links, Inventory: func() (fabric.Inventory, error) {
		return fabric.Inventory{NICs: []fabric.NIC{{PFs: []fabric.PF{pf}}}}, nil
	}}
	want := map[fabric.VFID]fabric.Setting{}
	for _, i := range tried {
		id := fabric.VFID{Blade: "b1", PF: fabric.PFID{PCI: pf.PCI}, Index: i}
		want[id] = fabric.Setting{MAC: station | uint64(i), VLAN: uint16(i), Trust: i%2 == 0, QoS: fabric.QoS{Guaranteed: 10e6, Maximum: fabric.BitsPerSecond(i+20) * 1e6}}
		if err := provision.Do(n, fabric.Step{Kind: fabric.Configure, Blade: "b1", VF: id, Setting: want[id]}); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := n.Read()
	if err != nil || len(seen) != len(want) {
		t.Errorf("set up are %v, %v", seen, err)
	}
	for id, s := range want {
		if seen[id].Setting != s || !seen[id].Ours {
			t.Errorf("%s is %+v, want %s", id, seen[id], s)
		}
	}
	if err := os.WriteFile("/sys/module/manyvfs/parameters/vfs", []byte("600"), 0); err != nil {
		t.Fatal(err)
	}
	if seen, err := n.Read(); true {
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_VF_MANY" {
			t.Errorf("of 600 VFs %d are read, %v", len(seen), err)
		}
	}
}
