package matcher

import (
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Form is an accelerator of a table, whether or not it would be chosen.
type Form struct {
	Name   string
	Price  float64       // of a key, by the cost model; 0 where it does not ask
	Engine float64       // price of the engine
	Bytes  int           // memory
	Build  time.Duration // least CPU time of three
	Lookup func(keys []flow.Key, answers []int32)
}

// Forms returns every form that t can have on a lane, however large, and the name of the one
// that is chosen, if any. clock is the CPU time of the thread.
func Forms(t *flow.Table, lane Lane, clock func() time.Duration) (out []Form, chosen string) {
	add := func(name string, price, engine float64, build func() accelerator) {
		f := Form{Name: name, Price: price, Engine: engine}
		for range 3 {
			start := clock()
			a := build()
			took := clock() - start
			if a == nil {
				return
			}
			if f.Build == 0 || took < f.Build {
				f.Build = took
			}
			f.Bytes, f.Lookup = a.bytes(), a.lookup
		}
		if price > 0 {
			f.Price = blocksPrice(price, f.Bytes, secondLevelCache())
		}
		out = append(out, f)
	}
	engine := newEngineWith(usualLimit, t, lane).price(likelyKeys(t, pricedKeys))
	if t.Len() > maxVectorRules {
		_, tried := chooseBlocks(t)
		add("blocks", tried, engine, func() accelerator {
			a, _ := chooseBlocks(t)
			if b := newBlocks(t, a, lane); b != nil {
				return b
			}
			return nil
		})
	} else {
		add("finals", 0, engine, func() accelerator {
			if c := classifySmall(t); c != nil {
				if f := asFinals(c, t.Len(), lane); f != nil {
					return f
				}
			}
			return nil
		})
		add("vectors", 0, engine, func() accelerator {
			if c := classifySmall(t); c != nil {
				return asVectors(c, lane)
			}
			return nil
		})
	}
	switch newAccelerator(t, lane, secondLevelCache()).(type) {
	case *finals:
		chosen = "finals"
	case *vectors:
		chosen = "vectors"
	case *blockwise:
		chosen = "blocks"
	}
	return out, chosen
}
