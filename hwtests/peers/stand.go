package peers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/netns"
)

// Netdevs of a stand. No two namespaces share a name, so that a path cannot be laid in
// the wrong one.
const (
	senderDev  = "bfsend"
	insideDev  = "bfin"
	outsideDev = "bfout"
	sinkDev    = "bfsink"
	spareDev   = "bfspare"
)

var (
	senderMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	insideMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	outsideMAC = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	sinkMAC    = net.HardwareAddr{2, 0, 0, 0, 0, 4}
)

// Addresses of the two ends, in one network: a path that routes needs a neighbour, all
// others do not look.
var (
	senderIP = net.IPv4(10, 1, 0, 1).To4()
	sinkIP   = net.IPv4(10, 1, 0, 2).To4()
)

// stand is three namespaces in a row, with the device under test in the middle. It is
// gone when it is closed, or else with the process.
type stand struct {
	sender, middle, sink *netns.NS
	inside, outside      int // ifindex in middle
	code                 *ebpf.Collection
	made, counted        lines
	undo                 []func() error // carried out last to first
}

// newStand lays the cables and loads the programs, for frames of these flows, whose
// number is a power of two. routed frames are sent to the middle's MAC, others to the
// sink's.
func newStand(flows []flowID, routed bool) (*stand, error) {
	s := &stand{}
	err := s.connect()
	if err == nil {
		err = s.load(flows, routed)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close takes down what was laid, all of it also after an error.
func (s *stand) Close() error {
	var errs []error
	for _, undo := range slices.Backward(s.undo) {
		errs = append(errs, undo())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// onClose has f carried out by Close, before everything that was there before.
func (s *stand) onClose(f func() error) { s.undo = append(s.undo, f) }

func (s *stand) connect() (err error) {
	for _, ns := range []**netns.NS{&s.sender, &s.middle, &s.sink} {
		if *ns, err = netns.NewUnnamed(); err != nil {
			return err
		}
		s.onClose((*ns).Close)
	}
	for _, c := range []struct{ a, b lab.Netdev }{
		{lab.Netdev{NS: s.sender, Name: senderDev, MAC: senderMAC}, lab.Netdev{NS: s.middle, Name: insideDev, MAC: insideMAC}},
		{lab.Netdev{NS: s.middle, Name: outsideDev, MAC: outsideMAC}, lab.Netdev{NS: s.sink, Name: sinkDev, MAC: sinkMAC}},
		{lab.Netdev{NS: s.sender, Name: spareDev}, lab.Netdev{NS: s.sender, Name: spareDev + "2"}},
	} {
		if err := cable(c.a, c.b); err != nil {
			return err
		}
	}
	if s.inside, err = ifindex(s.middle, insideDev); err != nil {
		return err
	}
	s.outside, err = ifindex(s.middle, outsideDev)
	return err
}

// cable lays a veth pair. GRO gives each end NAPI, without which the kernel neither
// redirects frames to its peer nor hands over XDP frames.
func cable(a, b lab.Netdev) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = a.Name, a.MAC
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerHardwareAddr: b.MAC, PeerNamespace: netlink.NsFd(b.NS.FD())}
	if err := a.NS.Links().LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s to %s: %w", a.Name, b.Name, err)
	}
	for _, d := range []lab.Netdev{a, b} {
		if err := d.SetFeatures(map[string]bool{"rx-gro": true}); err != nil {
			return err
		}
	}
	for _, d := range []lab.Netdev{a, b} {
		l, err := d.NS.Links().LinkByName(d.Name)
		if err == nil {
			err = d.NS.Links().LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	return nil
}

func ifindex(ns *netns.NS, netdev string) (int, error) {
	l, err := ns.Links().LinkByName(netdev)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", netdev, err)
	}
	return l.Attrs().Index, nil
}

// load brings all programs and their maps into the kernel.
func (s *stand) load(flows []flowID, routed bool) error {
	spec, err := loadProgram()
	if err != nil {
		return err
	}
	to := sinkMAC
	if routed {
		to = insideMAC
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	spec.Maps[programMapFlows].MaxEntries = uint32(len(flows))
	spec.Maps[programMapMade].MaxEntries, spec.Maps[programMapCounted].MaxEntries = uint32(cpus), uint32(cpus)
	for name, value := range map[string]any{
		programVarInside: uint32(s.inside), programVarOutside: uint32(s.outside), programVarFlowMask: uint32(len(flows) - 1),
		programVarTo: wordOf(to), programVarFrom: wordOf(senderMAC),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return err
		}
	}
	if s.code, err = ebpf.NewCollection(spec); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	s.onClose(func() error { s.code.Close(); return nil })
	for i, f := range flows {
		if err := s.code.Maps[programMapFlows].Put(uint32(i), f.tuple()); err != nil {
			return fmt.Errorf("flow %d: %w", i, err)
		}
	}
	for m, to := range map[string]*lines{programMapMade: &s.made, programMapCounted: &s.counted} {
		if *to, err = mapLines(s.code.Maps[m]); err != nil {
			return err
		}
		s.onClose((*to).unmap)
	}
	// A devmap finds netdevs in the namespace of the calling thread.
	return s.middle.Do(func() error {
		ports := s.code.Maps[programMapPorts]
		return errors.Join(ports.Put(uint32(0), uint32(s.outside)), ports.Put(uint32(1), uint32(s.inside)))
	})
}

// wordOf returns a MAC as the first 6 bytes of a word in memory.
func wordOf(mac net.HardwareAddr) uint64 {
	return binary.NativeEndian.Uint64(append(slices.Clone(mac), 0, 0))
}

// xdp attaches a program to a netdev until Close.
func (s *stand) xdp(ns *netns.NS, ifindex int, program string, mode link.XDPAttachFlags) error {
	return s.attach(ns, program, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: mode})
	})
}

// tcx attaches a program to what a netdev receives until Close.
func (s *stand) tcx(ns *netns.NS, ifindex int, program string) error {
	return s.attach(ns, program, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: p, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
	})
}

func (s *stand) attach(ns *netns.NS, program string, how func(*ebpf.Program) (link.Link, error)) error {
	return ns.Do(func() error {
		l, err := how(s.code.Programs[program])
		if err != nil {
			return fmt.Errorf("attach %s: %w", program, err)
		}
		s.onClose(l.Close)
		return nil
	})
}

// command runs a command in the middle and returns what it prints.
func (s *stand) command(stdin string, command ...string) (string, error) {
	var out []byte
	err := s.middle.Do(func() (err error) {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// lines are the counters of all CPUs, as bpf/peers.c writes them.
type lines []byte

const lineSize = 64

func mapLines(m *ebpf.Map) (lines, error) {
	b, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries())*lineSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap of counters: %w", err)
	}
	return b, nil
}

func (l lines) unmap() error { return unix.Munmap(l) }

// sum returns what all CPUs have counted.
func (l lines) sum() (n uint64) {
	for at := 0; at < len(l); at += lineSize {
		n += binary.NativeEndian.Uint64(l[at:])
	}
	return n
}
