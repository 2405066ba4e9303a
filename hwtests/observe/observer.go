// Package observe sees frames arrive. An observer is an XDP program on a netdev, or
// a TCX program where only what the kernel itself gets counts, that records for
// each sequence number how many copies came, what they were and when. It works in
// the kernel because sockets lose packets; it never sends, and it knows nothing of
// rules. Frames carry their sequence number as package traffic stamps it.
//
// Start reading with [Observer]; bpf/observe.c is the half in the kernel.
package observe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"

	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Then says what happens to a frame of ours after it was recorded. Foreign frames
// always go on.
type Then uint32

// What can happen to a frame that was recorded.
const (
	Drop  Then = iota // it ends here; the zero value
	Pass              // it goes on to the kernel
	onHub             // it goes to every other member of the Hub
)

// Config says what an observer records.
type Config struct {
	Sequences int  // sequence numbers 0 … Sequences-1 have a [Cell]; 32 bytes each
	Keep      int  // the first Keep frames after a Reset are kept whole; 2 KiB each
	Then      Then // ignored on a hub
	Hub       *Hub // the wire this netdev is plugged into, or nil; XDP only
}

// Cell is what arrived under one sequence number. Copies add up, so a Cell can be
// compared with what was expected: see [Expect] and [Cell.Same].
type Cell struct {
	Copies uint32
	Bytes  uint32 // of all copies
	Hash   uint64 // sum of [Hash] over all copies
	First  int64  // CLOCK_MONOTONIC ns at which the first copy came; 0 if none did
	Last   int64  // and the last copy
}

// Expect returns the Cell, without times, of frames arriving in whatever order.
func Expect(frames ...[]byte) Cell {
	var c Cell
	for _, f := range frames {
		c.Copies++
		c.Bytes += uint32(len(f))
		c.Hash += Hash(f)
	}
	return c
}

// Same reports whether c and o are the same frames, whenever they came.
func (c Cell) Same(o Cell) bool {
	return c.Copies == o.Copies && c.Bytes == o.Bytes && c.Hash == o.Hash
}

// Totals counts all frames an observer has seen since the last Reset.
type Totals struct {
	Recorded uint64 // are in a Cell
	Foreign  uint64 // bear no sequence number of ours
	Beyond   uint64 // bear one that has no Cell
}

// Frame is one frame that was kept whole.
type Frame struct {
	Sequence uint64
	Time     int64 // CLOCK_MONOTONIC ns
	Bytes    []byte
}

// The structs of bpf/observe.c, as they lie in memory.
const (
	cellSize   = 32
	totalsSize = 32
	frameHead  = 24
	frameSize  = frameHead + MaxFrame
)

// Observer records what arrives at one netdev. Its methods may be called while
// frames arrive; numbers of a frame that is just being recorded may then not agree
// with each other.
type Observer struct {
	Name   string
	config Config
	code   *ebpf.Collection
	link   link.Link
	cells  []byte // the maps, mapped into this process
	totals []byte
	frames []byte
}

// Hub is a wire that connects netdevs of one namespace: a frame that arrives at one
// leaves by all others, unchanged, whatever its addresses. (A Linux bridge keeps
// link-local multicast to itself and drops frames with odd source addresses.)
type Hub struct {
	members *ebpf.Map
	joined  uint32 // how many netdevs have a place in members
}

// NewHub returns a hub without members; at most 256 observers join it by their
// [Config], one after the other. Frames reach a member only if its peer has NAPI: an
// XDP program or GRO on.
func NewHub() (*Hub, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMap(spec.Maps["hub"])
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	return &Hub{members: m}, nil
}

// Close lets go of the hub. It works on as long as a member is attached.
func (h *Hub) Close() error { return h.members.Close() }

// AtXDP attaches an observer to the receiving side of a netdev, in its driver, where
// it sees frames before anything else does, as they are on the wire.
func AtXDP(ns *netns.NS, netdev string, c Config) (*Observer, error) {
	if c.Hub != nil {
		c.Then = onHub
	}
	return attach(ns, netdev, c, "observe_xdp", func(o *Observer, p *ebpf.Program, ifindex int) (err error) {
		if c.Hub != nil {
			if err := c.Hub.members.Put(c.Hub.joined, uint32(ifindex)); err != nil {
				return fmt.Errorf("join the hub: %w", err)
			}
			c.Hub.joined++
		}
		o.link, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: link.XDPDriverMode})
		return err
	})
}

