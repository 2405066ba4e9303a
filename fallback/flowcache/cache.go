package flowcache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink/nl"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/flow"
)

// Config says what cache to open.
type Config struct {
	// PinDir is a directory on a bpffs, which is made if it is missing. What is pinned
	// there answers for as long as nobody calls Destroy, whoever dies. Empty means that
	// the cache ends with its owner.
	PinDir string
	// Flows is how many flows fit, a power of two from 4 to MaxFlows; 0 means
	// DefaultFlows. A flow takes 128 bytes.
	Flows int
}

// What a cache may hold.
const (
	DefaultFlows = 1 << 15
	MaxFlows     = 1 << 18
	// MaxPort is the highest port number.
	MaxPort = 1023
	// MaxQueue is the highest number of a receive queue whose unknown frames go up.
	MaxQueue = xdp.Queues - 1
)

// Cache is the flow cache of one blade: one memory, and a program on each port. It may
// be used by several goroutines; one process at a time may have a pinned one open.
type Cache struct {
	dir   string
	lock  *os.File // on dir, which other processes see; nil without
	spec  *ebpf.CollectionSpec
	maps  xdp.CacheMaps
	pause [2]*ebpf.Map // put into the barrier in turns

	waiting sync.Mutex // one grace period at a time; guards turn
	turn    int

	mu       sync.Mutex // guards what follows and all writes to memory
	table    *table
	programs map[bool]*ebpf.Program // by whether several CPUs share a device
	ports    map[flow.Port]*port
	strays   map[int]link.Link         // of the owner before, by ifindex: taken over by Attach
	reach    [MaxPort + 1]bool         // ports that have a way out
	takes    [MaxPort + 1]atomic.Int32 // what Takes returns
	begun    bool                      // by Begin: what the owner before left is no more
	fresh    bool                      // nobody had pinned anything in dir before
	stats    Stats
	notices  *nl.NetlinkSocket // the kernel's of devices; nil without
	heard    chan struct{}     // closed when notices are heeded no more
	closings uint64            // ways closed because of them
}

// Stats is what a [Cache] was asked to hold, since it was opened.
type Stats struct {
	Identity  uint64 // of the memory that counts: what another one has counted is not in it
	Flows     int    // that are answered now
	Adopted   int    // that were, of the owner before, when the first epoch began
	Installed uint64 // verdicts put in
	Late      uint64 // verdicts of an epoch that was over
	Full      uint64 // verdicts for which there was no place
	Evicted   uint64 // … and which will find one when they come again
}

// version is that of the memory's layout: what another one made is not adopted.
const version = 4

// Digest tells tables apart: two that give any packet different verdicts, or count it for
// different rules, have different ones.
type Digest [32]byte

// Open makes a cache, or adopts that which is pinned in PinDir, whose verdicts and
// programs answer all the time. Unknown frames get what PortConfig.Fail says until the
// caller, who goes on with [Cache.Attach] for each port, comes to [Cache.Begin]. It takes
// about 0.1 s, most of it in the kernel's verifier.
func Open(c Config) (*Cache, error) {
	if c.Flows == 0 {
		c.Flows = DefaultFlows
	}
	k := &Cache{dir: c.PinDir, programs: map[bool]*ebpf.Program{}, ports: map[flow.Port]*port{}, strays: map[int]link.Link{}}
	if err := k.open(c); err != nil {
		return nil, errors.Join(&flow.Fault{Code: "E_FLOWCACHE", What: "open the flow cache", Why: err.Error(),
			Remedy: "run as root on a kernel of at least 5.9, with the pins (an agent's spec.cache.pins) on a bpffs (mount -t bpf bpf DIR) and no other agent running, or do without the cache", Err: err}, k.Close())
	}
	return k, nil
}

func (k *Cache) open(c Config) error {
	if c.Flows < ways || c.Flows > MaxFlows || bits.OnesCount(uint(c.Flows)) != 1 {
		return fmt.Errorf("%d flows: not a power of two from %d to %d", c.Flows, ways, MaxFlows)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return err
	}
	var err error
	if k.spec, err = xdp.LoadCache(); err != nil {
		return err
	}
	sets := c.Flows / ways
	k.spec.Maps[xdp.CacheMapSets].MaxEntries = uint32(sets)
	if k.dir != "" {
		if err := k.claim(); err != nil {
			return err
		}
	}
	adopted := k.dir != "" && k.load() == nil
	if !adopted {
		if err := k.create(); err != nil {
			return err
		}
	}
	mem, err := xdp.Map(k.maps.Control, k.maps.Sets, k.maps.Book, k.maps.Ports, k.maps.Devices)
	if err != nil {
		return err
	}
	k.table = &table{mem: mem}
	if !adopted {
		format(mem, sets)
	}
	for i := range k.pause {
		if k.pause[i], err = ebpf.NewMap(k.spec.Maps[xdp.CacheMapBarrier].InnerMap); err != nil {
			return err
		}
	}
	if err := k.grace(); err != nil { // for those who saw what the owner before took out
		return err
	}
	k.table = newTable(mem)
	k.table.hush()
	if k.dir == "" {
		return nil
	}
	if err := k.findStrays(); err != nil || adopted {
		return err
	}
	k.fresh = len(k.strays) == 0
	return k.pin()
}

