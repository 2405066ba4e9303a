package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/afpacket/internal/ring"
	"github.com/bladeflow/bladeflow/flow"
)

// Mark is the skb mark of frames that [Kernel] hands over.
const Mark = 0x62666c77

// The receive ring: 4,096 slots, 8 MiB. A slot holds about 80 bytes besides the frame.
const (
	slots    = 4096
	slotSize = 2048
	// MaxFrame is the longest frame a Link surely receives. Longer ones are dropped and counted.
	MaxFrame = slotSize - 128
)

// Link is a pair of AF_PACKET sockets on a representor, and the TCX program that
// keeps its frames from the kernel. If the device is removed the Link receives
// nothing any more and sends with an error.
//
// One goroutine receives. Any may send.
type Link struct {
	ifindex  int
	program  *ebpf.Program
	attached link.Link
	file     *os.File // the receiving socket, known to the runtime's poller: waiting costs no thread
	raw      syscall.RawConn
	sender   int // socket that only sends; -1 if there is none

	// The receiver's side.
	ring     *ring.Ring
	ready    func(fd uintptr) bool // tells the poller that ring has something
	received atomic.Uint64

	sent    atomic.Uint64
	cut     atomic.Uint64 // frames too long for a slot
	mu      sync.Mutex    // guards dropped: the kernel forgets its count when it is asked
	dropped uint64
	closed  bool
}

// Open attaches to a device. The calling thread must be in the device's network
// namespace; afterwards the Link works from any.
func Open(ifindex int) (*Link, error) {
	l := &Link{ifindex: ifindex, sender: -1}
	l.ready = func(uintptr) bool { return !l.ring.Empty() }
	if err := l.open(); err != nil {
		l.Close()
		return nil, &flow.Fault{Code: "E_AFPACKET", What: fmt.Sprintf("AF_PACKET on interface %d", ifindex), Why: err.Error(),
			Remedy: "run as root on a kernel of at least 6.6 with TCX", Err: err}
	}
	return l, nil
}

func (l *Link) open() (err error) {
	// First the program, then the tap: a frame in between is lost, not doubled.
	if l.program, err = ebpf.NewProgram(unmarkedDropped()); err != nil {
		return fmt.Errorf("load the TCX program: %w", err)
	}
	l.attached, err = link.AttachTCX(link.TCXOptions{Interface: l.ifindex, Program: l.program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if err != nil {
		return fmt.Errorf("attach the TCX program: %w", err)
	}
	if l.sender, err = l.openSender(); err != nil {
		return err
	}
	return l.openReceiver()
}

// unmarkedDropped is the program behind the tap: what does not carry Mark goes no
// further.
func unmarkedDropped() *ebpf.ProgramSpec {
	const tcxNext, tcxDrop, skbMark = -1, 2, 8 // enum tcx_action_base; offset in struct __sk_buff
	return &ebpf.ProgramSpec{Name: "bladeflow_drop", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, skbMark, asm.Word),
		asm.Mov.Imm(asm.R0, tcxNext),
		asm.JEq.Imm(asm.R2, Mark, "out"),
		asm.Mov.Imm(asm.R0, tcxDrop),
		asm.Return().WithSymbol("out"),
	}}
}

// marked is a classic filter: the tap shows every frame that does not carry Mark.
var marked = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: skfMark},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: Mark, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// skfMark is SKF_AD_OFF + SKF_AD_MARK: where a classic filter reads the mark.
const skfMark = 1<<32 - 0x1000 + 20

func (l *Link) openReceiver() error {
	// With protocol 0 nothing arrives before bind, which comes last.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	l.file = os.NewFile(uintptr(fd), fmt.Sprintf("packet socket of interface %d", l.ifindex))
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing frames: %w", err)
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(marked)), Filter: &marked[0]}); err != nil {
		return fmt.Errorf("filter out marked frames: %w", err)
	}
	if l.ring, err = ring.Map(fd, slots, slotSize); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.ifindex}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (l *Link) openSender() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fd, fmt.Errorf("bypass queueing: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.ifindex}); err != nil {
		return fd, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// htons puts a number into network order, as sockaddr_ll wants its protocol.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Recv fills frames with what has arrived, without copying, and returns how many
// there are. It waits for the first one. The frames are the caller's, to read and
// to change, until the next Recv. It returns 0 and no error after [Link.Wake].
func (l *Link) Recv(frames [][]byte) (int, error) {
	l.ring.Release()
	for {
		if n := l.take(frames); n > 0 {
			l.received.Add(uint64(n))
			return n, nil
		}
		if err := l.raw.Read(l.ready); errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, l.file.SetReadDeadline(time.Time{})
		} else if err != nil {
			return 0, err
		}
	}
}

func (l *Link) take(frames [][]byte) int {
	n := 0
	for n < len(frames) {
		f, ok := l.ring.Pop()
		if !ok {
			break
		}
		if f.Length > len(f.Space)-ring.HeadRoom {
			l.cut.Add(1)
			continue
		}
		frames[n] = whole(f)
		n++
	}
	return n
}

// whole returns the frame as it was on the wire: the kernel takes the outer VLAN
// tag off before taps see a frame, and reports it aside.
func whole(f ring.Frame) []byte {
	if f.Status&unix.TP_STATUS_VLAN_VALID == 0 {
		return f.Space[ring.HeadRoom:]
	}
	proto := uint16(flow.EthVLAN)
	if f.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		proto = f.TPID
	}
	copy(f.Space, f.Space[ring.HeadRoom:ring.HeadRoom+12])
	binary.BigEndian.PutUint16(f.Space[12:], proto)
	binary.BigEndian.PutUint16(f.Space[14:], f.TCI)
	return f.Space
}

// Wake makes a Recv that waits, or else the next one that would, return.
func (l *Link) Wake() { l.file.SetReadDeadline(time.Unix(1, 0)) }

// Send puts a frame on the device at once. One system call per frame costs 7 %
// more than a batched sendmmsg and needs neither buffers nor a lock.
func (l *Link) Send(frame []byte) error {
	for {
		err := unix.Send(l.sender, frame, 0)
		switch {
		case err == nil:
			l.sent.Add(1)
			return nil
		case err != unix.EINTR:
			return fmt.Errorf("interface %d: transmit: %w", l.ifindex, err)
		}
	}
}

// Flush has nothing to do: Send has sent.
func (l *Link) Flush() error { return nil }

// Stats returns how many frames Recv handed out, how many were sent, and how many
// that arrived were lost: with no free slot, or too long for one.
func (l *Link) Stats() (received, sent, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raw.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			l.dropped += uint64(s.Drops)
		}
	})
	return l.received.Load(), l.sent.Load(), l.dropped + l.cut.Load()
}

// Close detaches from the device, whose frames the kernel gets again. No other
// method may be running.
func (l *Link) Close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	if l.ring != nil {
		errs = append(errs, l.ring.Unmap())
	}
	if l.sender >= 0 {
		errs = append(errs, unix.Close(l.sender))
	}
	if l.attached != nil {
		errs = append(errs, l.attached.Close())
	}
	return errors.Join(append(errs, l.program.Close())...)
}
