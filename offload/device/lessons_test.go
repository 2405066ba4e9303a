package device

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLessons saves what two cards showed, reads it back, and lays it over a model:
// the limit of the right card and firmware goes down, never up, and says that it was learned.
func TestLessons(t *testing.T) {
	card := Card{NIC: "0000:01:00.0 MT1", Driver: "mlx5_core", Firmware: "22.1"}
	newer := card
	newer.Firmware = "22.2"
	day := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	lessons := Lessons(nil).
		Learn(Lesson{card, "entries", 900, day, "no space left"}).
		Learn(Lesson{card, "entries", 800, day, "no space left"}).
		Learn(Lesson{card, "entries", 950, day, "no space left"}).
		Learn(Lesson{newer, "masks", 3, day, ""}).
		Learn(Lesson{card, "priorities", 40_000, day, ""}).
		Learn(Lesson{card, "outputs", 1, day, ""}).
		Learn(Lesson{card, "masks", 0, day, ""})
	if len(lessons) != 3 {
		t.Fatalf("%+v", lessons)
	}
	file := filepath.Join(t.TempDir(), "learned.json")
	if l, err := LoadLessons(file); err != nil || l != nil {
		t.Fatal(l, err)
	}
	for range 2 { // the second time over the first
		if err := lessons.Save(file); err != nil {
			t.Fatal(err)
		}
	}
	read, err := LoadLessons(file)
	if err != nil || cmp.Diff(lessons, read) != "" {
		t.Fatal(err, cmp.Diff(lessons, read))
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("files left behind: %v, %v", left, err)
	}

	plain, err := Load("mlx5-legacy")
	if err != nil {
		t.Fatal(err)
	}
	m := read.Over(plain, card)
	if m.Entries != 800 || m.Masks != 0 || m.Priorities != plain.Priorities {
		t.Errorf("%d entries, %d masks, %d priorities", m.Entries, m.Masks, m.Priorities)
	}
	if e := m.Evidence["entries"]; e.Tier != Learned || !strings.Contains(e.Source, "22.1, on 2026-11-24: no space left") {
		t.Errorf("%+v", e)
	}
	if plain.Entries != 0 || plain.Evidence["entries"].Tier != Unknown {
		t.Error("the model itself has changed")
	}
	if m := read.Over(plain, newer); m.Entries != 0 || m.Masks != 3 {
		t.Errorf("other firmware: %d entries, %d masks", m.Entries, m.Masks)
	}

	if l := read.Review(card, map[string]int{"entries": 800}); len(l) != 2 {
		t.Errorf("with other firmware learned of too, and nothing outgrown: %+v", l)
	}
	if l := read.Review(card, map[string]int{"entries": 801}); len(l) != 1 || l[0].Limit != "priorities" || len(read) != 3 {
		t.Errorf("after one entry more: %+v of %+v", l, read)
	}
	if l := read.Review(Card{NIC: "another"}, map[string]int{"entries": 5000}); len(l) != 3 {
		t.Errorf("another card: %+v", l)
	}

	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadLessons(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged file: %v", err)
	}
}
