package offload_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// TestPairs plans random rule sets for random devices, shipped ones, ones with less
// room, and ones that can do less, with random traffic and from a random past, and
// holds every plan to three things: the checker accepts it, the device admits and can
// hold all of it, in every dimension, and it has a reason and a remedy for every rule
// that is not in the device. BLADEFLOW_PAIRS is how many; then the figures are written
// to docs/results/pairs.json.
func TestPairs(t *testing.T) {
	const least = 10_000
	began, seed, pairs := time.Now(), flowtest.Seed(t), flowtest.Count(t, "BLADEFLOW_PAIRS", least)
	if testing.Short() {
		pairs = 2000
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	var models []device.Model
	for _, name := range device.List() {
		m, err := device.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		models = append(models, m)
	}
	us := flowtest.Universes()
	perModel := map[string]int{}
	codes := map[string]int{}
	entries, guards, pieces, whole, full := 0, 0, 0, 0, 0
	for n := range pairs {
		u := us[rng.IntN(len(us))]
		m := models[n%len(models)]
		perModel[m.Name]++
		switch rng.IntN(3) {
		case 0:
			m = poorer(rng, m)
		case 1:
			m.Entries = 1 + rng.IntN(16)
		}
		if rng.IntN(2) == 0 {
			m.MissFalls = true // as if it had representors: its masks and needs are worth trying
		}
		table := edited(rng, u, u.Table(rng, rng.IntN(16)), 4)
		old, installed := table, []flow.Entry(nil)
		if rng.IntN(3) == 0 {
			old = table
			p := plan(old, old, nil, m, randomTraffic(rng, u, old))
			installed = spoiled(rng, u, p.Entries)
			table = nextTable(rng, u, table)
		}
		p := plan(old, table, installed, m, randomTraffic(rng, u, table))
		if err := verify.Check(table, p.Entries, m); err != nil {
			t.Fatalf("pair %d, %s: %v\n%s", n, m.Name, err, p.String())
		}
		if err := held(&p, &m); err != nil {
			t.Fatalf("pair %d, %s: %v\n%s", n, m.Name, err, p.String())
		}
		if len(p.Placements) != table.Len()+1 {
			t.Fatalf("pair %d: %d placements", n, len(p.Placements))
		}
		for i := range p.Placements {
			pl := &p.Placements[i]
			if pl.Rule != table.Rule(i).ID || !pl.Whole() && (pl.Reason == "" || pl.Fix == "") || pl.Whole() && len(pl.Entries) == 0 {
				t.Fatalf("pair %d, %s: %+v", n, m.Name, pl)
			}
			codes[pl.Code]++
			if pl.Whole() {
				whole++
			}
		}
		entries, guards, pieces = entries+len(p.Entries), guards+p.Used.Guards, pieces+p.Used.Pieces
		if m.Entries > 0 && p.Used.Entries >= m.Entries {
			full++
		}
	}
	figures := map[string]any{"pairs": pairs, "violations": 0, "models": perModel, "entries": entries, "guards": guards, "pieces": pieces,
		"rules_whole_in_hardware": whole, "devices_full": full, "codes": codes}
	t.Logf("%v", figures)
	if guards == 0 || pieces == 0 || full == 0 || len(codes) < 10 {
		t.Error("the pairs show little")
	}
	if pairs > least {
		flowtest.Record(t, "pairs", seed, began, figures)
	}
}

// poorer is a model that can do less than m.
func poorer(rng *rand.Rand, m device.Model) device.Model {
	less := smallModel(rng)
	less.Missed, less.MissFalls = m.Missed, m.MissFalls
	less.Punt = less.Punt && m.Punt
	if m.Order != device.Honoured {
		less.Order = m.Order
	}
	for p := range less.Fields {
		less.Fields[p] = min(less.Fields[p], m.Fields[p])
	}
	less.Needs, less.MasksPer, less.Protocols = nil, nil, nil
	for _, list := range []struct{ from, to *[]device.Part }{{&m.Needs, &less.Needs}, {&m.MasksPer, &less.MasksPer}} {
		for _, p := range *list.from {
			if less.Fields[p] != device.No {
				*list.to = append(*list.to, p)
			}
		}
	}
	if less.Fields[device.Proto] != device.No {
		less.Protocols = m.Protocols
	}
	return less
}

// held returns what is wrong with a plan's entries as something for a device to hold:
// straight from what the limits say.
func held(p *offload.Plan, m *device.Model) error {
	type set struct {
		of   flow.Key
		mask device.Mask
	}
	masks, perSet, priorities, ids := map[set]bool{}, map[flow.Key]int{}, map[uint64]bool{}, map[flow.EntryID]bool{}
	counted := 0
	for _, list := range [][]flow.Entry{p.Entries, p.Foreign} {
		for i := range list {
			e := &list[i]
			if ids[e.ID] {
				return fmt.Errorf("entry %x is there twice", e.ID)
			}
			ids[e.ID], priorities[e.Priority] = true, true
			s := set{m.MaskSet(&e.Match), device.MaskOf(&e.Match)}
			if !masks[s] {
				masks[s] = true
				perSet[s.of]++
			}
			if !e.Punt() {
				counted++
			}
		}
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		if err := m.Admit(&e.Match, e.Actions, e.Kind); err != nil {
			return fmt.Errorf("entry %x is not admitted: %w", e.ID, err)
		}
	}
	if len(p.Entries) == 0 {
		return nil // what others put in is not ours to judge
	}
	for _, n := range perSet {
		if m.Masks > 0 && n > m.Masks {
			return fmt.Errorf("%d masks, %d fit", n, m.Masks)
		}
	}
	switch n := len(p.Entries) + len(p.Foreign); {
	case m.Entries > 0 && n > m.Entries:
		return fmt.Errorf("%d entries, %d fit", n, m.Entries)
	case m.Priorities > 0 && len(priorities) > m.Priorities:
		return fmt.Errorf("%d priorities, %d fit", len(priorities), m.Priorities)
	case m.Counted > 0 && counted > m.Counted:
		return fmt.Errorf("%d entries count, %d can", counted, m.Counted)
	}
	return nil
}