// format makes new memory a cache without flows.
func format(m *xdp.Memory, sets int) {
	var seed [8 * flow.Words]byte
	rand.Read(seed[:])
	for i := range m.State.Mix {
		m.State.Mix[i] = binary.NativeEndian.Uint64(seed[8*i:]) | 1
	}
	m.State.Last = uint64(sets - 1)
	rand.Read(seed[:8])
	m.State.Identity = binary.NativeEndian.Uint64(seed[:])
	m.State.Epoch, m.State.Version = 1, version
}

// program returns the program for a device, loaded once.
func (k *Cache) program(shared bool) (*ebpf.Program, error) {
	if p := k.programs[shared]; p != nil {
		return p, nil
	}
	replace := map[string]*ebpf.Map{}
	k.eachMap(func(name string, m **ebpf.Map) error { replace[name] = *m; return nil })
	spec := k.spec.Copy()
	delete(spec.Programs, xdp.CacheProgCacheKey)
	set := func(name string, on bool) error {
		v := uint8(0)
		if on {
			v = 1
		}
		return spec.Variables[name].Set(v)
	}
	if err := errors.Join(set(xdp.CacheVarShared, shared), set(xdp.CacheVarWeak, runtime.GOARCH != "amd64")); err != nil {
		return nil, err
	}
	var o struct {
		Program *ebpf.Program `ebpf:"cache_port"`
	}
	if err := spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return nil, fmt.Errorf("load the program: %w", err)
	}
	k.programs[shared] = o.Program
	return o.Program, nil
}

