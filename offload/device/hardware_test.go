package device

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the models' rows in HARDWARE.md anew")

// TestHardware compares the models' rows in HARDWARE.md with the models and the
// recorded runs, so that nothing there is kept by hand or claimed without a record.
func TestHardware(t *testing.T) {
	const file, begin, end = "../../HARDWARE.md", "<!-- models: make hardware -->\n", "<!-- end of models -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	rows, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the rows of models: %q and %q", file, begin, end)
	}
	want := hardwareRows(t)
	if *update {
		if err := os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if rows != want {
		t.Errorf("the rows of models in HARDWARE.md are not those of the models; run make hardware; they should be:\n%s", want)
	}
}

// hardwareRows writes a row for each shipped model.
func hardwareRows(t *testing.T) string {
	ran := recorded(t)
	var w strings.Builder
	w.WriteString("| model | about | misses reach software | priority | entries | masks | distinct priorities | counters | state |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range List() {
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		number := func(claim string, n int) string {
			switch tier := m.Evidence[claim].Tier; {
			case n > 0:
				return fmt.Sprintf("%d (%s)", n, tier)
			case tier == Unknown:
				return "unknown"
			default:
				return fmt.Sprintf("no limit (%s)", tier)
			}
		}
		falls, counts := "yes", "none"
		if !m.MissFalls {
			falls = "no: takes nothing"
		}
		if m.Counters {
			counts = fmt.Sprintf("per entry (%s)", m.Evidence["counters"].Tier)
		}
		if m.PacketBits > 0 {
			counts = fmt.Sprintf("%d bits packets, %d bits bytes (%s)", m.PacketBits, m.ByteBits, m.Evidence["counters"].Tier)
		}
		priorities := "-"
		if m.Order == Honoured {
			priorities = number("priorities", m.Priorities)
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s (%s) | %s | %s | %s | %s | %s |\n", name, m.About, falls, m.Order, m.Evidence["order"].Tier,
			number("entries", m.Entries), number("masks", m.Masks), priorities, counts, state(t, &m, ran))
	}
	return w.String()
}

// state is the word of HARDWARE.md for a model, with the run that it rests on. A model
// that claims more than expected needs a run; invented ones are for tests only.
func state(t *testing.T, m *Model, ran map[string]string) string {
	best := m.Evidence["actions"].Tier
	if strings.HasPrefix(m.About, "an invented") {
		return "invented, for tests"
	}
	on, needed := map[string]string{"softnic": "lab", "tcamsim": "vm"}[m.Name], best == Emulated || best == Proven
	file := ran[on]
	switch {
	case needed && file == "":
		t.Errorf("%s says %s, and no run in docs/results shows it", m.Name, best)
		return "expected"
	case needed:
		return fmt.Sprintf("%s: [%s](%s)", best, file, file)
	}
	return "expected"
}

// recorded returns the files of the hardware tests that passed, by what they ran on.
func recorded(t *testing.T) map[string]string {
	ran := map[string]string{}
	files, err := filepath.Glob("../../docs/results/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no results", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r struct {
			Kind   string
			Spec   struct{ On string }
			Status struct{ Passed bool }
		}
		if err := json.Unmarshal(b, &r); err != nil {
			continue // figures of a benchmark have another form
		}
		if r.Kind == "HardwareTest" && r.Status.Passed {
			ran[r.Spec.On] = "docs/results/" + filepath.Base(file)
		}
	}
	return ran
}
