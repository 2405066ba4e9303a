package provision_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/provision/provisiontest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestEmulated runs the suite on two veth pairs, and looks at the workload's side with
// its own eyes.
func TestEmulated(t *testing.T) {
	links, err := cables(2)
	must.Have(t, "veth", err)
	defer links.Close()
	open := func() provision.VFs {
		e := &provision.Emulated{VFs: map[fabric.VFID]provision.Parts{}}
		for i := range 2 {
			at := func(name string) provision.Netdev {
				return provision.Netdev{Links: links, Name: fmt.Sprintf("%s%d", name, i)}
			}
			e.VFs[vf(i)] = provision.Parts{Workload: at("eth"), Card: at("v"), Representor: at("rep")}
		}
		return e
	}
	factory := attrs(t, links, "eth0").HardwareAddr.String()
	vfs := open()
	s := fabric.Setting{MAC: 0x020000000a01, VLAN: 4095, QoS: fabric.QoS{Guaranteed: 1e15, Maximum: 1e15}, Trust: true, Spoof: true}
	step := fabric.Step{Kind: fabric.Configure, VF: vf(0), Setting: s}
	if err := provision.Do(vfs, step); err != nil {
		t.Fatal(err)
	}
	if a := attrs(t, links, "eth0"); a.HardwareAddr.String() != "02:00:00:00:0a:01" || a.OperState == netlink.OperUp {
		t.Fatalf("the workload has %s, %s", a.HardwareAddr, a.OperState)
	}
	step.Setting.Traffic = true
	if err := provision.Do(vfs, step); err != nil {
		t.Fatal(err)
	}
	if a := attrs(t, links, "v0"); a.RawFlags&1 == 0 {
		t.Fatal("the link is not on")
	}
	if err := provision.Do(vfs, fabric.Step{Kind: fabric.Clear, VF: vf(0)}); err != nil {
		t.Fatal(err)
	}
	if a := attrs(t, links, "eth0"); a.HardwareAddr.String() != factory {
		t.Fatalf("the workload has %s after all was cleared, and had %s", a.HardwareAddr, factory)
	}
	provisiontest.Run(t, vfs, open, vf(0), vf(1))
}

func attrs(t *testing.T, links *netlink.Handle, name string) *netlink.LinkAttrs {
	t.Helper()
	l, err := links.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs()
}

// cables makes n pairs ethN–vN and repN–rN in a namespace of their own, which lives as
// long as the handle.
func cables(n int) (links *netlink.Handle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var ns netns.NsHandle
		if ns, err = netns.New(); err != nil {
			return
		}
		defer ns.Close()
		if links, err = netlink.NewHandle(); err != nil {
			return
		}
		for i := range n {
			for _, pair := range [][2]string{{"eth", "v"}, {"rep", "r"}} {
				a, b := fmt.Sprintf("%s%d", pair[0], i), fmt.Sprintf("%s%d", pair[1], i)
				err = errors.Join(err, links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b}))
			}
		}
	}()
	<-done
	return links, err
}
