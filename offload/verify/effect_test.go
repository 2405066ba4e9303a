package verify

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// TestEffects sets every list of actions against every other: one rule for all
// packets, and one entry for some, minus some that the device misses.
func TestEffects(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 3
	}
	for _, u := range universes() {
		rng := rand.New(rand.NewPCG(8, 9))
		var same, differ int
		for _, a := range u.actions {
			all := flow.Rule{ID: 1, Name: "all", Actions: a}
			table := must(flow.NewTable(flow.TableSpec{Switch: u.sw, Rules: []flow.Rule{all}}))
			for _, b := range u.actions {
				for round := range rounds {
					x := trial{u: u, table: table, model: anyDevice(device.Honoured)}
					if !inDevice(b) {
						continue
					}
					x.entries = []flow.Entry{{Rule: 1, Match: u.match(rng, float64(round%4)/4), Actions: b}}
					for range round % 7 {
						var m flow.Match
						u.look(rng, &m, rng.IntN(len(u.dims)))
						x.model.Missed = append(x.model.Missed, m)
					}
					err := Check(table, x.entries, x.model)
					diff, _ := x.verdict()
					var bad *Mismatch
					switch {
					case (err == nil) != (diff == 0):
						t.Fatalf("%s: rule %v, entry %v on %+v, missed %+v\nchecker: %v\noracle: %d packets differ", u.name, a, b, x.entries[0].Match, x.model.Missed, err, diff)
					case err == nil:
						same++
						continue
					case !errors.As(err, &bad):
						t.Fatal(err)
					}
					if why := x.confirm(bad); why != nil {
						t.Fatalf("%s: %v: %v", u.name, err, why)
					}
					differ++
				}
			}
		}
		t.Logf("universe %s: %d pairs do the same, %d do not", u.name, same, differ)
	}
}

// TestHidden has lists of actions that differ only in what a key does not say: the
// protocol and the drop eligible bit of a tag.
func TestHidden(t *testing.T) {
	rule := flow.Rule{ID: 1, Name: "retag", Actions: flow.Actions{pop, push(1, flow.EthVLAN), output(2)}}
	table := must(flow.NewTable(flow.TableSpec{Rules: []flow.Rule{rule}}))
	e := flow.Entry{ID: 1, Rule: 1, Match: pin(flow.VLAN, flow.TagPresent|1, 0xffff), Actions: flow.Actions{output(2)}}
	var bad *Mismatch
	if err := Check(table, []flow.Entry{e}, plainDevice); !errors.As(err, &bad) || !bad.Differs() {
		t.Fatal(err)
	}
	x := trial{table: table, entries: []flow.Entry{e}, model: plainDevice}
	if err := x.confirm(bad); err != nil {
		t.Error(err)
	}
}
