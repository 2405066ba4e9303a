package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// tally counts mutants and what the methods said of them.
type tally struct {
	Mutants      int            `json:"mutants"`
	Sound        int            `json:"sound"`
	Different    int            `json:"other_emissions"`
	Misbooked    int            `json:"only_misbooked"`
	Methods      map[string]int `json:"compared_with"`
	Disagreement int            `json:"disagreements"`
	Ways         map[string]int `json:"mutations"`
}

func newTally() *tally { return &tally{Methods: map[string]int{}, Ways: map[string]int{}} }

func (c *tally) sum(o *tally) {
	c.Mutants, c.Disagreement = c.Mutants+o.Mutants, c.Disagreement+o.Disagreement
	c.Sound, c.Different, c.Misbooked = c.Sound+o.Sound, c.Different+o.Different, c.Misbooked+o.Misbooked
	for m, n := range o.Methods {
		c.Methods[m] += n
	}
	for w, n := range o.Ways {
		c.Ways[w] += n
	}
}

// judge compares what Check says of a device with what another exact method says.
// It returns what is wrong with that, or nil.
func (c *tally) judge(x *trial, err error, method string, different, misbooked bool) error {
	c.Methods[method]++
	var bad *Mismatch
	switch {
	case err == nil && (different || misbooked):
		return fmt.Errorf("%s found a fault that the checker did not", method)
	case err == nil:
		return nil
	case !errors.As(err, &bad):
		return fmt.Errorf("not a mismatch: %w", err)
	case !different && !misbooked:
		return fmt.Errorf("%s found nothing wrong: %w", method, err)
	case different && !bad.Differs():
		return fmt.Errorf("%s knows of a packet on which the emissions differ: %w", method, err)
	}
	return x.confirm(bad)
}

// count notes a mutant and whether it is right.
func (c *tally) count(how []string, err error) {
	c.Mutants++
	var bad *Mismatch
	switch errors.As(err, &bad); {
	case bad == nil:
		c.Sound++
	case bad.Differs():
		c.Different++
	default:
		c.Misbooked++
	}
	for _, h := range how {
		c.Ways[h]++
	}
}

// TestMutants breaks tables of hardware in random ways, and asks Check and the other
// exact methods about each: trying every packet and co-refinement on universes, and
// co-refinement and decision diagrams on sets of realistic rules. The methods share
// no code with it or each other. `make long-mutants` has a million mutants.
func TestMutants(t *testing.T) {
	seed, began := flowtest.Seed(t), time.Now()
	short := 20_000
	if testing.Short() {
		short = 2000
	}
	most := flowtest.Count(t, "BLADEFLOW_MUTANTS", short)
	workers := runtime.GOMAXPROCS(0)
	tallies, errs := make([]*tally, workers), make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			tallies[w] = newTally()
			errs[w] = tallies[w].rounds(seed, w, workers, most/workers+1)
		})
	}
	wg.Wait()
	c := newTally()
	for _, o := range tallies {
		c.sum(o)
	}
	t.Logf("%+v", *c)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if c.Methods["diagrams"] == 0 || c.Different == 0 || c.Misbooked == 0 {
		t.Error("some method or fault is missing")
	}
	if most > short {
		flowtest.Record(t, "mutants", seed, began, c)
	}
}

// rounds judges every step-th round's mutants from the first on, until there are enough.
func (c *tally) rounds(seed uint64, first, step, enough int) error {
	all := universes()
	sizes := []int{12, 30, 12, 60, 12, 30, 100, 12, 300} // rules of a batch
	for n := first; c.Mutants < enough; n += step {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		var err error
		if batch := n / 4000; n%4000 < step {
			f, rules := flowtest.Family(batch%4), sizes[batch%len(sizes)]
			if rules == 300 && (f == flowtest.ACL || f == flowtest.Segment) {
				rules = 1000 // of the others, diagrams grow too large
			}
			err = c.batch(rng, f, rules)
		} else {
			err = c.small(rng, all[n/step%len(all)])
		}
		if err != nil {
			c.Disagreement++
			return fmt.Errorf("round %d: %w", n, err)
		}
	}
	return nil
}

