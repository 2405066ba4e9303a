package fabric

import (
	"slices"
	"strings"
	"testing"
)

func TestPCI(t *testing.T) {
	check := func(s string, ok bool) {
		t.Helper()
		p, err := ParsePCI(s)
		if (err == nil) != ok || ok && p.String() != s {
			t.Errorf("ParsePCI(%q) = %v, %v", s, p, err)
		}
	}
	check("0000:03:00.1", true)
	check("10000:e1:1f.7", true)
	for _, s := range []string{"", "0000:03:00", "0000:03:00.8", "0000:03:20.0", "000:03:00.0", "0000:3:00.0", "0000:03:00.10",
		"0000:03:00.0 ", "pci0000:00", "+000:03:00.0", "0000:03:00.-1", "xxxx:03:00.0"} {
		check(s, false)
	}
}

// TestPCIOrder checks that a domain of five digits sorts by value.
func TestPCIOrder(t *testing.T) {
	var got []PCI
	want := []string{"0000:03:00.0", "0000:03:00.1", "0000:5e:00.0", "0001:00:00.0", "10000:00:00.0"}
	for _, s := range slices.Backward(want) {
		p, err := ParsePCI(s)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	slices.SortFunc(got, PCI.Compare)
	for i := range got {
		if got[i].String() != want[i] {
			t.Errorf("place %d is %v, want %s", i, got[i], want[i])
		}
	}
}

func FuzzPCI(f *testing.F) {
	f.Add("0000:03:00.1")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePCI(s)
		if err != nil {
			return
		}
		if again, err := ParsePCI(p.String()); err != nil || again != p {
			t.Errorf("%q: %v becomes %v, %v", s, p, again, err)
		}
	})
}

func TestBitsPerSecond(t *testing.T) {
	for b, want := range map[BitsPerSecond]string{0: "-", 25e9: "25G", 1e8: "100M", 2.5e9: "2500M", 7: "7"} {
		if b.String() != want {
			t.Errorf("%d is written %s, want %s", uint64(b), b, want)
		}
	}
}

// TestWriteTable checks that every port has a line and no cell is empty.
func TestWriteTable(t *testing.T) {
	inv := Inventory{NICs: []NIC{{Name: "nic0", NUMA: -1, PFs: []PF{{Name: "nic0/pf0", VFs: []VF{{Name: "nic0/pf0/vf0"}}}}}}}
	var b strings.Builder
	if err := inv.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), b.String())
	}
	for _, l := range lines {
		if n := len(strings.Fields(l)); n != len(strings.Fields(lines[0])) {
			t.Errorf("%d cells in %q", n, l)
		}
	}
}
