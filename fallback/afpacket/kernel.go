package afpacket

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// Kernel hands frames to the kernel through one tap device per representor: a
// frame written to the tap is received there, and a program at the tap's TCX
// ingress marks it with [Mark] and moves it to the ingress of the representor. It
// never meets XDP on the representor, and the mark takes it past the tap and the
// program of a [Link], so it works beside any kind of link.
type Kernel struct {
	taps map[flow.Port]*tap
}

type tap struct {
	fd       int
	program  *ebpf.Program
	attached link.Link
}

// OpenKernel makes a Kernel for the representors of ports, given by ifindex. The
// calling thread must be in their network namespace. It adds a device called
// bf-pass<ifindex> for each, which goes away with the Kernel.
func OpenKernel(ports map[flow.Port]int) (*Kernel, error) {
	k := &Kernel{taps: map[flow.Port]*tap{}}
	for port, ifindex := range ports {
		t := &tap{fd: -1}
		k.taps[port] = t
		if err := t.open(ifindex); err != nil {
			k.Close()
			return nil, &flow.Fault{Code: "E_TAP", What: fmt.Sprintf("pass to the kernel on interface %d by a tap device", ifindex), Why: err.Error(),
				Remedy: "run as root on a kernel with tap devices and TCX (6.6)", Err: err}
		}
	}
	return k, nil
}

func (t *tap) open(ifindex int) (err error) {
	if t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	name := fmt.Sprintf("bf-pass%d", ifindex)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if t.program, err = ebpf.NewProgram(markAndMove(ifindex)); err != nil {
		return fmt.Errorf("load the TCX program: %w", err)
	}
	t.attached, err = link.AttachTCX(link.TCXOptions{Interface: dev.Attrs().Index, Program: t.program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attach the TCX program: %w", err)
	}
	if err := silence(dev); err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

// silence brings the tap up without an address, and with the representor's own
// limits left to decide how long a frame may be.
func silence(dev netlink.Link) error {
	const addrGenModeNone, longest = 1, 65521 // IN6_ADDR_GEN_MODE_NONE; what a tap takes
	return errors.Join(
		netlink.LinkSetIP6AddrGenMode(dev, addrGenModeNone),
		netlink.LinkSetMTU(dev, longest),
		netlink.LinkSetUp(dev))
}

// markAndMove is the program at the tap's ingress.
func markAndMove(ifindex int) *ebpf.ProgramSpec {
	const skbMark, toIngress = 8, 1 // offset in struct __sk_buff; BPF_F_INGRESS
	return &ebpf.ProgramSpec{Name: "bladeflow_pass", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, Mark),
		asm.StoreMem(asm.R1, skbMark, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, toIngress),
		asm.FnRedirect.Call(),
		asm.Return(),
	}}
}

// Deliver makes a frame arrive in the kernel on the representor of port.
func (k *Kernel) Deliver(port flow.Port, frame []byte) error {
	t, ok := k.taps[port]
	if !ok {
		return fmt.Errorf("pass to the kernel: port %d has no representor here", port)
	}
	for {
		switch _, err := unix.Write(t.fd, frame); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("pass to the kernel on port %d: write to its tap: %w", port, err)
		}
	}
}

// Close removes the tap devices. No Deliver may be running.
func (k *Kernel) Close() error {
	var errs []error
	for _, t := range k.taps {
		if t.attached != nil {
			errs = append(errs, t.attached.Close())
		}
		errs = append(errs, t.program.Close())
		if t.fd >= 0 {
			errs = append(errs, unix.Close(t.fd))
		}
	}
	k.taps = nil
	return errors.Join(errs...)
}
