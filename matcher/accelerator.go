package matcher

import (
	"github.com/bladeflow/bladeflow/flow"
)

// Which accelerator a table gets.
//
// Accelerators look up what they have made of a table before, and are never changed:
// after an update they are wrong and made anew, see tend.go. There are three forms. All
// first find the classes of a key (classes.go), and differ in what they do with them.
//
//	form      rules     ns a key
//	finals    1,023     3.4
//	vectors   1,023     4.8 to 5.5
//	blocks    16,384    5, 2.5 for each block tried, 5 for a second-level cache of memory
//	engine    any       8 to 19 at 1,000, 10 to 37 at 10,000
//
// Prices are of a Sapphire Rapids class processor in the lane avx512; in avx2 all but
// the engine's are 1.4 times as high, and that is 1.2 times.
//
// Up to 1,023 rules the first form that a table can have is faster than the engine for
// every table measured, as long as it is not much larger than the second-level cache: with
// 512 KiB (Zen 3, avx2) forms of 0.4 to 0.9 MiB took 0.38 to 0.98 of the engine's time, one of
// 1.04 MiB as much, one of 1.8 MiB 1.7 times that. Above, it depends:
// of published sets of 10,000 rules blocks are twice as fast, of generated ones whose
// buckets are short they are slower. So the price of blocks is compared with the
// engine's, which is counted on likely keys as it is for the engine itself (cost.go),
// once before they are made and once when their size is known. On the sets measured with
// 2 MiB of cache both prices were within a quarter of the truth. With 512 KiB what blocks take to
// what the engine takes was 0.5 to 1.7 times the ratio of the prices, and in eight of nine sets it was
// below 1 iff that of the prices was; in acl1 of 10,000 it was 0.8 to 1.2, from run to run.
const (
	maxSmallBytes = 1300 << 10
	smallCaches   = 2 // as many second-level caches a small table may fill
	maxBlockBytes = 4500 << 10

	blockBasePrice  = 5.0
	blockTryPrice   = 2.5
	blockCachePrice = 5.0
)

// accelerator answers keys of a table that it was made of, in its own way. It never
// changes.
type accelerator interface {
	// lookup answers at most kernel.Lanes keys.
	lookup(keys []flow.Key, answers []int32)
	// bytes returns the memory it holds.
	bytes() int
}

// newAccelerator returns an accelerator for t on a lane, with a second-level cache of so many
// bytes, or nil if none is expected to be faster than the engine. Cost: 1 to 2 ms for 1,000
// rules, 25 to 60 for 10,000.
func newAccelerator(t *flow.Table, lane Lane, cache int) accelerator {
	n := t.Len()
	if !hasVectors(lane) || n == 0 || n > maxBlockRules {
		return nil
	}
	if n > maxVectorRules {
		if b := fastBlocks(t, lane, cache); b != nil {
			return b
		}
		return nil
	}
	c := classifySmall(t)
	if c == nil {
		return nil
	}
	most := min(maxSmallBytes, smallCaches*cache)
	if f := asFinals(c, n, lane); f != nil && f.bytes() <= most {
		return f
	}
	if v := asVectors(c, lane); v.bytes() <= most {
		return v
	}
	return nil
}

// fastBlocks returns t in blocks, or nil if that is not expected to be faster than the
// engine.
func fastBlocks(t *flow.Table, lane Lane, cache int) *blockwise {
	engine := newEngineWith(usualLimit, t, lane).price(likelyKeys(t, pricedKeys))
	a, tried := chooseBlocks(t)
	if blocksPrice(tried, 0, cache) >= engine {
		return nil
	}
	b := newBlocks(t, a, lane)
	if b == nil || b.bytes() > maxBlockBytes || blocksPrice(tried, b.bytes(), cache) >= engine {
		return nil
	}
	return b
}

// blocksPrice returns what a key costs in blocks of so many bytes if that many are tried for
// it, with a second-level cache of so many bytes.
func blocksPrice(tried float64, bytes, cache int) float64 {
	return blockBasePrice + blockTryPrice*tried + blockCachePrice*float64(bytes)/float64(cache)
}
