package hwtests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	tcx "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// Problem. A chassis has blades with cards of their own, in namespaces, between veth
// pairs whose ends senders and observers sit on. tcamsim, the kernel module that takes tc
// flower as a real card does, is one eSwitch with netdevs of its own.
//
// Idea. The module is loaded anew for each chassis, with ports enough for all, and each
// blade gets some: its representors and their outsides move into the namespace of the
// blade's card and are spliced to the netdevs there, frame by frame, in the kernel. The
// rest of the chassis stays as it is, so every scenario runs on it unchanged. The blades'
// tables are one table of the module, as large as all of them; how much a blade may put
// in is what its device model says.

// plugOf returns what makes cards of a kind.
func plugOf(card string) (lab.Plug, error) {
	switch card {
	case "", "softnic":
		return nil, nil
	case "tcamsim":
		if _, err := os.Stat(simModule); err != nil {
			return nil, &flow.Fault{Code: "E_CARD", What: "card tcamsim", Why: "its kernel module is not here", Remedy: "run it in a virtual machine: --on vm", Err: err}
		}
		return plugSimulated, nil
	default:
		return nil, &flow.Fault{Code: "E_USAGE", What: "card " + card, Why: "unknown", Remedy: flow.Suggest(card, "softnic", "tcamsim")}
	}
}

const (
	simModule = "/modules/tcamsim" // where the machine of hwtests/vm has it
	simPorts  = 64                 // all that it can have
	simLines  = 1 << 16            // of its table: an entry for any port is one line for each
)

// simulated is the card of one blade.
type simulated struct {
	*tcflower.Driver
	blade *lab.Blade
	first int // number of its first port
	links []tcx.Link
	back  *tcflower.Driver // by which entries go behind others' backs
}

var _ lab.Hardware = (*simulated)(nil)

// plugSimulated implements [lab.Plug]. With the first blade the module is loaded anew.
func plugSimulated(b *lab.Blade, entries int) (lab.Hardware, error) {
	s := &simulated{blade: b, first: (b.Number - 1) * len(b.Attached)}
	if b.Number == 1 {
		if err := loadSimulated(); err != nil {
			return nil, err
		}
	}
	if last := s.first + len(b.Attached); last > simPorts {
		return nil, fmt.Errorf("tcamsim has %d ports, the chassis needs %d", simPorts, last)
	}
	err := s.move()
	if err == nil {
		err = b.Card.Do(func() error { return errors.Join(s.splice(), s.open(entries)) })
	}
	if err != nil {
		return nil, errors.Join(err, s.Destroy())
	}
	return s, nil
}

// loadSimulated loads the module anew: its netdevs are here then, and its table is empty.
func loadSimulated() error {
	if err := unix.DeleteModule("tcamsim", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unload tcamsim: %w", err)
	}
	module, err := os.ReadFile(simModule)
	if err == nil {
		err = unix.InitModule(module, fmt.Sprintf("ports=%d table_size=%d", simPorts, simLines))
	}
	if err != nil {
		return fmt.Errorf("load tcamsim: %w", err)
	}
	return nil
}

func (s *simulated) outside(i int) string     { return fmt.Sprintf("simf%d", s.first+i) }
func (s *simulated) representor(i int) string { return fmt.Sprintf("simr%d", s.first+i) }

// move takes the blade's ports into its card's namespace and brings them up.
func (s *simulated) move() error {
	home, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer home.Close()
	for i := range s.blade.Attached {
		for _, name := range []string{s.outside(i), s.representor(i)} {
			l, err := home.LinkByName(name)
			if err == nil {
				err = home.LinkSetNsFd(l, s.blade.Card.FD())
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			links := s.blade.Card.Links()
			if l, err = links.LinkByName(name); err == nil {
				err = errors.Join(links.LinkSetMTU(l, lab.MTU), links.LinkSetUp(l))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// splice joins the module's netdevs to those of the card, both ways.
func (s *simulated) splice() error {
	for i, at := range s.blade.Attached {
		for _, pair := range [][2]string{{at.Front.Name, s.outside(i)}, {at.Back.Name, s.representor(i)}} {
			for _, way := range [][2]string{pair, {pair[1], pair[0]}} {
				if err := s.redirect(way[0], way[1]); err != nil {
					return fmt.Errorf("splice %s to %s: %w", way[0], way[1], err)
				}
			}
		}
	}
	return nil
}

// redirect sends all that comes in by one netdev out by another.
func (s *simulated) redirect(from, to string) error {
	in, err := s.index(from)
	if err != nil {
		return err
	}
	out, err := s.index(to)
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "splice", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(out)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return()}})
	if err != nil {
		return err
	}
	defer p.Close() // the link holds it
	l, err := tcx.AttachTCX(tcx.TCXOptions{Program: p, Interface: in, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		s.links = append(s.links, l)
	}
	return err
}

func (s *simulated) index(name string) (int, error) {
	l, err := s.blade.Card.Links().LinkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// open opens the card's driver, in the namespace of the card.
func (s *simulated) open(entries int) error {
	m, err := device.Load("tcamsim")
	if err != nil {
		return err
	}
	m.Entries = entries
	o := tcflower.Options{Model: m}
	for i, at := range s.blade.Attached {
		index, err := s.index(s.representor(i))
		if err != nil {
			return err
		}
		o.Ports = append(o.Ports, tcflower.Port{Port: at.Port, Device: uint32(index)})
	}
	if s.Driver, err = tcflower.Open(o); err != nil {
		return err
	}
	s.back, err = tcflower.Open(o)
	return err
}

// Name implements [lab.Hardware].
func (s *simulated) Name() string { return s.blade.Name }

// Evict implements [lab.Hardware].
func (s *simulated) Evict(id flow.EntryID) error {
	ctx := context.Background()
	have, err := s.back.Installed(ctx)
	if err != nil {
		return err
	}
	for _, e := range have {
		if e.ID != id {
			continue
		}
		if out := s.back.Apply(ctx, []offload.Op{{Kind: offload.Remove, Entry: e}}); out[0].Status != offload.Done {
			return fmt.Errorf("evict: %s", out[0].Text)
		}
		return nil
	}
	return fmt.Errorf("evict: no entry %x", id)
}

// Lie implements [lab.Hardware], for bits of the destination port: entries of all blades
// that come from now on do not look at them. The module's other lie, entries that forward
// what they should drop, is none for a chassis: they do so by its first port, the first
// blade's uplink, and between two blades such frames would go round for ever.
func (s *simulated) Lie(blind flow.Key) error {
	bits, rest := blind.Get(flow.DstPort), blind
	if rest.Set(flow.DstPort, 0); rest != (flow.Key{}) {
		return errors.New("tcamsim can be blind to bits of the destination port only")
	}
	if err := os.WriteFile("/sys/module/tcamsim/parameters/blind_dst_port", []byte(strconv.FormatUint(bits, 10)), 0); err != nil {
		return fmt.Errorf("lie: %w", err)
	}
	return nil
}

// Lost implements [lab.Hardware].
func (s *simulated) Lost() (map[flow.Port]uint64, error) {
	lost := map[flow.Port]uint64{}
	for i, at := range s.blade.Attached {
		for _, name := range []string{s.outside(i), s.representor(i)} {
			l, err := s.blade.Card.Links().LinkByName(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			lost[at.Port] += l.Attrs().Statistics.RxDropped + l.Attrs().Statistics.TxDropped
		}
	}
	return lost, nil
}

// Destroy implements [lab.Hardware]. The module's netdevs go home with the namespace.
func (s *simulated) Destroy() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	for _, d := range []*tcflower.Driver{s.Driver, s.back} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}