// Prepare returns the epoch of a table, for [Cache.Begin] and [Cache.Install]: the one
// that is, if it began with the same table, maybe under the owner before; else the next,
// in which verdicts depend on no bits of a key but those of view. Nothing changes yet.
func (k *Cache) Prepare(view flow.Key, table Digest) (epoch uint64, err error) {
	k.mu.Lock()
	settled := k.table.settled == k.table.epoch()
	k.mu.Unlock()
	if !settled { // a Settle has failed
		if err := k.Settle(); err != nil {
			return 0, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table.prepare(&view, table), nil
}

// Begin makes an epoch that was just prepared the current one. If it is the next, all that
// was installed is void. From now on unknown frames go up. With the first epoch, ports
// that the owner before had and this one has not attached are let go of.
//
// When it returns, packets may still be on their way that came before: see
// [Cache.Settle].
func (k *Cache) Begin(epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.table.begin(epoch)
	if k.begun {
		return
	}
	k.begun, k.stats.Adopted = true, k.table.flows()
	for _, ifindex := range slices.Collect(maps.Keys(k.strays)) {
		k.letGo(ifindex)
	}
	for n := flow.Port(1); n <= MaxPort; n++ {
		if !k.reach[n] && k.ports[n] == nil {
			k.retire(n)
		}
	}
}

// Settle returns when no packet is answered by what was installed before the last
// epoch began, after one RCU grace period: 8 to 30 ms.
func (k *Cache) Settle() error {
	k.mu.Lock()
	epoch, resting := k.table.epoch(), slices.Collect(maps.Keys(k.table.resting))
	k.mu.Unlock()
	if err := k.grace(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.table.settled = max(k.table.settled, epoch)
	k.table.rested(resting)
	return nil
}

// Tidy frees the places of evicted flows, if there are any, for which it waits like
// Settle. To be called often.
func (k *Cache) Tidy() error {
	k.mu.Lock()
	nothing := len(k.table.resting) == 0
	k.mu.Unlock()
	if nothing {
		return nil
	}
	return k.Settle()
}

// grace waits for an RCU grace period: an update of a map of maps from user space returns
// after one (maybe_wait_bpf_programs in the kernel's bpf/syscall.c).
func (k *Cache) grace() error {
	k.waiting.Lock()
	defer k.waiting.Unlock()
	k.turn ^= 1
	if err := k.maps.Barrier.Put(uint32(0), k.pause[k.turn]); err != nil {
		return fmt.Errorf("flow cache: wait for packets under way: %w", err)
	}
	return nil
}

// Flow is what becomes of the frames with one key, as far as an epoch's view sees it.
type Flow struct {
	Key     *flow.Key // one that flow.Parse made of a frame that came in by the key's port
	Verdict Verdict
	Rule    flow.RuleID // they count for it
}

// Install puts flows in, and returns how many of them are in afterwards. It puts in none if
// the epoch is over, and none that has no way out of its verdict's port, or no place, which
// may be otherwise the next time. Cost: 60 to 90 ns a flow if there are many, 300 if there
// is one; no system call.
func (k *Cache) Install(epoch uint64, flows []Flow) (in int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	became := func(o outcome) {
		switch o {
		case installed:
			k.stats.Installed++
			in++
		case known:
			in++
		case late:
			k.stats.Late++
		case full:
			k.stats.Full++
		case evicting:
			k.stats.Evicted++
		}
	}
	for len(flows) > 0 { // pieces of those that have a way
		n := 0
		for n < len(flows) && n < together && k.leads(flows[n].Verdict) {
			n++
		}
		k.table.install(epoch, flows[:n], became)
		flows = flows[n:]
		if len(flows) > 0 && !k.leads(flows[0].Verdict) {
			flows = flows[1:]
		}
	}
	return in
}

// leads reports whether what a verdict says can be done.
func (k *Cache) leads(v Verdict) bool {
	return v.Op != Forward || v.Port <= MaxPort && k.reach[v.Port]
}

// Counters returns what the cache has answered, by rule. Counts never decrease; those of
// a pinned cache outlive its owners, but for what was forgotten ([Cache.Forget]). Cost: 1 to
// 2 ms for a cache of the default size.
func (k *Cache) Counters() map[flow.RuleID]flow.Counter {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table.counters()
}

// Forget frees what counts for rules that are in no table any more, as has says of the table
// of the current epoch, if more than half of the room for rules is in use. kept is what the
// caller has kept, where it outlives this process, of what Counters said: a rule that has
// counted anything else stays. For this process Counters goes on with what is forgotten; for
// the next owner such a rule begins at 0, if it ever counts again. Cost: nearly none, or 3 ms.
func (k *Cache) Forget(kept map[flow.RuleID]flow.Counter, has func(flow.RuleID) bool) (forgotten []flow.RuleID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table.forget(kept, has)
}

// Stats returns how the cache is filled.
func (k *Cache) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.stats
	s.Identity, s.Flows = k.table.mem.State.Identity, k.table.flows()
	return s
}

// Sockets returns the map that unknown frames are redirected to: an AF_XDP socket for each
// receive queue of a port belongs there, at its [Place].
func (k *Cache) Sockets() *ebpf.Map { return k.maps.Sockets }

// Place is where the socket of a port's queue belongs in [Cache.Sockets]. Queues go up to
// MaxQueue.
func Place(n flow.Port, queue int) uint32 { return uint32(n)*xdp.Queues + uint32(queue) }

// Close lets go of the cache. If it is pinned it lives on and answers what it knows;
// otherwise, and if it never came to [Cache.Begin] and found nothing, its programs are taken
// off. No other method may be running.
func (k *Cache) Close() error {
	if k.fresh && !k.begun {
		return k.Destroy()
	}
	errs := []error{k.hush()}
	for n, p := range k.ports {
		if k.dir == "" {
			errs = append(errs, p.link.Detach())
		}
		errs = append(errs, p.link.Close())
		delete(k.ports, n)
	}
	for _, l := range k.strays {
		errs = append(errs, l.Close())
	}
	k.strays = nil
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	k.programs = nil
	if k.table != nil {
		errs = append(errs, k.table.mem.Unmap())
	}
	errs = append(errs, k.closeMaps(), k.pause[0].Close(), k.pause[1].Close())
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
		k.lock = nil
	}
	return errors.Join(errs...)
}

// Destroy takes the cache off its ports, removes its pins and closes it.
func (k *Cache) Destroy() error {
	k.fresh = false
	var errs []error
	for _, n := range slices.Collect(maps.Keys(k.ports)) {
		errs = append(errs, k.Detach(n))
	}
	for _, ifindex := range slices.Collect(maps.Keys(k.strays)) {
		errs = append(errs, k.letGo(ifindex))
	}
	if k.dir != "" {
		errs = append(errs, k.eachMap(func(name string, _ **ebpf.Map) error { return absent(os.Remove(filepath.Join(k.dir, name))) }), absent(os.Remove(k.dir)))
	}
	return errors.Join(append(errs, k.Close())...)
}
