package tcflower

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// anyFilter draws a filter in the one form that reading gives: keys in order and none
// whose mask asks for nothing.
func anyFilter(t *rapid.T) Filter {
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	data := func(name string, n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name) }
	f := Filter{Device: u32("device"), Parent: u32("parent"), Chain: u32("chain"), Priority: rapid.Uint16().Draw(t, "priority"),
		Protocol: rapid.Uint16().Draw(t, "protocol"), Handle: u32("handle"), ClassID: u32("classid"),
		Flags: Flags(rapid.Uint32Range(0, 1<<5-1).Draw(t, "flags")) &^ (InHW | NotInHW),
		InDev: rapid.StringMatching("[a-z]{0,8}").Draw(t, "indev")}
	for _, k := range keys {
		if !rapid.Bool().Draw(t, "has") {
			continue
		}
		mask := ones(k.size)
		if k.mask != 0 {
			mask = data("mask", k.size)
		}
		f.put(k.id, data("value", k.size), mask)
	}
	for _, kind := range []uint16{84, 99, 107, 200} {
		if rapid.Bool().Draw(t, "unknown") {
			f.Unknown = append(f.Unknown, Attribute{kind, data("of it", rapid.IntRange(1, 9).Draw(t, "size"))})
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "actions") {
		f.Actions = append(f.Actions, anyAction(t))
	}
	return f
}

func anyAction(t *rapid.T) Action {
	a := Action{Kind: rapid.SampledFrom([]string{"gact", "mirred", "vlan", "pedit", "csum", "police", "sample"}).Draw(t, "kind"),
		Cookie: rapid.SliceOfN(rapid.Byte(), 1, CookieSize).Draw(t, "cookie")}
	a.Shared = rapid.Bool().Draw(t, "shared")
	if a.Kind == "sample" {
		a.Options = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "options")
		return a
	}
	a.Verdict, a.Index = Verdict(rapid.Int32().Draw(t, "verdict")), rapid.Uint32().Draw(t, "index")
	switch a.Kind {
	case "mirred":
		a.Mirred = Mirred{rapid.Uint32().Draw(t, "how"), rapid.Uint32().Draw(t, "to")}
	case "csum":
		a.Csum = rapid.Uint32().Draw(t, "csum")
	case "vlan":
		a.VLAN = VLAN{How: rapid.Uint32().Draw(t, "how"), Proto: rapid.Uint16().Draw(t, "proto"), HasID: rapid.Bool().Draw(t, "id"), HasPrio: rapid.Bool().Draw(t, "prio")}
		if a.VLAN.HasID {
			a.VLAN.ID = rapid.Uint16().Draw(t, "vlan")
		}
		if a.VLAN.HasPrio {
			a.VLAN.Prio = rapid.Byte().Draw(t, "class")
		}
	case "pedit":
		for range rapid.IntRange(1, 6).Draw(t, "edits") {
			a.Edits = append(a.Edits, Edit{Header: rapid.Uint16().Draw(t, "header"), Command: rapid.Uint16().Draw(t, "command"), Offset: rapid.Uint32().Draw(t, "offset"),
				Mask: [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "mask")), Value: [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "value"))})
		}
	case "police":
		a.Police = Police{Rate: rapid.Uint64().Draw(t, "rate"), Burst: rapid.Uint32().Draw(t, "burst"), MTU: rapid.Uint32().Draw(t, "mtu")}
	}
	return a
}

// TestRoundTrip writes any filter and reads it back: nothing is lost or added.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFilter(t)
		have, err := ParseFilter(f.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(f, have); d != "" {
			t.Fatalf("- written, + read:\n%s", d)
		}
	})
}

// FuzzParseFilter reads anything: it never panics, and what it takes for a filter it
// reads the same when it is written again.
func FuzzParseFilter(f *testing.F) {
	b, err := os.ReadFile(golden)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if body, err := hex.DecodeString(strings.TrimSpace(line)); err == nil && len(body) > 0 {
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := ParseFilter(b)
		if err != nil {
			return
		}
		again, err := ParseFilter(first.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		first.HWCount, first.Flags = 0, first.Flags&^(InHW|NotInHW)
		for i := range first.Actions {
			first.Actions[i].Stats = Stats{}
			if _, known := parameters[first.Actions[i].Kind]; !known {
				first.Actions[i].Index = 0 // of a kind that the codec does not know it is in the options
			}
		}
		if d := cmp.Diff(first, again); d != "" {
			t.Fatalf("- read, + read again:\n%s", d)
		}
	})
}
