package agent

import (
	"fmt"
	"maps"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// cached turns what the flow cache counts, which goes on without the agent if the cache
// is pinned and begins again with another cache, into counters that never decrease.
//
// Invariant: a total is the sum of what was seen of every cache, each packet once. live is
// the last reading of the cache called identity; both go into the file with the totals, so
// that who comes next adds what was counted while nobody looked. What a cache has forgotten
// it goes on saying to this process, and not to the next one, so it is not in the file's live.
type cached struct {
	identity uint64 // 0 before the first cache
	live     map[flow.RuleID]flow.Counter
	gone     map[flow.RuleID]flow.Counter // of live: what the cache forgets with this process
	unlucky  map[string]uint64            // frames that the cache did not answer, by port and why, of identity

	rules    map[flow.RuleID]flow.Counter // packets that the cache answered
	verdicts map[string]uint64            // the same, by what became of them
	lost     map[string]uint64

	words map[flow.RuleID]string // what rules did when they counted last
}

func newCached() cached {
	return cached{live: map[flow.RuleID]flow.Counter{}, gone: map[flow.RuleID]flow.Counter{}, unlucky: map[string]uint64{}, rules: map[flow.RuleID]flow.Counter{}, words: map[flow.RuleID]string{},
		verdicts: map[string]uint64{"drop": 0, "normal": 0, "output": 0, "pass": 0, "rule gone": 0},
		lost:     map[string]uint64{"no agent listened": 0, "too many new flows": 0, "no way out of the cache": 0}}
}

// read books what a cache has counted by now, for rules of t or of tables before. A cache
// that is not there has counted nothing.
func (c *cached) read(rules map[flow.RuleID]flow.Counter, s *fallback.CacheStats, t *flow.Table) {
	if s == nil {
		return
	}
	if s.Identity != c.identity {
		c.identity = s.Identity
		clear(c.live)
		clear(c.gone)
		clear(c.unlucky)
	}
	maps.DeleteFunc(c.live, func(id flow.RuleID, _ flow.Counter) bool { _, there := rules[id]; return !there })
	for id, n := range rules {
		last := c.live[id]
		if n == last {
			continue
		}
		if n.Packets < last.Packets { // forgotten, and begun again, after the file that last is of
			last = flow.Counter{}
		}
		more := flow.Counter{Packets: n.Packets - last.Packets, Bytes: n.Bytes - last.Bytes}
		c.rules[id] = plus(c.rules[id], more)
		c.verdicts[c.word(id, t)] += more.Packets
		c.live[id] = n
	}
	for port, p := range s.Ports { // one that is away now and then keeps what it counted
		for why, n := range map[string]uint64{"no agent listened": p.Unheard, "too many new flows": p.Limited, "no way out of the cache": p.Unsent} {
			key := fmt.Sprintf("%d: %s", port, why)
			c.lost[why] += n - min(n, c.unlucky[key])
			c.unlucky[key] = n
		}
	}
}

// forget notes that a cache has forgotten rules as they were read last.
func (c *cached) forget(rules []flow.RuleID) {
	for _, id := range rules {
		if n := c.live[id]; n.Packets > 0 {
			c.gone[id] = n
		}
	}
}

// word returns what a rule does with its packets, or did when there was such a rule.
func (c *cached) word(id flow.RuleID, t *flow.Table) string {
	if t != nil {
		if i, ok := t.Index(id); ok {
			c.words[id] = t.Rule(i).Actions.Terminal().Op.String()
		}
	}
	if w, known := c.words[id]; known {
		return w
	}
	return "rule gone"
}

// cameToCache is how many frames a cache kept from Go.
func cameToCache(rules map[flow.RuleID]flow.Counter, s *fallback.CacheStats) (n uint64) {
	if s == nil {
		return 0
	}
	for _, c := range rules {
		n += c.Packets
	}
	for _, p := range s.Ports {
		n += p.Unheard + p.Limited
	}
	return n
}

// keptCached is a [cached] in the file.
type keptCached struct {
	Identity uint64            `json:"identity"`
	Live     counters          `json:"live"`
	Unlucky  map[string]uint64 `json:"unlucky"`
	Rules    counters          `json:"rules"`
	Verdicts map[string]uint64 `json:"verdicts"`
	Lost     map[string]uint64 `json:"lost"`
}

func (c *cached) kept() keptCached {
	live := maps.Clone(c.live)
	for id, n := range c.gone {
		live[id] = flow.Counter{Packets: live[id].Packets - n.Packets, Bytes: live[id].Bytes - n.Bytes}
	}
	return keptCached{c.identity, keptMap(live), c.unlucky, keptMap(c.rules), c.verdicts, c.lost}
}

// cached returns what the file has.
func (k *keptCached) cached() (cached, error) {
	c := newCached()
	c.identity = k.Identity
	if err := k.Live.read(func(id uint64, n flow.Counter) { c.live[flow.RuleID(id)] = n }); err != nil {
		return c, err
	}
	err := k.Rules.read(func(id uint64, n flow.Counter) { c.rules[flow.RuleID(id)] = n })
	maps.Copy(c.unlucky, k.Unlucky)
	maps.Copy(c.verdicts, k.Verdicts)
	maps.Copy(c.lost, k.Lost)
	return c, err
}
