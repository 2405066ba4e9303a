package fallback_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/perf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// cable is a veth pair in a namespace of its own: rep is what a link opens, far is
// the workload's end. Tests watch both ends with programs, never with sockets.
type cable struct {
	rep, far int       // ifindex
	kernel   *recorder // what the kernel gets on rep, behind all programs of links
	wire     *recorder // what arrives at far
	sink     link.Link // the program at far
	socket   int       // sends on far
}

// inNamespace moves the test into a new network namespace until it ends.
func inNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked where it fails: the thread is then thrown away
	home, err := netns.Get()
	if err != nil {
		must.Have(t, "veth", err)
	}
	own, err := netns.New()
	if err != nil {
		home.Close()
		must.Have(t, "veth", err)
	}
	t.Cleanup(func() {
		own.Close()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		home.Close()
	})
}

// newCable lays a cable in the current namespace, named after name.
func newCable(t testing.TB, name string) *cable {
	t.Helper()
	wire := newRecorder(t, ebpf.XDP)
	c := layCable(t, name, wire.program)
	c.wire = wire
	return c
}

// layCable lays a cable at whose far end an XDP program sees what arrives.
func layCable(t testing.TB, name string, program *ebpf.Program) *cable {
	t.Helper()
	return layWide(t, name, program, 1)
}

// layWide is layCable with so many queues at both ends: what leaves by one of them comes in
// by that of the same number.
func layWide(t testing.TB, name string, program *ebpf.Program, queues int) *cable {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "rep"+name, queues, queues
	must.Have(t, "veth", netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far" + name, PeerNumRxQueues: uint32(queues), PeerNumTxQueues: uint32(queues)}))
	c := &cable{}
	for _, end := range []struct {
		name  string
		index *int
	}{{"rep" + name, &c.rep}, {"far" + name, &c.far}} {
		dev, err := netlink.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		*end.index = dev.Attrs().Index
		if err := errors.Join(netlink.LinkSetIP6AddrGenMode(dev, 1 /* none */), netlink.LinkSetUp(dev)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: c.far, Flags: link.XDPDriverMode})
	must.Have(t, "xdp", err)
	c.sink = l
	t.Cleanup(func() { l.Close() })

	if c.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.socket) })
	if err := unix.Bind(c.socket, &unix.SockaddrLinklayer{Ifindex: c.far}); err != nil {
		t.Fatal(err)
	}
	return c
}

// watchKernel begins to record what the kernel gets on rep, after every program
// that is attached there now.
func (c *cable) watchKernel(t testing.TB) {
	t.Helper()
	c.kernel = newRecorder(t, ebpf.SchedCLS)
	l, err := link.AttachTCX(link.TCXOptions{Interface: c.rep, Program: c.kernel.program, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()})
	must.Have(t, "xdp", err)
	t.Cleanup(func() { l.Close() })
}

// send makes frames arrive on rep.
func (c *cable) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if err := unix.Send(c.socket, f, 0); err != nil {
			t.Fatalf("send %d bytes: %v", len(f), err)
		}
	}
}

// recorder is a program that copies every frame it sees into a perf buffer.
type recorder struct {
	program *ebpf.Program
	reader  *perf.Reader
}

// newRecorder makes one for XDP, which then drops the frame, or for TCX ingress.
func newRecorder(t testing.TB, kind ebpf.ProgramType) *recorder {
	t.Helper()
	events, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerfEventArray, Name: "frames"})
	must.Have(t, "xdp", err)
	// The event begins with three words: vlan_present, vlan_tci, vlan_proto.
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	verdict := int32(1) // XDP_DROP
	if kind == ebpf.XDP {
		code = append(code,
			asm.LoadMem(asm.R3, asm.R6, 4, asm.Word), asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), asm.Sub.Reg(asm.R3, asm.R2),
			asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.RFP, -16, asm.R2, asm.DWord), asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord))
	} else {
		verdict = -1 // TCX_NEXT
		code = append(code, asm.LoadMem(asm.R3, asm.R6, 0, asm.Word))
		for i, field := range []int16{20, 24, 28} { // struct __sk_buff
			code = append(code, asm.LoadMem(asm.R2, asm.R6, field, asm.Word), asm.StoreMem(asm.RFP, int16(4*i-16), asm.R2, asm.Word))
		}
	}
	code = append(code,
		asm.StoreMem(asm.RFP, -4, asm.R3, asm.Word), // the length
		asm.LSh.Imm(asm.R3, 32),
		asm.LoadImm(asm.R2, 0xffffffff, asm.DWord), // this CPU
		asm.Or.Reg(asm.R3, asm.R2),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, events.FD()),
		asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, -16),
		asm.Mov.Imm(asm.R5, 16),
		asm.FnPerfEventOutput.Call(),
		asm.Mov.Imm(asm.R0, verdict), asm.Return())
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "record", Type: kind, License: "GPL", Instructions: code})
	must.Have(t, "xdp", err)
	reader, err := perf.NewReader(events, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); program.Close(); events.Close() })
	return &recorder{program, reader}
}

// frames returns what was recorded since the last call, waiting for n
// frames and then a little for more than that. Frames that are none of ours (their
// source MAC is not ours) do not count. Each CPU's frames are in order.
func (r *recorder) frames(t testing.TB, n int) [][]byte {
	t.Helper()
	got, _ := r.records(t, n)
	return got
}

// records returns them with the CPU that saw each.
func (r *recorder) records(t testing.TB, n int) (got [][]byte, cpus []int) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); ; {
		if len(got) >= n {
			deadline = time.Now().Add(10 * time.Millisecond)
		}
		r.reader.SetDeadline(deadline)
		rec, err := r.reader.Read()
		if err != nil || rec.LostSamples > 0 {
			if err == nil {
				t.Fatalf("the recorder lost %d frames", rec.LostSamples)
			}
			return got, cpus
		}
		if f := onWire(rec.RawSample); ours(f) {
			got, cpus = append(got, f), append(cpus, rec.CPU)
		}
	}
}

// onWire puts a VLAN tag that the kernel took off back in.
func onWire(event []byte) []byte {
	ne, be := binary.NativeEndian, binary.BigEndian
	f := bytes.Clone(event[16 : 16+ne.Uint32(event[12:])])
	if ne.Uint32(event) == 0 {
		return f
	}
	var tag []byte
	tag = append(tag, event[8], event[9]) // vlan_proto is in network order
	tag = be.AppendUint16(tag, uint16(ne.Uint32(event[4:])))
	return append(append(bytes.Clone(f[:12]), tag...), f[12:]...)
}

// ourSource is the source MAC of every frame a test sends: the namespace's own
// chatter has another.
var ourSource = []byte{2, 0xb1, 0xad, 0xef, 0x10, 0x77}

func ours(f []byte) bool { return len(f) >= 12 && bytes.Equal(f[6:12], ourSource) }

// testFrame returns a frame of a length with tags, each of another kind, and a
// number at its end.
func testFrame(length, tags, number int) []byte {
	be := binary.BigEndian
	f := append([]byte{2, 0, 0, 0, 0, 1}, ourSource...)
	for i := range tags {
		f = be.AppendUint16(f, []uint16{flow.EthQinQ, flow.EthVLAN, flow.EthVLAN}[(i+number)%3])
		f = be.AppendUint16(f, uint16(number*77+i)) // every prio, drop eligible bit and id
	}
	f = be.AppendUint16(f, 0x88b5) // local experiments (IEEE 802)
	for len(f) < length {
		f = append(f, byte(number+len(f)))
	}
	if len(f) >= 40 {
		be.PutUint64(f[len(f)-8:], uint64(number))
	}
	return f
}
