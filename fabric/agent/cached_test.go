package agent

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestCachedCounters reads a cache that counts, outlives its agents, forgets what they have
// kept, and is another one now and then, by agents that die with nothing but the file of
// their last reading: each packet is counted once.
func TestCachedCounters(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	tab := web(t, 1)
	cache := map[flow.RuleID]flow.Counter{}
	forgotten := map[flow.RuleID]flow.Counter{} // by the cache, which says it to this process all the same
	stats := &fallback.CacheStats{Ports: map[flow.Port]fallback.CachePort{}}
	stats.Identity = 1
	want := map[flow.RuleID]flow.Counter{}
	limited, past := uint64(0), uint64(0) // by this cache, and by those before
	c := newCached()
	var file []byte
	keep := func() {
		var err error
		if file, err = json.Marshal(c.kept()); err != nil {
			t.Fatal(err)
		}
	}
	read := func() {
		all := maps.Clone(forgotten)
		for id, n := range cache {
			all[id] = plus(all[id], n)
		}
		c.read(all, stats, tab)
	}
	another := func() { // agent, which knows what was kept
		var k keptCached
		var err error
		if err := json.Unmarshal(file, &k); err != nil {
			t.Fatal(err)
		}
		if c, err = k.cached(); err != nil {
			t.Fatal(err)
		}
		clear(forgotten)
	}
	for range 2000 {
		switch n := rng.IntN(22); {
		case n < 14:
			id := tab.Rule(rng.IntN(tab.Len())).ID
			cache[id] = plus(cache[id], flow.Counter{Packets: 1, Bytes: 60})
			want[id] = plus(want[id], flow.Counter{Packets: 1, Bytes: 60})
			limited++
			stats.Ports[1] = fallback.CachePort{PortStats: flowcache.PortStats{Limited: limited}}
		case n < 17:
			read()
			keep()
		case n < 19:
			if file != nil {
				another()
			}
		case n < 21:
			read()
			keep()
			var rules []flow.RuleID
			for id, n := range cache {
				if rng.IntN(2) == 0 {
					rules = append(rules, id)
					forgotten[id] = plus(forgotten[id], n)
					delete(cache, id)
				}
			}
			c.forget(rules)
			if rng.IntN(2) == 0 { // with the file from before
				another()
				read()
			}
			keep()
		default: // another cache, when all of this one was read
			read()
			keep()
			past += limited
			limited = 0
			clear(cache)
			clear(forgotten)
			stats.Ports[1] = fallback.CachePort{}
			stats.Identity++
		}
	}
	read()
	if !maps.Equal(c.rules, want) {
		t.Errorf("counted %v, want %v", c.rules, want)
	}
	sum := uint64(0)
	for _, n := range c.verdicts {
		sum += n
	}
	if all := past + limited; sum != all || c.lost["too many new flows"] != all || c.verdicts["rule gone"] != 0 {
		t.Errorf("of %d packets: %v, lost %v", all, c.verdicts, c.lost)
	}
	c.read(map[flow.RuleID]flow.Counter{99: {Packets: 1}}, stats, tab)
	if c.verdicts["rule gone"] != 1 {
		t.Errorf("a rule that no table has: %v", c.verdicts)
	}
}

// TestLostOnce reads a port that is away now and then: what it lost is counted once.
func TestLostOnce(t *testing.T) {
	stats := func(unheard ...uint64) *fallback.CacheStats {
		s := &fallback.CacheStats{Ports: map[flow.Port]fallback.CachePort{}}
		s.Identity = 1
		for i, n := range unheard {
			p := fallback.CachePort{}
			p.Unheard = n
			s.Ports[flow.Port(i+1)] = p
		}
		return s
	}
	c := newCached()
	for _, s := range []*fallback.CacheStats{stats(100, 50), stats(100), stats(100, 50), stats(100), stats(100, 50)} {
		c.read(nil, s, nil)
	}
	if n := c.lost["no agent listened"]; n != 150 {
		t.Errorf("150 frames were lost, %d are counted", n)
	}
}