// small judges one mutant in a universe.
func (c *tally) small(rng *rand.Rand, u *universe) error {
	x := u.random(rng)
	var how []string
	for range 1 + rng.IntN(2) {
		how = append(how, x.mutate(rng))
	}
	err := Check(x.table, x.entries, x.model)
	different, misbooked := x.verdict()
	if why := c.judge(x, err, "every packet", different > 0, misbooked > 0); why != nil {
		return fmt.Errorf("universe %s, %v: %w", u.name, how, why)
	}
	if u.name == "prefixes" { // no masks of ports, nor actions that look at the packet
		different, misbooked := x.plain()
		if why := c.judge(x, err, "co-refinement", different > 0, misbooked > 0); why != nil {
			return fmt.Errorf("universe %s, %v: %w", u.name, how, why)
		}
	}
	c.count(how, err)
	return nil
}

// plain is refined for a trial in a universe where actions do the same to all packets:
// those that do the same are written the same. Without an order all are of one priority.
func (t *trial) plain() (different, misbooked int) {
	alike := func(a flow.Actions) flow.Actions {
		of := t.u.effect[t.u.actionIndex(a)]
		return t.u.actions[slices.IndexFunc(t.u.effect, func(e []int) bool { return slices.Equal(e, of) })]
	}
	spec := flow.TableSpec{Switch: t.u.sw, Default: alike(t.table.Default())}
	for i := range t.table.Len() {
		r := *t.table.Rule(i)
		r.Actions = alike(r.Actions)
		spec.Rules = append(spec.Rules, r)
	}
	entries := slices.Clone(t.entries)
	for i := range entries {
		if e := &entries[i]; !e.Punt() {
			e.Actions = alike(e.Actions)
		}
		if t.model.Order != device.Honoured {
			entries[i].Priority = 0
		}
	}
	return refined(must(flow.NewTable(spec)), entries, t.model)
}

// batch judges mutants of one device on a set of realistic rules.
func (c *tally) batch(rng *rand.Rand, f flowtest.Family, n int) error {
	rules := flowtest.Generate(f, n, rng.Uint64())
	for i := range rules {
		rules[i].Actions = flow.Actions{output(flow.Port(1 + i%4))}
	}
	table := must(flow.NewTable(flow.TableSpec{Rules: rules}))
	base := append(guarded(table, n/2), wholeTable(table)[:n/4]...)
	base = append(base, narrowed(table, n/2)...)
	for n, p := range pieces(table, n/4) {
		p.Priority = uint64(1000 + n%3)
		base = append(base, p)
	}
	d := newDiagrams(table)
	mutants, large := 40, n >= 300
	if large { // too many for co-refinement
		mutants = 4
	}
	for range mutants {
		rng.Shuffle(len(base), func(i, j int) { base[i], base[j] = base[j], base[i] })
		entries := slices.Clone(base[:1+rng.IntN(len(base))])
		for i := range entries {
			entries[i].ID = flow.EntryID(i + 1)
		}
		x := &trial{table: table, entries: entries, model: plainDevice}
		if x.entries = sound(entries, table); len(x.entries) == 0 {
			continue
		}
		var how []string
		for n := 1 + rng.IntN(2); n > 0 && len(x.entries) > 0; n-- {
			var way string
			way, x.entries = vary(rng, table, x.entries)
			how = append(how, way)
		}
		for i := range x.entries {
			x.entries[i].ID = flow.EntryID(i + 1)
		}
		err := Check(table, x.entries, x.model)
		if !large {
			different, misbooked := refined(table, x.entries, x.model)
			if why := c.judge(x, err, "co-refinement", different > 0, misbooked > 0); why != nil {
				return fmt.Errorf("%v, %d rules, %v: %w", f, n, how, why)
			}
		}
		diff, booked := d.verdict(x.entries, x.model)
		if why := c.judge(x, err, "diagrams", diff, booked); why != nil {
			return fmt.Errorf("%v, %d rules, %v: %w", f, n, how, why)
		}
		c.count(how, err)
	}
	return nil
}
