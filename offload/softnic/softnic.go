// Package softnic is a NIC made of XDP programs on veth pairs, and its driver: the
// "hardware" of the lab. It has a bounded match table with masks, port ranges and
// priorities, counters per entry, and faults for tests. It never decides what
// belongs into the table (package offload does) and never makes a netdev (the lab
// does).
//
// The card is kernel objects alone: programs, maps and links, pinned in a directory.
// It lives on when its maker's process ends, and every handle on it, in whichever
// process, is a driver that remembers nothing. Start reading with [Create] and
// [NIC.Apply]; internal/xdp/bpf/card.c is the silicon.
package softnic

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// MaxEntries is the size of the match table that is compiled into the card.
const MaxEntries = len(xdp.CardMatchTable{}.Entry)

// MaxPort is the highest port number a card takes. A copy to several ports asks
// each port up to the highest, so high numbers cost.
const MaxPort = 255

// Port is one port of a card: two netdevs in the card's namespace.
type Port struct {
	Port  flow.Port `json:"port"`
	Front string    `json:"front"` // v0, p0: towards the workload or the wire
	Back  string    `json:"back"`  // r0, ru: towards the representor in the blade's namespace
}

// Config says what card to make.
type Config struct {
	Name    string // for messages
	Ports   []Port
	Entries int    // how many entries fit, 1 … MaxEntries; 0 means MaxEntries
	PinDir  string // a directory to be made on a bpffs; the card lives there until Destroy
	Faults  Faults
}

// NIC is a handle on a card: its driver. Any number of handles may be open at once,
// in any number of processes; a handle may be used by several goroutines.
type NIC struct {
	dir   string
	about about
	maps  cardMaps
	mem   *xdp.Memory

	mu    sync.Mutex // held together with a lock on dir, which other processes see
	lock  *os.File
	owner *os.File // locked since Claim; nil without
}

// about is what the card knows of itself, kept in a map of its own.
type about struct {
	Name  string `json:"name"`
	Ports []Port `json:"ports"`
}

// cardMaps are the maps that a handle needs, and that are therefore pinned.
type cardMaps struct {
	Table   *ebpf.Map `ebpf:"table"`
	Slots   *ebpf.Map `ebpf:"slots"`
	Stats   *ebpf.Map `ebpf:"stats"`
	Barrier *ebpf.Map `ebpf:"barrier"`
	About   *ebpf.Map `ebpf:"about"`
}

// each calls f for every map and the name of its pin.
func (m *cardMaps) each(f func(name string, m **ebpf.Map) error) error {
	return errors.Join(f("table", &m.Table), f("slots", &m.Slots), f("stats", &m.Stats), f("barrier", &m.Barrier), f("about", &m.About))
}

// Create makes a card of netdevs that exist and are up. The calling thread must be
// in the card's network namespace. The table is empty, so that everything misses.
// It takes about 0.2 s, most of it in the kernel's verifier.
func Create(c Config) (*NIC, error) {
	if c.Entries == 0 {
		c.Entries = MaxEntries
	}
	if err := c.valid(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.PinDir, 0o700); err != nil {
		return nil, c.fault(err)
	}
	n, err := create(c)
	if err != nil {
		return nil, errors.Join(c.fault(err), remove(c.PinDir))
	}
	return n, nil
}

func (c *Config) fault(err error) error {
	f := &flow.Fault{Code: "E_SOFTNIC", What: "card " + c.Name, Why: err.Error(), Err: err}
	if errors.Is(err, fs.ErrExist) {
		f.Remedy = "open the card that is there, or destroy it first"
	}
	return f
}

func (c *Config) valid() error {
	bad := func(why, remedy string) error {
		return &flow.Fault{Code: "E_SOFTNIC_CONFIG", What: "card " + c.Name, Why: why, Remedy: remedy}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(c.PinDir), &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return bad(filepath.Dir(c.PinDir)+" is not on a bpffs", "mount one: mount -t bpf bpf DIR")
	}
	if c.Entries < 1 || c.Entries > MaxEntries {
		return bad(fmt.Sprintf("%d entries", c.Entries), fmt.Sprintf("use 1 to %d", MaxEntries))
	}
	if len(c.Ports) == 0 {
		return bad("no ports", "name at least one")
	}
	ports, devs := map[flow.Port]bool{}, map[string]bool{}
	for _, p := range c.Ports {
		if p.Port == 0 || p.Port > MaxPort || ports[p.Port] {
			return bad(fmt.Sprintf("port %d", p.Port), fmt.Sprintf("use each number of 1 to %d once", MaxPort))
		}
		if p.Front == p.Back || devs[p.Front] || devs[p.Back] {
			return bad(fmt.Sprintf("port %d shares a netdev", p.Port), "give each port two of its own")
		}
		ports[p.Port], devs[p.Front], devs[p.Back] = true, true, true
	}
	return nil
}

