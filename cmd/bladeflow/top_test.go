package main

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bladeflow/bladeflow/fabric/api"
)

func TestSparkline(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		values []float64
		want   string
		ascii  string
	}{
		{nil, "", ""},
		{[]float64{0, 0}, "▁▁", "__"},
		{[]float64{0, 1, 50, 100}, "▁▂▅█", "_.+#"},
		{[]float64{nan, 7}, " █", " #"},
		{[]float64{nan}, " ", " "},
		{[]float64{1e-9, 1e9}, "▂█", ".#"},
	} {
		if got := blocks.sparkline(c.values); got != c.want {
			t.Errorf("%v: %q, want %q", c.values, got, c.want)
		}
		if got := plain.sparkline(c.values); got != c.ascii {
			t.Errorf("%v: %q, want %q", c.values, got, c.ascii)
		}
	}
}

// TestLocale: what a terminal shows is asked in the order of POSIX.
func TestLocale(t *testing.T) {
	for _, c := range []struct {
		env     map[string]string
		unicode bool
	}{
		{nil, false},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "de_DE.ISO-8859-1"}, false},
		{map[string]string{"LANG": "en_US.UTF-8"}, true},
		{map[string]string{"LANG": "C.utf8"}, true},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_CTYPE": "C"}, false},
		{map[string]string{"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, false},
		{map[string]string{"LANG": "C", "LC_ALL": "", "LC_CTYPE": "de_DE.UTF-8"}, true},
	} {
		got := barsFor(func(name string) string { return c.env[name] })
		if unicode := got[0] == blocks[0]; unicode != c.unicode {
			t.Errorf("%v: unicode %v", c.env, unicode)
		}
	}
}

func TestFigureText(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "packets/s", "0"}, {0.5, "packets/s", "0.50"}, {9.994, "packets/s", "9.99"}, {9.996, "packets/s", "10.0"}, {99.96, "packets/s", "100"},
		{999.4, "packets/s", "999"}, {999.6, "packets/s", "1.00k"}, {1000, "packets/s", "1k"}, {12345, "packets/s", "12.3k"}, {999_950, "packets/s", "1.00M"}, {2.5e9, "bit/s", "2.50G"}, {4e12, "bit/s", "4T"},
		{1234567, "entries", "1234567"}, {75, "%", "75.0"},
	} {
		if got := figureText(c.v, true, c.unit); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.v, c.unit, got, c.want)
		}
	}
	if got := figureText(0, false, "%"); got != "-" {
		t.Errorf("what nobody knows is %q", got)
	}
}

// frameOf is a refresh of two blades, the second of which does not report any more.
func frameOf(t *testing.T) *frame {
	t.Helper()
	kind, err := topKind(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	busy := func(name, state string, age time.Duration, figures map[string]float64) api.Busy {
		r := api.Reading{State: state, At: now.Add(-age)}
		return api.Busy{Head: api.NewHead(api.KindBusy, name), Status: api.BusyStatus{Blade: name, Readings: map[string]api.Reading{api.FromRules: r, api.FromPorts: r}, Figures: figures}}
	}
	f := &frame{kind: kind, by: "packets", now: now}
	f.list.Items = []api.Busy{
		busy("b1", api.ReadingMeasured, 800*time.Millisecond, map[string]float64{"packets": 12345, "hardware": 12000, "cache": 300, "software": 45, "dropped": 1.5, "bits": 9e9, "table": 75}),
		busy("b2", api.ReadingSilent, 90*time.Second, map[string]float64{}),
	}
	f.list.Metadata.Remaining = 3
	return f
}

// TestTopFrame: a table says how many there are, how many of them it shows, and how old
// what it shows is.
func TestTopFrame(t *testing.T) {
	f := frameOf(t)
	var out strings.Builder
	if err := f.print(&out, false); err != nil {
		t.Fatal(err)
	}
	want := `5 blades, first 2 by packets at 2026-11-30T12:00:00Z
NAME  PACKETS/S  HARDWARE  CACHE  SOFTWARE  DROPPED  BITS/S  TABLE%  AGE-RULES     AGE-PORTS
b1    12.3k      12k       300    45        1.50     9G      75.0    800ms         800ms
b2    -          -         -      -         -        -       -       silent 1m30s  silent 1m30s
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}

// TestTopScreen: a refresh draws what was, wipes what is left of the one before, and no
// line is longer than the terminal.
func TestTopScreen(t *testing.T) {
	f := frameOf(t)
	f.bars, f.past, f.width = blocks, past{"gone": {1}}, 60
	for i := range remembered + 5 {
		f.list.Items[0].Status.Figures["packets"] = float64(i)
		f.past.add(f.sorted(), remembered)
	}
	if n := len(f.past["b1"]); n != remembered || len(f.past) != 2 {
		t.Errorf("%d refreshes of %d things are kept", n, len(f.past))
	}
	rows := f.rows()
	if line := rows[1][len(rows[1])-1]; utf8.RuneCountInString(line) != remembered || !strings.HasSuffix(line, "█") {
		t.Errorf("sparkline %q", line)
	}
	var out strings.Builder
	if err := f.print(&out, true); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if last := lines[len(lines)-1]; last != "\x1b[J" || len(lines) != 5 {
		t.Errorf("%q", lines)
	}
	for _, line := range lines[:len(lines)-1] {
		if text, ok := strings.CutSuffix(line, "\x1b[K"); !ok || utf8.RuneCountInString(text) > 60 {
			t.Errorf("%q", line)
		}
	}
}
