package hwtests

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// needs skips a test where a lab with this source of frames cannot work, or fails it
// where BLADEFLOW_MUST says that it can.
func needs(t *testing.T, source string) {
	t.Helper()
	r := lab.Doctor(t.Context())
	features := []string{lab.FeatureVeth, lab.FeatureXDP}
	if source != "afpacket" {
		features = append(features, lab.FeatureAFXDP)
	}
	for _, f := range features {
		must.Have(t, f, r.Err(f))
	}
}

// seed is new in every run and printed, so that a failure can be repeated.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	t.Logf("seed %d", s)
	return s
}

func show(t *testing.T, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", b)
}

// TestDemo holds the demo against what it promises, with both sources of frames.
func TestDemo(t *testing.T) {
	for _, source := range []string{"afxdp", "afpacket"} {
		t.Run(source, func(t *testing.T) {
			needs(t, source)
			r, err := Demo(t.Context(), DemoConfig{Duration: 2 * time.Second, Rate: 10_000, Source: source, Seed: seed(t), Say: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() || r.Packets.Hardware+r.Packets.Software != r.Packets.Sent {
				t.Errorf("not right: %+v", r)
			}
			if r.Packets.Hardware*5 < r.Packets.Sent || r.Packets.Software*5 < r.Packets.Sent {
				t.Errorf("hardware or software answers less than 20 %%: %+v", r.Packets)
			}
			model := []string{"drop", "mirror", "normal", "output", "vlan_pop", "vlan_push", "vlan_set"}
			all := []string{"drop", "mirror", "normal", "output", "pass", "vlan_pop", "vlan_push", "vlan_set"}
			if !slices.Equal(r.Actions.Hardware, model) || !slices.Equal(r.Actions.Software, all) {
				t.Errorf("actions in hardware %v, in software %v", r.Actions.Hardware, r.Actions.Software)
			}
			if len(r.Healed) != 1 {
				t.Errorf("healed %v", r.Healed)
			}
			if f := r.Fabric; len(f.Inventory) != 2 || f.Inventory[0].Used+f.Inventory[1].Used != 7 || f.Create.Blade != f.Revert.To || len(f.Capacity) < 4 {
				t.Errorf("fabric %+v", f)
			}
		})
	}
}

// TestLyingCard has cards that ignore one bit of their masks, while their dump shows
// it: the proof holds, and only packets can tell.
func TestLyingCard(t *testing.T) {
	t.Parallel() // beside TestCutOff, which mostly waits
	needs(t, "afxdp")
	for name, bit := range map[string]struct {
		f flow.Field
		b int
	}{"dst_port": {flow.DstPort, 2}, "dst_mac": {flow.DstMAC, 3}, "in_port": {flow.InPort, 1}, "vlan": {flow.VLAN, 4}} {
		t.Run(name, func(t *testing.T) {
			var blind flow.Key
			blind.Set(bit.f, 1<<bit.b)
			r, err := Demo(t.Context(), DemoConfig{Duration: time.Second, Seed: seed(t), Blind: blind})
			if err != nil {
				t.Fatal(err)
			}
			if r.Mismatches == 0 {
				t.Error("nothing was noticed")
			}
		})
	}
}

// TestConserve sends a million packets through a card and software and counts them.
func TestConserve(t *testing.T) {
	needs(t, "afxdp")
	packets := 1_000_000
	if testing.Short() {
		packets = 50_000
	}
	r, err := Conserve(t.Context(), ConserveConfig{Packets: packets, Rate: 60_000, Rules: 60, Entries: 48, Seed: seed(t), Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	if r.Mismatches > 0 || r.Packets.Sent != uint64(packets) || r.Packets.Hardware+r.Packets.Software != r.Packets.Sent {
		t.Error("packets are not conserved")
	}
	if r.Packets.Hardware == 0 || r.Packets.Software == 0 {
		t.Error("only one place answered")
	}
}

// TestChanges changes a table under traffic. BLADEFLOW_POLICY says how often.
func TestChanges(t *testing.T) {
	needs(t, "afxdp")
	changes, rate, long := 20, 40_000, os.Getenv("BLADEFLOW_POLICY") != ""
	if testing.Short() {
		changes = 10
	}
	if long {
		rate = 260_000
	}
	began, load, seed := time.Now(), machine().Load, flowtest.Seed(t)
	r, err := Changes(t.Context(), ChangesConfig{Changes: flowtest.Count(t, "BLADEFLOW_POLICY", changes), Rate: rate, Rules: 40, Entries: 256, Seed: seed, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	if r.Neither > 0 || r.Back > 0 {
		t.Errorf("%d packets were judged by no single table, %d by an older one than a packet before them in their queue: %q", r.Neither, r.Back, r.Different)
	}
	if least := 100 * changes; r.Differ < least {
		t.Errorf("only %d packets tell old from new, want %d", r.Differ, least)
	}
	if long {
		flowtest.Record(t, "policy", seed, began, map[string]any{"LoadAtBegin": load, "Found": r})
	}
}
