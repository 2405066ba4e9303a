package afxdp

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/afxdp/internal/ring"
	"github.com/bladeflow/bladeflow/flow"
)

// A frame lives in one piece of packet memory of frameSize bytes, of which the
// kernel keeps 256 for itself when it receives.
const (
	frameSize = 2048
	// MaxFrame is the longest frame a Link receives or sends. The kernel drops and
	// counts longer ones.
	MaxFrame = frameSize - 256
)

// Sizes of the rings, in frames. 4,096 received frames are what a burst may hold
// while something else has the CPU: 4 ms at 1 Mpps. Queues of one device share them,
// down to fewestFrames each. Both halves of packet memory make 10 MiB per link.
const (
	receiveFrames  = 4096
	fewestFrames   = 1024
	transmitFrames = 1024
)

// MaxQueues is how many receive queues a device may have.
const MaxQueues = 64

// stuckAfter is how long Flush keeps asking a kernel that takes nothing.
const stuckAfter = 50 * time.Millisecond

// busyFor is how long a queue may stay busy after its last socket was closed: the
// kernel lets go of it in a deferred job.
const busyFor = time.Second

// Link is an AF_XDP socket on a receive queue of a representor, and the XDP program that
// leads the representor's frames to it. While the Link is open none of them reaches the
// kernel; without a Link all do. If the device is removed the Link receives nothing
// any more and sends with an error. A Link of [OpenIn] has no program of its own.
//
// One goroutine receives. Any may send.
type Link struct {
	ifindex  int
	queue    int
	frames   int   // that may be received and not looked at yet
	sender   *Link // sends for this one, because its queue only receives; else nil
	fd       int
	file     *os.File // fd, known to the runtime's poller: waiting costs no thread
	raw      syscall.RawConn
	sockets  *ebpf.Map
	program  *ebpf.Program
	attached link.Link
	mapping  []byte // has memory in it
	memory   []byte // frames for the fill and rx rings, then transmitFrames for tx

	// The receiver's side.
	fill     *ring.Out[uint64]
	rx       *ring.In[unix.XDPDesc]
	held     []uint64              // frames the caller of Recv looks at
	ready    func(fd uintptr) bool // tells the poller that rx has something
	warmth   byte                  // what take has read of frames: else a compiler would not read it
	received atomic.Uint64

	asking sync.Mutex // held while the kernel is asked, and to close; taken before mu
	told   told       // guarded by asking

	mu     sync.Mutex // guards what follows: the sender's side
	closed bool
	tx     *ring.Out[unix.XDPDesc]
	done   *ring.In[uint64] // frames the kernel has sent
	free   []uint64         // frames to send in
	pushed uint64           // frames put into tx, or into a bundle
	lost   uint64           // frames the kernel took and the device refused
	failed uint64           // frames of bundles that could not be written

	outlet  *outlet    // another way to send; nil without
	takes   func() int // how long frames may be that leave by it; 0 if none can
	begun   bool       // something was sent since the last Flush
	longest int        // what takes said then; valid iff begun
}

// Queues returns over how many receive queues a device spreads frames; 0 if nobody can tell.
// The calling thread must be in the device's network namespace.
func Queues(ifindex int) int {
	n, err := ring.Queues(ifindex)
	if err != nil {
		return 0
	}
	return n.Receive
}

// Open attaches to a device, which needs native XDP and one receive queue. The
// calling thread must be in the device's network namespace; afterwards the Link
// works from any.
func Open(ifindex int) (*Link, error) {
	if n, err := ring.Queues(ifindex); err == nil && n.Receive > 1 {
		return nil, fault(ifindex, fmt.Errorf("the device spreads frames over %d receive queues and only one is read (ethtool -L … combined 1)", n.Receive))
	}
	return open(&Link{ifindex: ifindex, frames: receiveFrames}, (*Link).attach)
}

// OpenIn makes a Link for each receive queue of a device that has an XDP program, in
// whatever mode, which leads frames to the sockets at these places of an XSKMAP. They are
// in the order of the queues. The kernel takes them out when the Links are closed or their
// process dies. A queue without a transmit queue of its number sends by another one.
func OpenIn(ifindex int, sockets *ebpf.Map, place func(queue int) uint32) ([]*Link, error) {
	n, err := ring.Queues(ifindex)
	if err != nil { // the driver does not say, as those do that have one
		n = ring.Channels{Receive: 1, Transmit: 1}
	}
	if n.Receive > MaxQueues {
		return nil, fault(ifindex, fmt.Errorf("the device spreads frames over %d receive queues: %d at most can be read (ethtool -L … combined %d)", n.Receive, MaxQueues, MaxQueues))
	}
	n.Receive = max(n.Receive, 1)
	frames := max(receiveFrames>>bits.Len(uint(n.Receive-1)), fewestFrames)
	var links []*Link
	for queue := range n.Receive {
		l, err := open(&Link{ifindex: ifindex, queue: queue, frames: frames}, func(l *Link) error {
			if err := sockets.Put(place(queue), uint32(l.fd)); err != nil {
				return fmt.Errorf("put the socket into the map: %w", err)
			}
			return nil
		})
		if err != nil {
			for _, l := range links {
				l.Close()
			}
			return nil, err
		}
		if queue >= n.Transmit && n.Transmit > 0 {
			l.sender = links[queue%n.Transmit]
		}
		links = append(links, l)
	}
	return links, nil
}

