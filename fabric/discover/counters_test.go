package discover

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// TestCounters: a VF counts on its representor, the other way round; what cannot be read
// is left out.
func TestCounters(t *testing.T) {
	root := unpack(t, "mlx5_switchdev")
	inv, _, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	if got := Counters(root, inv); len(got) != 0 {
		t.Errorf("a tree without counters has %v", got)
	}
	write := func(netdev string, from int, text string) {
		t.Helper()
		dir := filepath.Join(root, netDir, netdev, "statistics")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"rx_packets", "rx_bytes", "tx_packets", "tx_bytes"} {
			if text == "" {
				text = "%d\n"
			}
			if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, text, from+i), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("enp3s0f0np0", 10, "")
	write("enp3s0f0npf0vf1", 20, "")
	write("enp3s0f0npf0vf2", 30, "many %d\n")
	want := []Counter{
		{"nic0/pf0", false, flow.Counter{Packets: 10, Bytes: 11}, flow.Counter{Packets: 12, Bytes: 13}},
		{"nic0/pf0/vf1", true, flow.Counter{Packets: 22, Bytes: 23}, flow.Counter{Packets: 20, Bytes: 21}},
		{Port: "nic0/pf0/vf2", VF: true},
	}
	if diff := cmp.Diff(want, Counters(root, inv)); diff != "" {
		t.Error(diff)
	}
	if got := Counters(filepath.Join(root, "none"), inv); got != nil {
		t.Errorf("no tree has %v", got)
	}
}