// create loads, fills, pins and attaches; whatever it leaves in PinDir when it fails
// is the caller's to remove.
func create(c Config) (*NIC, error) {
	card, err := c.load()
	if err != nil {
		return nil, err
	}
	defer card.Close()
	if err := c.pin(card); err != nil {
		return nil, err
	}
	n, err := Open(c.PinDir)
	if err != nil {
		return nil, err
	}
	n.mem.Table.Limit = uint32(c.Entries)
	if err := errors.Join(n.SetFaults(c.Faults), c.attach(card)); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// load puts programs and maps into the kernel and tells them what the card has.
func (c *Config) load() (*xdp.CardObjects, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := xdp.LoadCard()
	if err != nil {
		return nil, err
	}
	top := uint32(0)
	for _, p := range c.Ports {
		top = max(top, uint32(p.Port))
	}
	for _, name := range []string{xdp.CardMapOut, xdp.CardMapDown, xdp.CardMapUp, xdp.CardMapStats} {
		spec.Maps[name].MaxEntries = top + 1
	}
	card := &xdp.CardObjects{}
	if err := spec.LoadAndAssign(card, nil); err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	if err := c.fill(card); err != nil {
		return nil, errors.Join(err, card.Close())
	}
	return card, nil
}

func (c *Config) pin(card *xdp.CardObjects) error {
	maps := cardMaps{card.Table, card.Slots, card.Stats, card.Barrier, card.About}
	return maps.each(func(name string, m **ebpf.Map) error { return (*m).Pin(filepath.Join(c.PinDir, name)) })
}

// fill tells the programs which netdevs the card has. Devmaps take an ifindex of the
// calling thread's namespace.
func (c *Config) fill(card *xdp.CardObjects) error {
	text, err := json.Marshal(about{c.Name, c.Ports})
	if err != nil {
		return err
	}
	if size := int(card.About.ValueSize()); len(text) > size {
		return fmt.Errorf("names of %d bytes, %d fit", len(text), size)
	}
	text = append(text, make([]byte, int(card.About.ValueSize())-len(text))...)
	if err := card.About.Put(uint32(0), text); err != nil {
		return err
	}
	egress := uint32(card.CardEgress.FD())
	for _, p := range c.Ports {
		front, err := net.InterfaceByName(p.Front)
		if err != nil {
			return fmt.Errorf("netdev %s: %w", p.Front, err)
		}
		back, err := net.InterfaceByName(p.Back)
		if err != nil {
			return fmt.Errorf("netdev %s: %w", p.Back, err)
		}
		for _, put := range []struct {
			m    *ebpf.Map
			to   int
			prog uint32
		}{{card.Out, front.Index, egress}, {card.Down, front.Index, 0}, {card.Up, back.Index, 0}} {
			if err := put.m.Put(uint32(p.Port), devmapValue{uint32(put.to), put.prog}); err != nil {
				return fmt.Errorf("port %d: %w", p.Port, err)
			}
		}
		for _, dev := range []*net.Interface{front, back} {
			if err := card.Ports.Put(uint32(dev.Index), xdp.CardNetdev{Port: uint16(p.Port)}); err != nil {
				return fmt.Errorf("port %d: %w", p.Port, err)
			}
		}
	}
	return nil
}

// devmapValue is struct bpf_devmap_val: where to, and the program each frame passes.
type devmapValue struct{ Ifindex, Program uint32 }

// attach puts the programs on the netdevs and pins the links. Backs come first: a
// front that already answers must find its way to the representor open.
func (c *Config) attach(card *xdp.CardObjects) error {
	on := func(dev, prefix string, prog *ebpf.Program) error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return fmt.Errorf("netdev %s: %w", dev, err)
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: i.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Errorf("netdev %s: attach: %w", dev, err)
		}
		return errors.Join(l.Pin(filepath.Join(c.PinDir, prefix+dev)), l.Close())
	}
	for _, p := range c.Ports {
		if err := on(p.Back, backPrefix, card.CardHost); err != nil {
			return err
		}
	}
	for _, p := range c.Ports {
		if err := on(p.Front, frontPrefix, card.CardPort); err != nil {
			return err
		}
	}
	return nil
}