// open makes l a Link, whose socket gets its frames by what attach does.
func open(l *Link, attach func(*Link) error) (*Link, error) {
	l.fd, l.held = -1, make([]uint64, 0, l.frames)
	l.ready = func(uintptr) bool { return !l.rx.Empty() }
	if err := l.open(attach); err != nil {
		l.Close()
		return nil, fault(l.ifindex, err)
	}
	return l, nil
}

func fault(ifindex int, err error) error {
	return &flow.Fault{Code: "E_AFXDP", What: fmt.Sprintf("AF_XDP on interface %d", ifindex), Why: err.Error(),
		Remedy: "use AF_PACKET on this port, or a kernel and a driver with native XDP", Err: err}
}

func (l *Link) open(attach func(*Link) error) error {
	if err := l.openSocket(); err != nil {
		return err
	}
	for i := range l.frames {
		l.fill.Push(uint64(i) * frameSize)
	}
	l.fill.Publish()
	for i := range transmitFrames {
		l.free = append(l.free, uint64(l.frames+i)*frameSize)
	}
	if err := attach(l); err != nil {
		return err
	}
	l.file = os.NewFile(uintptr(l.fd), fmt.Sprintf("xdp socket of interface %d", l.ifindex))
	var err error
	l.raw, err = l.file.SyscallConn()
	return err
}

// openSocket makes the socket with its memory and rings and binds it to the device.
func (l *Link) openSocket() error {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	l.fd = fd
	if l.mapping, l.memory, err = ring.Memory((l.frames + transmitFrames) * frameSize); err != nil {
		return err
	}
	if err := ring.Register(fd, l.memory, frameSize); err != nil {
		return err
	}
	for _, r := range []struct{ option, size int }{
		{unix.XDP_UMEM_FILL_RING, l.frames}, {unix.XDP_RX_RING, l.frames},
		{unix.XDP_UMEM_COMPLETION_RING, transmitFrames}, {unix.XDP_TX_RING, transmitFrames},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, r.option, r.size); err != nil {
			return fmt.Errorf("size a ring: %w", err)
		}
	}
	at, err := ring.Offsets(fd)
	if err != nil {
		return fmt.Errorf("ask for the ring layout: %w", err)
	}
	if l.fill, err = ring.MapOut[uint64](fd, unix.XDP_UMEM_PGOFF_FILL_RING, at.Fr, l.frames); err != nil {
		return err
	}
	if l.rx, err = ring.MapIn[unix.XDPDesc](fd, unix.XDP_PGOFF_RX_RING, at.Rx, l.frames); err != nil {
		return err
	}
	if l.done, err = ring.MapIn[uint64](fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, at.Cr, transmitFrames); err != nil {
		return err
	}
	if l.tx, err = ring.MapOut[unix.XDPDesc](fd, unix.XDP_PGOFF_TX_RING, at.Tx, transmitFrames); err != nil {
		return err
	}
	// The default send buffer holds 92 small frames, so that the kernel would stop
	// in the middle of every larger flush.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	bind := &unix.SockaddrXDP{Flags: unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP, Ifindex: uint32(l.ifindex), QueueID: uint32(l.queue)}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Bind(fd, bind)
		if errors.Is(err, unix.EBUSY) && time.Since(start) < busyFor {
			continue
		}
		if err != nil {
			return fmt.Errorf("bind in copy mode: %w", err)
		}
		return nil
	}
}

// attach puts the socket into a map and leads the device's frames there.
func (l *Link) attach() (err error) {
	l.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Name: "bladeflow_xsk", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("make a socket map: %w", err)
	}
	if err := l.sockets.Put(uint32(0), uint32(l.fd)); err != nil {
		return fmt.Errorf("put the socket into the map: %w", err)
	}
	const xdpPass, rxQueueIndex = 2, 16 // enum xdp_action; offset in struct xdp_md
	l.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bladeflow_redir", Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, rxQueueIndex, asm.Word),
		asm.LoadMapPtr(asm.R1, l.sockets.FD()),
		asm.Mov.Imm(asm.R3, xdpPass), // what happens if no socket is there
		asm.FnRedirectMap.Call(),
		asm.Return(),
	}})
	if err != nil {
		return fmt.Errorf("load the XDP program: %w", err)
	}
	l.attached, err = link.AttachXDP(link.XDPOptions{Program: l.program, Interface: l.ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("attach the XDP program in native mode: %w", err)
	}
	return nil
}

