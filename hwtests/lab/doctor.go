package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab/internal/afxdp"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Features that tests need, as BLADEFLOW_MUST names them.
const (
	FeatureVeth  = "veth"
	FeatureXDP   = "xdp"
	FeatureAFXDP = "afxdp"
)

// Result is what [Doctor] found out about one thing a lab depends on.
type Result struct {
	Check   string
	Feature string // of the Feature constants
	OK      bool
	Detail  string // what was seen; for a check that was not tried, which one it needs
	Remedy  string // what to do; empty if OK
}

// String returns the result on one line.
func (r Result) String() string {
	if r.OK {
		return fmt.Sprintf("ok    %s: %s", r.Check, r.Detail)
	}
	return fmt.Sprintf("FAIL  %s: %s: %s", r.Check, r.Detail, r.Remedy)
}

// Report is all that Doctor found out, in the order it was tried.
type Report []Result

// String returns one line per result.
func (r Report) String() string {
	var b strings.Builder
	for _, x := range r {
		fmt.Fprintln(&b, x)
	}
	return b.String()
}

// Err returns nil if every check of the feature is OK, else the first that is not.
// The empty feature means every check.
func (r Report) Err(feature string) error {
	for _, x := range r {
		if !x.OK && (feature == "" || x.Feature == feature) {
			return &flow.Fault{Code: "E_LAB_DOCTOR", What: x.Check, Why: x.Detail, Remedy: x.Remedy}
		}
	}
	return nil
}

// check is one thing to try on a lab that grows with each check.
type check struct {
	name, feature string
	needs         []string // checks without which this one says nothing
	try           func(*doctor) (detail string, err error)
	remedy        string
}

// checks are in the order in which the lab is built.
var checks = []check{
	{"namespaces and veth", FeatureVeth, nil, (*doctor).veth,
		"run as root on a kernel with CONFIG_NET_NS, CONFIG_VETH and CONFIG_NET_SCHED, in a container with --privileged"},
	{"mapped BPF arrays", FeatureXDP, nil, (*doctor).arrays,
		"run as root on Linux 5.5 or later with CONFIG_BPF_SYSCALL"},
	{"XDP in the driver of veth", FeatureXDP, []string{"namespaces and veth", "mapped BPF arrays"}, (*doctor).xdp,
		"use Linux 6.6 or later"},
	{"TCX", FeatureXDP, []string{"namespaces and veth", "mapped BPF arrays"}, (*doctor).tcx,
		"use Linux 6.6 or later with CONFIG_NET_XGRESS"},
	{"VLAN tags stay on", FeatureXDP, []string{"XDP in the driver of veth", "TCX"}, (*doctor).tags,
		"look at VLAN offload with ethtool -k: a kernel that cannot turn it off hides tags from XDP"},
	{"redirect from veth to veth", FeatureXDP, []string{"XDP in the driver of veth"}, (*doctor).redirect,
		"look at GRO with ethtool -k: without GRO or an XDP program at its peer a veth takes no redirected frame"},
	{"the emulated card", FeatureXDP, []string{"redirect from veth to veth"}, (*doctor).card,
		"see the error: the kernel's verifier may refuse the program"},
	{"a miss reaches the representor", FeatureXDP, []string{"the emulated card", "TCX"}, (*doctor).miss,
		"look at the counters of v0 and r0 with ip netns exec … ethtool -S"},
	{"a hit reaches the workload", FeatureXDP, []string{"the emulated card"}, (*doctor).hit,
		"look at the counters of v0 and v1 with ip netns exec … ethtool -S"},
	{"the representor reaches the workload", FeatureXDP, []string{"the emulated card"}, (*doctor).host,
		"look at the counters of r0 and v0 with ip netns exec … ethtool -S"},
	{"live frames reach the kernel", FeatureXDP, []string{"TCX"}, (*doctor).live,
		"use Linux 5.18 or later; without them the action pass needs a tap device"},
	{"AF_XDP on a representor", FeatureAFXDP, []string{"namespaces and veth"}, (*doctor).afxdp,
		"use a kernel with CONFIG_XDP_SOCKETS; without it the software datapath runs on AF_PACKET"},
}