// AtTCX attaches an observer to where the kernel gets frames from a netdev: after
// XDP, and after every TCX program that was attached before. A datapath that takes
// frames away at TCX has to attach at the head.
func AtTCX(ns *netns.NS, netdev string, c Config) (*Observer, error) {
	return attach(ns, netdev, c, "observe_tcx", func(o *Observer, p *ebpf.Program, ifindex int) (err error) {
		o.link, err = link.AttachTCX(link.TCXOptions{Program: p, Interface: ifindex,
			Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()})
		return err
	})
}

func attach(ns *netns.NS, netdev string, c Config, program string, to func(o *Observer, p *ebpf.Program, ifindex int) error) (*Observer, error) {
	o := &Observer{Name: ns.Name + " " + netdev, config: c}
	err := o.load(program)
	if err == nil {
		err = ns.Do(func() error {
			dev, err := net.InterfaceByName(netdev)
			if err != nil {
				return err
			}
			return to(o, o.code.Programs[program], dev.Index)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("observer %s: %w", o.Name, err), o.Close())
	}
	return o, nil
}

// load brings one program and its maps into the kernel.
func (o *Observer) load(program string) error {
	spec, err := loadProgram()
	if err != nil {
		return err
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return name != program })
	spec.Maps["cells"].MaxEntries = uint32(max(1, o.config.Sequences))
	spec.Maps["frames"].MaxEntries = uint32(max(1, o.config.Keep))
	for name, value := range map[string]any{
		"sequences": uint32(o.config.Sequences),
		"keep":      uint32(o.config.Keep),
		"then":      uint32(o.config.Then),
		"magic":     binary.NativeEndian.Uint64([]byte(traffic.Magic)),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return err
		}
	}
	var opts ebpf.CollectionOptions
	if o.config.Hub != nil {
		opts.MapReplacements = map[string]*ebpf.Map{"hub": o.config.Hub.members}
	}
	if o.code, err = ebpf.NewCollectionWithOptions(spec, opts); err != nil {
		return err
	}
	if o.cells, err = mapped(o.code.Maps["cells"], max(1, o.config.Sequences)*cellSize); err != nil {
		return err
	}
	if o.totals, err = mapped(o.code.Maps["totals"], totalsSize); err != nil {
		return err
	}
	o.frames, err = mapped(o.code.Maps["frames"], max(1, o.config.Keep)*frameSize)
	return err
}

// mapped maps the first size bytes of an array map into this process.
func mapped(m *ebpf.Map, size int) ([]byte, error) {
	page := unix.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap of a BPF array: %w", err)
	}
	return b, nil
}

// Close detaches the observer. What it recorded is gone.
func (o *Observer) Close() error {
	var errs []error
	if o.link != nil {
		errs = append(errs, o.link.Close())
	}
	for _, m := range [][]byte{o.cells, o.totals, o.frames} {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	if o.code != nil {
		o.code.Close()
	}
	o.link, o.cells, o.totals, o.frames, o.code = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// Sequences returns how many sequence numbers have a Cell.
func (o *Observer) Sequences() int { return o.config.Sequences }

// Cell returns what arrived under a sequence number below Sequences.
func (o *Observer) Cell(sequence uint64) Cell {
	b := o.cells[sequence*cellSize : (sequence+1)*cellSize]
	ne := binary.NativeEndian
	return Cell{ne.Uint32(b), ne.Uint32(b[4:]), ne.Uint64(b[8:]), int64(ne.Uint64(b[16:])), int64(ne.Uint64(b[24:]))}
}

// Totals returns the sums over all frames.
func (o *Observer) Totals() Totals {
	ne := binary.NativeEndian
	return Totals{ne.Uint64(o.totals), ne.Uint64(o.totals[8:]), ne.Uint64(o.totals[16:])}
}

// Frames returns copies of the frames that were kept whole, in the order they came.
func (o *Observer) Frames() []Frame {
	ne := binary.NativeEndian
	n := min(ne.Uint64(o.totals[24:]), uint64(o.config.Keep))
	frames := make([]Frame, n)
	for i := range frames {
		b := o.frames[i*frameSize:]
		length := ne.Uint64(b[16:])
		frames[i] = Frame{ne.Uint64(b), int64(ne.Uint64(b[8:])), append([]byte(nil), b[frameHead:frameHead+length]...)}
	}
	return frames
}

// Reset forgets everything. No frame may be arriving. Cost: 3 ms per million
// sequence numbers.
func (o *Observer) Reset() {
	clear(o.cells)
	clear(o.totals)
	clear(o.frames)
}
