package main

import (
	"strings"
	"testing"
)

// TestCount checks how numbers of things are written.
func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"0 rules": count(0, "rule"), "1 rule": count(1, "rule"), "2 rules": count(2, "rule"),
		"1 entry": count(1, "entry"), "2 entries": count(2, "entry"), "2 keys": count(2, "key"),
		"-": bitRate(0), "25G": bitRate(25e9), "2500M": bitRate(2_500_000_000), "1001": bitRate(1001), "1T": bitRate(1e12),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestColumns: rows that come one by one stay in columns, which only ever get wider.
func TestColumns(t *testing.T) {
	var out strings.Builder
	c := columns{w: &out, head: []string{"NAME", "VLAN"}}
	for _, row := range [][]string{{"a", "1"}, {"a-long-name", "2"}, {"b", "deleted"}} {
		c.add(row)
	}
	want := "NAME      VLAN\na         1\na-long-name  2\nb            deleted\n"
	if out.String() != want {
		t.Errorf("got\n%s, want\n%s", out.String(), want)
	}
}