// doctor is a lab with a number for the next frame.
type doctor struct {
	*Lab
	ctx      context.Context
	sequence uint64
}

// Doctor tries everything a lab depends on, one by one and with real frames, on a
// small lab of its own that it removes again. It takes about a second.
func Doctor(ctx context.Context) Report {
	c := Config{Blades: 1, VFs: 2, Sequences: 64, Keep: 64, Entries: 1}
	d := &doctor{Lab: newLab(c), ctx: ctx}
	var report Report
	failed := map[string]bool{}
	for _, c := range checks {
		r := Result{Check: c.name, Feature: c.feature}
		for _, n := range c.needs {
			if failed[n] {
				r.Detail = "not tried, it needs: " + n
			}
		}
		if r.Detail == "" {
			var err error
			if err = ctx.Err(); err == nil {
				r.Detail, err = c.try(d)
			}
			if r.OK = err == nil; !r.OK {
				r.Detail = err.Error()
			}
		}
		if !r.OK {
			failed[c.name] = true
			r.Remedy = c.remedy
		}
		report = append(report, r)
	}
	if err := d.Down(); err != nil {
		report = append(report, Result{Check: "clean up", Feature: FeatureVeth, Detail: err.Error(), Remedy: "see what of it is left in /run/netns"})
	}
	return report
}

func (d *doctor) veth() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("not root")
	}
	_ = Clean() // what others left is not in the way
	for _, step := range []func() error{d.claim, d.layout, d.wire} {
		if err := step(); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d namespaces, %d netdevs", len(d.spaces), 4*len(d.Blades[0].Attached)), nil
}

func (d *doctor) arrays() (string, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		return "", err
	}
	defer m.Close()
	b, err := unix.Mmap(m.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "", fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(b)
	want := []byte("bladeflw")
	copy(b, want)
	got, err := m.LookupBytes(uint32(0))
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("wrote %x, a look-up says %x", want, got)
	}
	return "what is written is there", err
}

func (d *doctor) xdp() (string, error) {
	if err := d.watchOutside(); err != nil {
		return "", err
	}
	p := d.Blades[0].At(2)
	return "a frame was seen", d.arrives(p.Front, p.Leaves, d.frame())
}

func (d *doctor) tcx() (string, error) {
	if err := d.watchKernel(); err != nil {
		return "", err
	}
	p := d.Blades[0].At(2)
	return "a frame was seen", d.arrives(p.Back, p.Kernel, d.frame())
}

func (d *doctor) tags() (string, error) {
	p := d.Blades[0].At(2)
	for _, tags := range []string{"\x81\x00\x60\x0a", "\x88\xa8\x00\x05", "\x88\xa8\x00\x05\x81\x00\x20\x06"} {
		f := d.frame()
		f = append(append(append([]byte(nil), f[:12]...), tags...), f[12:]...)
		if err := d.arrives(p.Front, p.Leaves, f); err != nil {
			return "", fmt.Errorf("at XDP: %w", err)
		}
		if err := d.arrives(p.Back, p.Kernel, f); err != nil {
			return "", fmt.Errorf("at TCX: %w", err)
		}
	}
	return "one and two tags, at XDP and at TCX", nil
}

