package peers

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// Ways to tell the kernel what to do with a flow.
const (
	cacheInstall = "bladeflow-cache-install"
	mapUpdate    = "map-update"
)

// installs is what it takes to tell the kernel of one flow: CPU ns, one number for each
// repetition.
type installs struct{ cache, update []float64 }

// rounds is how often all flows are installed for one number.
const rounds = 8

// batchSize is how many flows at most a worker of the datapath makes known at once.
const batchSize = 64

// install measures how long a verdict takes into the flow cache, and one of the same key
// into a map of the kernel, as one would do without. All flows are new each time.
func (b *bench) install() (err error) {
	s, err := newStand(b.traffic.flows, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	cache, err := s.newCache()
	if err != nil {
		return err
	}
	keys := make([]flow.Key, len(b.traffic.flows))
	for i, f := range b.traffic.flows {
		if keys[i], err = flow.Parse(f.frame(), insidePort); err != nil {
			return err
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var spent [2]time.Duration
	for range rounds {
		for way, fill := range []func() (time.Duration, error){
			func() (time.Duration, error) { return fillCache(cache, keys) },
			func() (time.Duration, error) { return fillMap(keys) },
		} {
			d, err := fill()
			if err != nil {
				return err
			}
			spent[way] += d
		}
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(rounds*len(keys)) }
	b.installed.cache = append(b.installed.cache, each(spent[0]))
	b.installed.update = append(b.installed.update, each(spent[1]))
	return nil
}

func fillCache(cache *flowcache.Cache, keys []flow.Key) (time.Duration, error) {
	var all flow.Key
	for i := range all {
		all[i] = ^uint64(0)
	}
	epoch, err := cache.Prepare(all, flowcache.Digest{})
	if err != nil {
		return 0, err
	}
	cache.Begin(epoch)
	if err := cache.Settle(); err != nil { // nearly all verdicts come when a table has been there for some time
		return 0, err
	}
	flows := make([]flowcache.Flow, len(keys))
	for i := range keys {
		flows[i] = flowcache.Flow{Key: &keys[i], Verdict: flowcache.Verdict{Op: flowcache.Forward, Port: outsidePort}, Rule: 1}
	}
	before, err := threadTime()
	if err != nil {
		return 0, err
	}
	in := 0
	for batch := range slices.Chunk(flows, batchSize) { // as the datapath does
		in += cache.Install(epoch, batch)
	}
	after, err := threadTime()
	if err != nil {
		return 0, err
	}
	if in < len(keys)*9/10 { // four flows fit in one set, and some have more
		return 0, fmt.Errorf("%d of %d flows found no place in the cache", len(keys)-in, len(keys))
	}
	return after - before, nil
}

func fillMap(keys []flow.Key) (time.Duration, error) {
	into, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 8 * flow.Words, ValueSize: 16, MaxEntries: flowcache.DefaultFlows})
	if err != nil {
		return 0, fmt.Errorf("make a map: %w", err)
	}
	defer into.Close()
	before, err := threadTime()
	if err != nil {
		return 0, err
	}
	value := [2]uint64{1, 2}
	for i := range keys {
		if err := into.Put(&keys[i], &value); err != nil {
			return 0, fmt.Errorf("put a flow into a map: %w", err)
		}
	}
	after, err := threadTime()
	return after - before, err
}
