package matcher

// What readers see while rules come and go.

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestConcurrentUpdates has readers look up while rules come and go. Every answer must
// be the winner in one of the versions that were there during its batch.
func TestConcurrentUpdates(t *testing.T) {
	seed := flowtest.Seed(t)
	batches, most := int64(1000), 200_000 // of each reader, and updates
	if testing.Short() {
		batches, most = 100, 20_000
	}
	for _, l := range Lanes() {
		if l == Definition {
			continue
		}
		t.Run(l.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, uint64(l)))
			pool := rulesOf(flowtest.NewTable(withTies(rng, flowtest.Generate(flowtest.FW, 400, rng.Uint64())), nil))
			m := newModel(rng, pool, 200)
			c := Compile(m.table(), WithLane(l))
			history := make([]spells, len(pool))
			for _, r := range m.there {
				history[r].add(0)
			}
			var begun, ended atomic.Int64 // updates
			var least [3]atomic.Int64     // batches
			var disturbed atomic.Int64
			var stop atomic.Bool
			var wg sync.WaitGroup
			for reader := range least {
				wg.Go(func() {
					keys := flowtest.Trace(pool, flowtest.Traffic{Packets: 64 << reader, Mix: 0.2})
					matching := make([][]int, len(keys)) // rules of the pool, best first
					for k := range keys {
						for i := range pool {
							if pool[i].Match.Matches(&keys[k]) {
								matching[k] = append(matching[k], i)
							}
						}
					}
					b := Batch{Keys: keys, Rules: make([]int32, len(keys))}
					for !stop.Load() {
						from := ended.Load()
						c.Lookup(&b)
						to := begun.Load()
						if to > from {
							disturbed.Add(1)
						}
						for k := range keys {
							winner := func(v int64) flow.RuleID {
								for _, i := range matching[k] {
									if history[i].there(v) {
										return pool[i].ID
									}
								}
								return flow.DefaultRule
							}
							v := from
							for v <= to && winner(v) != b.Rule(k).ID {
								v++
							}
							if v > to {
								t.Errorf("rule %d for key %x is not the winner after %d to %d updates", b.Rule(k).ID, keys[k], from, to)
								stop.Store(true)
							}
						}
						least[reader].Add(1)
					}
				})
			}
			enough := func() bool {
				return least[0].Load() >= batches && least[1].Load() >= batches && least[2].Load() >= batches
			}
			updates := 0
			for u := int64(1); !stop.Load() && !enough() && updates < most; u++ {
				gone := len(m.there) > 0 && (len(m.away) == 0 || rng.IntN(2) == 0)
				from, to := &m.away, &m.there
				if gone {
					from, to = to, from
				}
				r := swap(rng, from, to)
				history[r].add(u)
				begun.Store(u)
				var err error
				if gone {
					err = c.Delete(pool[r].ID)
				} else {
					err = c.Insert(pool[r])
				}
				if err != nil {
					t.Error(err)
					break
				}
				ended.Store(u)
				updates++
				if u%64 == 0 {
					runtime.Gosched()
				}
			}
			stop.Store(true)
			wg.Wait()
			t.Logf("%d updates, %d batches, %d of them during updates", updates, least[0].Load()+least[1].Load()+least[2].Load(), disturbed.Load())
			settle(t, c)
			agree(t, m.table(), flowtest.Trace(pool, flowtest.Traffic{Packets: 500}), c)
			checkEngine(t, c)
		})
	}
}

// spells is when a rule came and went: there from an even element up to the next.
type spells struct {
	mu sync.Mutex
	at []int64
}

func (s *spells) add(u int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, u)
}

// there reports whether the rule was there in version v, after v updates.
func (s *spells) there(v int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, found := slices.BinarySearch(s.at, v)
	if found {
		n++
	}
	return n%2 == 1
}

// A stride comes down at once to half of what is between two steps, never below what
// makes keys dear, and goes up step by step to all that a kernel takes.
func TestStride(t *testing.T) {
	for _, c := range []struct {
		stride, tried int
		steps         uint64
		want          int
	}{
		{256, 256, 0, 256}, {256, 384, 2, 96}, {256, 512, 1 << 40, 32}, {96, 256, 0, 121}, {96, 256, 1, 121}, {96, 256, 2, 64}, {1, 1, 1, 2},
	} {
		if got := nextStride(c.stride, c.tried, c.steps); got != c.want {
			t.Errorf("%d keys at once, %d tried, %d steps: %d keys next, want %d", c.stride, c.tried, c.steps, got, c.want)
		}
	}
	stride, batches := 32, 0
	for ; stride < 256; batches++ {
		stride = nextStride(stride, 256, 0)
	}
	if batches < 5 || batches > 20 {
		t.Errorf("from 32 keys at once to 256 in %d batches", batches)
	}
}