// Recv fills frames with what has arrived, without copying, and returns how many
// there are. It waits for the first one. The frames are the caller's, to read and
// to change, until the next Recv. It returns 0 and no error after [Link.Wake].
func (l *Link) Recv(frames [][]byte) (int, error) {
	for _, addr := range l.held {
		l.fill.Push(addr) // fits: the fill ring has room for every frame there is
	}
	if len(l.held) > 0 {
		l.fill.Publish()
		l.held = l.held[:0]
	}
	if n := l.take(frames); n > 0 {
		return n, nil
	}
	if err := l.raw.Read(l.ready); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, l.file.SetReadDeadline(time.Time{})
	} else if err != nil {
		return 0, err
	}
	return l.take(frames), nil
}

// take takes what has arrived. It reads a byte of each frame, which lies in no near cache: the
// processor waits for many of them at once here, and for one after the other where they are
// parsed.
func (l *Link) take(frames [][]byte) int {
	n, sum := 0, byte(0)
	for n < len(frames) {
		d, ok := l.rx.Pop()
		if !ok {
			break
		}
		frames[n] = l.memory[d.Addr : d.Addr+uint64(d.Len) : d.Addr+uint64(d.Len)]
		l.held = append(l.held, d.Addr&^(frameSize-1)) // a received frame starts behind the kernel's part
		n++
	}
	for _, f := range frames[:n] {
		if len(f) > 0 {
			sum += f[0]
		}
	}
	if n > 0 {
		l.warmth = sum
		l.rx.Release()
		l.received.Add(uint64(n))
	}
	return n
}

// Wake makes a Recv that waits, or else the next one that would, return.
func (l *Link) Wake() { l.file.SetReadDeadline(time.Unix(1, 0)) }

// Stats returns how many frames Recv handed out, how many the kernel took to send,
// and how many were lost: received with no room in a ring or too long, or refused
// by the device on transmit. The kernel is asked while others go on sending: what is
// refused meanwhile is told by the next call.
func (l *Link) Stats() (received, sent, dropped uint64) {
	l.asking.Lock()
	defer l.asking.Unlock()
	l.ask()
	l.mu.Lock()
	defer l.mu.Unlock()
	dropped = l.unsent()
	sent = l.pushed - min(l.pushed, dropped+l.waiting()) // others may have dropped something, too
	l.told.sent = max(l.told.sent, sent)
	return l.received.Load(), l.told.sent, dropped + l.told.unread
}

// told is what a Link has heard of the kernel, and said itself. Numbers never decrease.
type told struct {
	refused uint64 // frames of bundles that the device did not take
	dropped uint64 // frames that the device has dropped, anybody's
	unread  uint64 // received frames for which there was no room
	sent    uint64 // as Stats returned it last
}

// ask asks the kernel what was lost. asking is held, mu is not: that takes as long as to send
// a batch.
func (l *Link) ask() {
	l.mu.Lock()
	closed, o, written := l.closed, l.outlet, uint64(0)
	if o != nil {
		written = o.written
	}
	l.mu.Unlock()
	if closed {
		return
	}
	if o != nil {
		left, dropped := o.left(), o.drops()
		l.told.refused = max(l.told.refused, written-min(left, written)) // some of left may be younger than written
		l.told.dropped = max(l.told.dropped, dropped-min(o.before, dropped))
	}
	if s, err := ring.Statistics(l.fd); err == nil {
		l.told.unread = s.Rx_dropped + s.Rx_ring_full
	}
}

// waiting is how many frames wait to leave. mu is held.
func (l *Link) waiting() (n uint64) {
	if l.closed || l.tx == nil {
		return 0
	}
	n = uint64(l.tx.Pending())
	if l.outlet != nil {
		n += uint64(l.outlet.n)
	}
	return n
}

// Close detaches from the device, whose frames the kernel gets again. No Recv may
// be running.
func (l *Link) Close() error {
	l.asking.Lock()
	defer l.asking.Unlock()
	l.ask()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.pushed -= l.waiting() // it never leaves
	l.closed = true
	var errs []error
	if l.outlet != nil {
		errs = append(errs, l.outlet.close())
	}
	if l.attached != nil {
		errs = append(errs, l.attached.Close())
	}
	errs = append(errs, l.program.Close(), l.sockets.Close())
	if l.fill != nil {
		errs = append(errs, l.fill.Unmap())
	}
	if l.rx != nil {
		errs = append(errs, l.rx.Unmap())
	}
	if l.done != nil {
		errs = append(errs, l.done.Unmap())
	}
	if l.tx != nil {
		errs = append(errs, l.tx.Unmap())
	}
	if l.mapping != nil {
		errs = append(errs, unix.Munmap(l.mapping))
	}
	if l.file != nil {
		errs = append(errs, l.file.Close())
	} else if l.fd >= 0 {
		errs = append(errs, unix.Close(l.fd))
	}
	return errors.Join(errs...)
}
