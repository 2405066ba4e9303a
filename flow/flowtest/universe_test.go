package flowtest_test

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestUniverses checks that every key is one a packet can have and that random
// tables are worth trying: many rules win somewhere, and so does the default.
func TestUniverses(t *testing.T) {
	for _, u := range flowtest.Universes() {
		rng := rand.New(rand.NewPCG(1, 2))
		seen := map[flow.Key]bool{}
		for _, k := range u.Keys {
			if !flow.Possible(&k) || seen[k] {
				t.Fatalf("%s: key %x is impossible or twice there", u.Name, k)
			}
			seen[k] = true
		}
		if len(u.Keys) > 1024 {
			t.Errorf("%s has %d keys", u.Name, len(u.Keys))
		}
		const n, tables = 12, 50
		won, defaults := 0, 0
		for range tables {
			tab := u.Table(rng, n)
			wins := map[int]bool{}
			for _, k := range u.Keys {
				r := tab.Lookup(&k)
				wins[r] = true
				if r == tab.Len() {
					defaults++
				}
			}
			won += len(wins)
		}
		if share := float64(won) / (tables * (n + 1)); share < 0.4 {
			t.Errorf("%s: only %.0f%% of the rules win anywhere", u.Name, 100*share)
		}
		if share := float64(defaults) / float64(tables*len(u.Keys)); share < 0.005 || share > 0.6 {
			t.Errorf("%s: %.1f%% of the keys fall to the default", u.Name, 100*share)
		}
	}
}

// TestUniverseFields checks that between them the universes vary every field that
// packets have, and that their rules look at each.
func TestUniverseFields(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var varied, looked flow.Key
	var ranged bool
	for _, u := range flowtest.Universes() {
		for _, k := range u.Keys {
			for w := range k {
				varied[w] |= k[w] ^ u.Keys[0][w]
			}
		}
		for range 500 {
			m := u.Match(rng)
			if err := m.Valid(); err != nil {
				t.Fatal(err)
			}
			for w := range m.Mask {
				looked[w] |= m.Mask[w]
			}
			ranged = ranged || !m.SrcPort.Any() && !m.DstPort.Any()
		}
	}
	for f := range flow.NumFields {
		if f == flow.CTState || f == flow.Reserved {
			continue // always zero in a packet
		}
		if varied.Get(f) == 0 || looked.Get(f) == 0 {
			t.Errorf("field %d varies in %x, rules look at %x", f, varied.Get(f), looked.Get(f))
		}
	}
	if !ranged {
		t.Error("no rule has two ranges")
	}
}

// TestChange checks that a chain of changes stays valid, keeps what it should and
// makes a difference often enough.
func TestChange(t *testing.T) {
	u := flowtest.Universes()[0]
	rng := rand.New(rand.NewPCG(5, 6))
	tab := u.Table(rng, 8)
	differs := 0
	for i := range 200 {
		next := u.Change(rng, tab)
		if next.Generation() != tab.Generation()+1 || next.Switch() != tab.Switch() || next.Ports() != tab.Ports() {
			t.Fatalf("change %d: generation %d after %d", i, next.Generation(), tab.Generation())
		}
		if d := next.Len() - tab.Len(); d < -1 || d > 1 {
			t.Fatalf("change %d: %d rules more", i, d)
		}
		for _, k := range u.Keys {
			if !next.Rule(next.Lookup(&k)).Actions.Equal(tab.Rule(tab.Lookup(&k)).Actions) {
				differs++
				break
			}
		}
		tab = next
	}
	if differs < 50 {
		t.Errorf("only %d of 200 changes show on any key", differs)
	}
}

// TestActions checks that random actions are valid and that every operation occurs.
func TestActions(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	seen := map[flow.Op]bool{}
	for range 1000 {
		a := flowtest.Actions(rng, []flow.Port{4, 9})
		if err := a.Valid(); err != nil {
			t.Fatal(a, err)
		}
		for _, x := range a {
			seen[x.Op] = true
			for _, p := range x.Ports {
				if p != 4 && p != 9 {
					t.Fatalf("port %d was not offered", p)
				}
			}
		}
	}
	if len(seen) != int(flow.VLANSet)+1 {
		t.Errorf("operations seen: %v", seen)
	}
}

// TestRepeatable checks that the same source gives the same table.
func TestRepeatable(t *testing.T) {
	for _, u := range flowtest.Universes() {
		a := u.Rules(rand.New(rand.NewPCG(1, 1)), 20, []flow.Port{1, 2})
		b := u.Rules(rand.New(rand.NewPCG(1, 1)), 20, []flow.Port{1, 2})
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: two tables from one seed", u.Name)
		}
	}
}
