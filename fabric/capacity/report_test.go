package capacity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestFigures compares every figure of every scope with the oracle.
func TestFigures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range d.Status.Scopes {
			checkScope(t, in, s)
		}
	})
}

// TestWhatIf compares a what-if with the oracle on the input that the new vNICs make.
func TestWhatIf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.WhatIf = &Addition{VNICs: rapid.Int64Range(0, 12).Draw(t, "more"), Profile: drawProfile(t)}
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		w := d.Status.WhatIf
		now := in
		now.Reference = w.Profile
		pfs, software := rooms(now, Scope{Level: FleetLevel}, w.Profile)
		room := packByTrial(pfs, software, w.Profile, true)
		if want := min(room, w.Wanted); w.Placed != want {
			t.Fatalf("%d of %d placed, want %d", w.Placed, w.Wanted, want)
		}
		if w.Placed < w.Wanted != (len(w.Warnings) > 0 && strings.Contains(w.Warnings[0], "find no place")) {
			t.Fatalf("%d of %d placed: %q", w.Placed, w.Wanted, w.Warnings)
		}
		if w.More != room-w.Placed {
			t.Fatalf("%d more fit, want %d", w.More, room-w.Placed)
		}
		checkPlaces(t, now, w)
		checkChanges(t, in, w)
	})
}

// TestSoftwareCaps checks a blade whose software budget lets in fewer vNICs than its
// PFs have room for: what it keeps out is stranded on the PFs.
func TestSoftwareCaps(t *testing.T) {
	pf := func(name string) PF { return PF{Name: name, VFs: VFs{Total: 8}, Port: Port{Speed: 100}} }
	in := Input{At: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Window: 1, Reference: Profile{Guaranteed: 2, PacketsPerSecond: 3},
		Chassis: []Chassis{{Name: "c", Blades: []Blade{{Name: "b", Software: SoftwareBudget{PacketsPerCore: 10, Cores: 1, Used: new(int64)}, PFs: []PF{pf("p0"), pf("p1")}}}}}}
	d, err := Report(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Status.Scopes {
		checkScope(t, in, s)
	}
	blade := d.at(BladeLevel)[0]
	if blade.Fit.VNICs != 3 || blade.Fit.Binds != Software {
		t.Errorf("fit %+v", *blade.Fit)
	}
	for dim, want := range map[Dimension]int64{Slots: 16 - 3, Bandwidth: 200 - 2*3, Software: 0} {
		if got := blade.figure(dim).Stranded; got == nil || *got != want {
			t.Errorf("%s of %s stranded, want %d", integer(got), dim, want)
		}
	}
}

// checkPlaces looks at each place: no PF and no blade takes more than it has room for.
func checkPlaces(t *rapid.T, in Input, w *WhatIf) {
	placed := map[string]int64{}
	for _, p := range w.Places {
		blade, _, _ := strings.Cut(p.PF, "/")
		for _, s := range []Scope{{Level: PFLevel, Name: p.PF}, {Level: BladeLevel, Name: blade}} {
			key := string(s.Level) + s.Name
			pfs, software := rooms(in, s, w.Profile)
			placed[key] += p.VNICs
			if room := packByTrial(pfs, software, w.Profile, s.Level == BladeLevel); placed[key] > room {
				t.Fatalf("%s %s takes %d, and has room for %d", s.Level, s.Name, placed[key], room)
			}
		}
	}
}

// checkChanges looks at what a placement must do to each place: one VF a vNIC and its
// needs, no more and no less, and the same on every scope around it.
func checkChanges(t *rapid.T, in Input, w *WhatIf) {
	placed := map[string]int64{}
	for _, p := range w.Places {
		placed[p.PF] = p.VNICs
	}
	got := map[string]Change{}
	for _, c := range w.Changes {
		got[fmt.Sprint(c.Level, c.Name, c.Dimension)] = c
	}
	d, err := Report(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Status.Scopes {
		for _, f := range s.Figures {
			k := int64(0)
			for _, l := range leaves(in, Slots) {
				if l.within(s) {
					k += placed[l.pf]
				}
			}
			c := got[fmt.Sprint(s.Level, s.Name, f.Dimension)]
			more := k * w.Profile.need(f.Dimension)
			if f.Allocated != nil && f.Unknown == nil && deref(c.Delta.Allocated) != more {
				t.Fatalf("%s %s %s: allocated grows by %d, want %d", s.Level, s.Name, f.Dimension, deref(c.Delta.Allocated), more)
			}
			if f.Used != nil && f.Unknown == nil && f.Unmeasured == 0 && deref(c.Delta.Used) != more {
				t.Fatalf("%s %s %s: used grows by %d, want %d", s.Level, s.Name, f.Dimension, deref(c.Delta.Used), more)
			}
			if f.Reserve != nil && *f.Reserve == 0 && f.Unknown == nil && f.Unmeasured == 0 && deref(c.Delta.Remaining) != -more && deref(c.Delta.Usable) == 0 {
				t.Fatalf("%s %s %s: remaining changes by %d, want %d", s.Level, s.Name, f.Dimension, deref(c.Delta.Remaining), -more)
			}
		}
	}
}

// TestProperties checks what must hold whatever the input.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.Policy.Overcommit = nil
		d, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		sums := map[Dimension]int64{}
		for _, s := range d.Status.Scopes {
			for _, f := range s.Figures {
				if f.Unit != f.Dimension.Unit() {
					t.Fatalf("%s in %s", f.Dimension, f.Unit)
				}
				if f.Remaining != nil && f.Allocated != nil && *f.Remaining > *f.Usable-*f.Allocated {
					t.Fatalf("%s %s %s: %d remain of %d usable and %d allocated", s.Level, s.Name, f.Dimension, *f.Remaining, *f.Usable, *f.Allocated)
				}
				if f.Usable != nil && (*f.Usable > *f.Total || *f.Usable < 0) {
					t.Fatalf("usable %d of %d", *f.Usable, *f.Total)
				}
				if s.Level == BladeLevel {
					sums[f.Dimension] += deref(f.Total)
				}
			}
		}
		fleet := d.Status.Scopes[0]
		for _, f := range fleet.Figures {
			if deref(f.Total) != sums[f.Dimension] {
				t.Fatalf("blades have %d %s, the fleet %d", sums[f.Dimension], f.Dimension, deref(f.Total))
			}
		}
		// One more blade never takes anything from the total or from what fits.
		in.Chassis = append(slices.Clone(in.Chassis), Chassis{Name: "new", Blades: []Blade{drawBlade(t, "new1", 1)}})
		more, err := Report(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fleet.Figures {
			if g := more.Status.Scopes[0].figure(f.Dimension); deref(g.Total) < deref(f.Total) {
				t.Fatalf("%s: total fell from %d to %d", f.Dimension, deref(f.Total), deref(g.Total))
			}
		}
		if more.Status.Scopes[0].Fit.VNICs < fleet.Fit.VNICs {
			t.Fatalf("fit fell from %d to %d", fleet.Fit.VNICs, more.Status.Scopes[0].Fit.VNICs)
		}
	})
}
