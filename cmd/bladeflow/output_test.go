package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestHarmless: what a blade says can neither begin a line of its own nor tell the terminal what to do.
func TestHarmless(t *testing.T) {
	const said = "away\nb9  settled\tx\x1b]0;owned\a\u009b2J\x7f"
	check := func(where string, print func(io.Writer) error) {
		t.Helper()
		var out strings.Builder
		if err := print(&out); err != nil {
			t.Fatal(err)
		}
		got := strings.TrimSuffix(out.String(), "\n")
		if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) || !strings.Contains(got, "away b9") || !strings.Contains(got, "x?]0;owned??2J?") {
			t.Errorf("%s prints %q", where, got)
		}
	}
	check("a table", func(w io.Writer) error { return printTable(w, [][]string{{said}}) })
	check("a watch", func(w io.Writer) error { (&columns{w: w}).add([]string{said}); return nil })
	check("an error", func(w io.Writer) error { _, err := io.WriteString(w, oneLine(errors.New(said))); return err })
}
