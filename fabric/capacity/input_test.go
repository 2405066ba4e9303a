package capacity

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// TestRefused checks that what makes no sense is refused with what would be right.
func TestRefused(t *testing.T) {
	const head = "apiVersion: bladeflow/v1\nkind: CapacityInput\nspec:\n  at: 2026-11-24T12:00:00Z\n"
	const blade = head + "  chassis: [{name: c, slots: 2, blades: [{name: b, pfs: [%s]}]}]\n"
	refused := func(text, want string) {
		t.Helper()
		_, err := ParseInput("in.yaml", []byte(text))
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != "E_CAPACITY_INPUT" || f.Remedy == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
	refused("", "empty")
	refused(strings.Replace(head, "Input", "Inputs", 1), `kind "CapacityInputs"`)
	refused(head+"  windows: 3\n", "line 5")
	refused(head+"  window: 0\n", "window")
	refused(head+"  policy: {survive: rack}\n", "rack")
	refused(head+"  policy: {bufferPercent: 101}\n", "bufferPercent")
	refused(head+"  policy: {overcommit: {slots: 200}}\n", "a VF has one vNIC")
	refused(head+"  policy: {overcommit: {watts: 200}}\n", "watts")
	refused(head+"  profile: {guaranteed: 2G, maximum: 1G}\n", "maximum below guaranteed")
	refused(head+"  profile: {guaranteed: fast}\n", "fast")
	refused(head+"---\nspec: {}\n", "a second document begins")
	refused(head+"  chassis: [{name: c}, {name: c}]\n", "named twice")
	refused(head+"  chassis: [{name: c, blades: [{name: a, slot: 1}, {name: b, slot: 1}]}]\n", "taken twice")
	refused(head+"  chassis: [{name: c, slots: 2, blades: [{name: a, slot: 3}]}]\n", "slot 3 of 2")
	refused(fmt.Sprintf(blade, "{name: p, vfs: {total: 2, provisioned: 3}}"), "3 provisioned, 2 possible")
	refused(fmt.Sprintf(blade, "{name: p, vfs: {total: 2, faulty: 3}}"), "3 of 2 VFs faulty")
	refused(fmt.Sprintf(blade, "{name: p, vfs: {total: -2, provisioned: -2, bound: -2}}"), "-2")
	refused(fmt.Sprintf(blade, "{name: p, table: {source: guessed}}"), "guessed")
	refused(fmt.Sprintf(blade, "{name: p, port: {demand: [{date: 2026-11-02}, {date: 2026-11-01}]}}"), "in order")
	refused(fmt.Sprintf(blade, "{name: p, port: {demand: [{date: yesterday}]}}"), "yesterday")
	refused(fmt.Sprintf(blade, "{name: p, demand: {watts: []}}"), "watts")
	refused(fmt.Sprintf(blade, "{name: p}, {name: p}"), "named twice")
	refused("apiVersion: bladeflow/v1\nkind: CapacityInput\nspec: {}\n", "at")
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{"0": 0, "7": 7, "10k": 1e4, "100M": 1e8, "25G": 25e9, "1T": 1e12, "1000T": 1e15} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5G", "1001T", "9223372036854775807G", "25g", "1 G"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// FuzzParseInput checks that no text panics and that what is accepted makes a report.
func FuzzParseInput(f *testing.F) {
	f.Add([]byte("apiVersion: bladeflow/v1\nkind: CapacityInput\nspec:\n  at: 2026-11-24T12:00:00Z\n  chassis: [{name: c, blades: [{name: b, pfs: [{name: p, vfs: {total: 8}}]}]}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInput("fuzz", b)
		if err != nil {
			return
		}
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		for form, write := range forms {
			if err := write(d, &strings.Builder{}); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
		}
	})
}

// TestBladeOf checks what an inventory gives.
func TestBladeOf(t *testing.T) {
	inv := fabric.Inventory{NICs: []fabric.NIC{{PFs: []fabric.PF{
		{Name: "nic0/pf0", TotalVFs: 8, NumVFs: 3, Netdev: &fabric.Netdev{Speed: 25e9}}, {Name: "nic0/pf1"}}}}}
	want := Blade{Name: "b", PFs: []PF{
		{Name: "nic0/pf0", VFs: VFs{Total: 8, Provisioned: 3}, Table: Table{Source: Unknown}, Port: Port{Speed: 25e9}},
		{Name: "nic0/pf1", Table: Table{Source: Unknown}}}}
	if diff := cmp.Diff(want, BladeOf("b", inv)); diff != "" {
		t.Error(diff)
	}
}

// TestConsolidation recomputes which blades do little and which of them can be emptied.
func TestConsolidation(t *testing.T) {
	d, err := Report(readFleet(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []Idle{{Blade: "c1b1", Percent: 16.9, Dimension: Entries, Emptied: true}}
	if diff := cmp.Diff(want, d.Status.Consolidation.Below); diff != "" {
		t.Error(diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		below, measured := map[string]bool{}, 0
		for _, s := range d.at(BladeLevel) {
			busiest := -1.0
			for _, f := range s.Figures {
				if f.UsedPercent != nil {
					busiest = max(busiest, *f.UsedPercent)
				}
			}
			if busiest >= 0 && s.State == "ok" {
				measured++
				below[s.Name] = busiest < 20
			}
		}
		c := d.Status.Consolidation
		if c.Blades != measured {
			t.Fatalf("%d blades measured, want %d", c.Blades, measured)
		}
		emptied := map[string]bool{}
		listed := map[string]bool{}
		for _, b := range c.Below {
			if !below[b.Blade] {
				t.Fatalf("%s is not below 20 %%", b.Blade)
			}
			listed[b.Blade], emptied[b.Blade] = true, b.Emptied
		}
		for name, low := range below {
			if low != listed[name] {
				t.Fatalf("%s: listed %v", name, listed[name])
			}
		}
		if !roomWithout(in, emptied) {
			t.Fatalf("emptied blades do not fit into the rest: %v", emptied)
		}
		// The next blade in order would not fit, or there is none.
		bound := func(blade string) (n int64) {
			for _, l := range leaves(in, Slots) {
				if l.blade == blade {
					n += *l.allocated
				}
			}
			return n
		}
		next := ""
		for _, b := range c.Below {
			if !b.Emptied && (next == "" || bound(b.Blade) < bound(next)) {
				next = b.Blade
			}
		}
		if next != "" {
			emptied[next] = true
			if roomWithout(in, emptied) {
				t.Fatalf("%s could be emptied too", next)
			}
		}
	})
}

// roomWithout says whether the load of some blades fits into what remains on the others.
func roomWithout(in Input, emptied map[string]bool) bool {
	for _, d := range dimensions {
		room, load := int64(0), int64(0)
		for _, c := range in.Chassis {
			for _, b := range c.Blades {
				o := truthOf(in, Scope{Level: BladeLevel, Name: b.Name}, d)
				known, rest := max(o.allocated, o.peak), int64(0)
				for _, l := range leaves(in, d) {
					if l.blade == b.Name && l.total == nil {
						rest += deref(l.allocated)
					}
				}
				rest = max(rest, o.restPeak)
				switch {
				case emptied[b.Name]:
					load += known + rest
				case !b.Faulty && !b.Silent && o.remaining != nil:
					room += max(0, *o.remaining)
				}
			}
		}
		if load > room {
			return false
		}
	}
	return true
}

// TestOversubscription recomputes the ceilings and the use of the ports of each scope.
func TestOversubscription(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Status.Scopes {
			speed, ceilings := 0.0, 0.0
			for _, c := range in.Chassis {
				for _, b := range c.Blades {
					for _, p := range b.PFs {
						if (leaf{blade: b.Name, chassis: c.Name, pf: b.Name + "/" + p.Name}).within(s) && p.Port.Speed > 0 {
							speed += float64(p.Port.Speed)
							ceilings += float64(p.Port.Maximum)
						}
					}
				}
			}
			o := s.Oversubscription
			if (o != nil) != (speed > 0) {
				t.Fatalf("%s %s: oversubscription %v at speed %v", s.Level, s.Name, o, speed)
			}
			if o == nil {
				continue
			}
			if diff := o.Configured - ceilings/speed; diff > 0.0051 || diff < -0.0051 {
				t.Fatalf("%s %s: configured %v, want %v", s.Level, s.Name, o.Configured, ceilings/speed)
			}
			truth := truthOf(in, s, Bandwidth)
			if (o.Real != nil) != (truth.measured > 0) {
				t.Fatalf("%s %s: real %v with %d measured", s.Level, s.Name, o.Real, truth.measured)
			}
			if o.Real != nil {
				if diff := *o.Real - float64(truth.used)/speed; diff > 0.00051 || diff < -0.00051 {
					t.Fatalf("%s %s: real %v, want %v", s.Level, s.Name, *o.Real, float64(truth.used)/speed)
				}
			}
		}
	})
}

// TestQuality checks what the golden fleet's data lacks.
func TestQuality(t *testing.T) {
	d, err := Report(readFleet(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, f := range d.Status.Quality.Findings {
		got[f.Code] = f.Objects
	}
	want := map[string][]string{
		"E_CAPACITY_SILENT":     {"c1b3"},
		"E_CAPACITY_UNKNOWN":    {"software of c2b1", "bandwidth of c2b3/nic0/pf1"},
		"E_CAPACITY_UNMEASURED": {"software of c2b2"},
		"E_CAPACITY_GAP":        {"bandwidth of c1b2/nic0/pf0: 2 days missing, 0 thin"},
		"E_CAPACITY_SHORT":      {"bandwidth of c1b3/nic0/pf0 from 2026-11-19"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// 11 of 12 series have 13 whole days, two of them lack 2; one has 5.
	if c := d.Status.Quality.Coverage; c == nil || *c != *percent(10*13+11+5, 12*13) {
		t.Errorf("coverage %v", c)
	}
}

// TestWrite: an input that is written and read again is the same, and gives the same
// report.
func TestWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		var text bytes.Buffer
		if err := in.Write(&text); err != nil {
			t.Fatal(err)
		}
		again, err := ParseInput("written", text.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, text.String())
		}
		if diff := cmp.Diff(in, again, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Input{}, "At")); diff != "" || !in.At.Equal(again.At) {
			t.Fatalf("%s at %s, then %s", diff, in.At, again.At)
		}
	})
}