const frontPrefix, backPrefix = "front-", "back-"

// Open returns a handle on the card that was created with this PinDir. The calling
// thread may be in any network namespace.
func Open(pinDir string) (*NIC, error) {
	n := &NIC{dir: pinDir}
	fail := func(err error) (*NIC, error) {
		return nil, errors.Join(&flow.Fault{Code: "E_SOFTNIC_OPEN", What: "card in " + pinDir, Why: err.Error(), Remedy: "create it first", Err: err}, n.Close())
	}
	var err error
	if n.lock, err = os.Open(pinDir); err != nil {
		return fail(err)
	}
	err = n.maps.each(func(name string, m **ebpf.Map) (err error) {
		*m, err = ebpf.LoadPinnedMap(filepath.Join(pinDir, name), nil)
		return err
	})
	if err != nil {
		return fail(err)
	}
	text, err := n.maps.About.LookupBytes(uint32(0))
	if err != nil {
		return fail(err)
	}
	if end := slices.Index(text, 0); end >= 0 {
		text = text[:end]
	}
	if err := json.Unmarshal(text, &n.about); err != nil {
		return fail(fmt.Errorf("its description: %w", err))
	}
	if n.mem, err = xdp.Map(n.maps.Table, n.maps.Slots); err != nil {
		return fail(err)
	}
	return n, nil
}

// Name returns the name the card was created with.
func (n *NIC) Name() string { return n.about.Name }

// Ports returns the ports the card was created with.
func (n *NIC) Ports() []Port { return slices.Clone(n.about.Ports) }

// Close lets go of the card, which lives on. The handle must not be used any more.
func (n *NIC) Close() error {
	var errs []error
	if n.mem != nil {
		errs = append(errs, n.mem.Unmap())
	}
	errs = append(errs, n.maps.each(func(_ string, m **ebpf.Map) error { return (*m).Close() }))
	for _, f := range []*os.File{n.lock, n.owner} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Claim makes this handle's process the one that decides what the card holds, until
// the handle is closed or the process ends. It is a *[flow.Fault] if another handle
// has claimed the card: two that want different tables would undo each other's work
// for ever, and each would answer packets by its own. Handles that only look need no
// claim, and Apply does not ask for one.
func (n *NIC) Claim() error {
	path := filepath.Join(n.dir, ownerName)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("claim card %s: %w", n.Name(), err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("claim card %s: %w", n.Name(), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return &flow.Fault{Code: "E_SOFTNIC_CLAIMED", What: "card " + n.Name(), Why: "another process decides what it holds: " + err.Error(),
			Remedy: "end that one, or give this one a card of its own", Err: err}
	}
	n.owner = f
	return nil
}

// ownerName is a directory among the pins, as a bpffs has no plain files; whoever
// claims the card locks it. The kernel drops the lock when its process dies.
const ownerName = "owner"

// Destroy takes the card off its netdevs, removes its pins and closes the handle.
// Other handles must be closed by then: what they see is a card nobody asks.
func (n *NIC) Destroy() error { return errors.Join(remove(n.dir), n.Close()) }

// remove detaches and unpins what is in a card's directory: the fronts first, so that
// frames end at their own netdev and not in a half dismantled card.
func remove(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortStableFunc(files, func(a, b fs.DirEntry) int { return -cmp.Compare(rank(a), rank(b)) })
	var errs []error
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if rank(f) > 0 {
			errs = append(errs, detach(path))
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// rank orders what is in a card's directory: fronts, backs, maps.
func rank(f fs.DirEntry) int {
	switch {
	case strings.HasPrefix(f.Name(), frontPrefix):
		return 2
	case strings.HasPrefix(f.Name(), backPrefix):
		return 1
	}
	return 0
}

// detach takes a program off its netdev and returns when it is off; to drop the last
// reference would do it some time later.
func detach(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}