// redirect has a program on v0 that sends everything to v1, without a card.
func (d *doctor) redirect() (string, error) {
	from, to := d.Blades[0].At(2), d.Blades[0].At(3)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.DevMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return "", err
	}
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Imm(asm.R3, xdpDrop),
		asm.FnRedirectMap.Call(),
		asm.Return(),
	}})
	if err != nil {
		return "", err
	}
	defer p.Close()
	var l link.Link
	err = d.Blades[0].Card.Do(func() error {
		in, err := net.InterfaceByName(from.Front.Name)
		if err != nil {
			return err
		}
		out, err := net.InterfaceByName(to.Front.Name)
		if err != nil {
			return err
		}
		if err := m.Put(uint32(0), uint32(out.Index)); err != nil { // resolved in this namespace
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: in.Index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		return "", err
	}
	defer l.Close()
	return "a frame arrived", d.arrives(from.Outside, to.Leaves, d.frame())
}

func (d *doctor) card() (string, error) {
	return fmt.Sprintf("pinned in a bpffs, %d ports", len(d.Blades[0].Attached)), d.plug()
}

func (d *doctor) miss() (string, error) {
	for _, p := range d.Blades[0].Attached {
		if err := d.arrives(p.Outside, p.Kernel, d.frame()); err != nil {
			return "", fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return "from every port", nil
}

func (d *doctor) host() (string, error) {
	for _, p := range d.Blades[0].Attached {
		if err := d.arrives(p.Representor, p.Leaves, d.frame()); err != nil {
			return "", fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return "at every port", nil
}

func (d *doctor) hit() (string, error) {
	b := d.Blades[0]
	from, to := b.At(2), b.At(3)
	e := flow.Entry{ID: 1, Kind: flow.PieceEntry, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{to.Port}}}}
	e.Match.Pin(flow.InPort, uint64(from.Port), flow.InPort.Max())
	if o := b.NIC.Apply(d.ctx, []offload.Op{{Kind: offload.Add, Entry: e}}); o[0].Status != offload.Done {
		return "", fmt.Errorf("entry refused: %s: %s", o[0].Code, o[0].Text)
	}
	if err := d.arrives(from.Outside, to.Leaves, d.frame()); err != nil {
		return "", err
	}
	o := b.NIC.Apply(d.ctx, []offload.Op{{Kind: offload.Remove, Entry: e}})
	if o[0].Final.Packets != 1 {
		return "", fmt.Errorf("the entry counted %d frames, not 1", o[0].Final.Packets)
	}
	return "a frame arrived and was counted", nil
}

// live runs a program that passes a frame as if it had come by a representor, which
// is how the software datapath carries out `pass`.
func (d *doctor) live() (string, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		return "", err
	}
	defer p.Close()
	at := d.Blades[0].At(2)
	f := d.frame()
	traffic.Stamp(f, d.sequence)
	err = at.Representor.NS.Do(func() error {
		dev, err := net.InterfaceByName(at.Representor.Name)
		if err != nil {
			return err
		}
		_, err = p.Run(&ebpf.RunOptions{Data: f, Repeat: 1, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
			Context: xdpContext{DataEnd: uint32(len(f)), Ingress: uint32(dev.Index)}})
		return err
	})
	if err != nil {
		return "", err
	}
	return "a frame was seen", d.seen(at.Kernel, f)
}

func (d *doctor) afxdp() (string, error) {
	rep := d.Blades[0].At(2).Representor
	return "a socket was bound", rep.NS.Do(func() error { return afxdp.Bind(rep.Name) })
}

// XDP verdicts, and struct xdp_md (linux/bpf.h).
const (
	xdpDrop = 1
	xdpPass = 2
)

type xdpContext struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }

// frame returns a frame of a local experimental protocol, which no kernel answers.
func (d *doctor) frame() []byte {
	w := d.Blades[0].Workloads
	f := append(append([]byte(nil), w[1].Eth0.MAC...), w[0].Eth0.MAC...)
	return append(append(f, 0x88, 0xb5), make([]byte, 46)...)
}

// arrives sends a frame by a netdev and returns nil once it is seen unchanged.
func (d *doctor) arrives(by Netdev, at *observe.Observer, frame []byte) error {
	s, err := traffic.Open(by.NS, by.Name)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Send(d.ctx, traffic.Load{Frames: traffic.Cycle(frame), First: d.sequence, Count: 1}); err != nil {
		return err
	}
	traffic.Stamp(frame, d.sequence)
	return d.seen(at, frame)
}

// seen waits for the frame with the current sequence number.
func (d *doctor) seen(at *observe.Observer, frame []byte) error {
	sequence := d.sequence
	d.sequence++
	for range 400 { // 2 s, for a machine that is very busy
		if at.Cell(sequence).Copies > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	switch c := at.Cell(sequence); {
	case c.Same(observe.Expect(frame)):
		return nil
	case c.Copies == 0:
		return fmt.Errorf("the frame did not reach %s", at.Name)
	}
	for _, f := range at.Frames() {
		if f.Sequence == sequence {
			return fmt.Errorf("the frame reached %s as %x, it was sent as %x", at.Name, f.Bytes, frame)
		}
	}
	return fmt.Errorf("%d copies of the frame reached %s", at.Cell(sequence).Copies, at.Name)
}
