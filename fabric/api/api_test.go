package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

var update = flag.Bool("update", false, "write golden files anew")

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func sample() map[string]any {
	vf := VFID{PCI: "0000:03:00.0", Serial: "MT1", Index: 1}
	set := Setting{MAC: "02:00:00:00:00:01", VLAN: 10, Guaranteed: 1e9, Maximum: 5e9, Trust: true}
	named := func(kind, name string) Head {
		h := NewHead(kind, name)
		h.Metadata.Revision = 7
		return h
	}
	usable, before, after := int64(8), int64(8), int64(7)
	effect := Effect{Left: []Left{{"slots", "VFs", &usable, &before, &after}, {Dimension: "software", Unit: "packets/s"}}, Binds: "slots", Text: "VF slots 7 of 8"}
	return map[string]any{
		"generation": &Generation{Head: named(KindGeneration, "b1"), Spec: GenerationSpec{Number: 3, Digest: "ab12", Revision: 7, Made: at,
			Uplink: "nic0/pf0", Default: "drop", Stations: []Station{{10, "02:00:00:00:00:01", "nic0/pf0/vf1"}},
			VNICs: []Order{{Profile: "web", VNIC: "eth0", Port: "nic0/pf0/vf1", VFID: vf, Setting: set, Connect: true}}, Leaving: []Answer{{vf, "02:00:00:00:00:02", 10}},
			Shards: []string{"cd34"}, Rules: 1}},
		"shard": &Shard{Rules: []TableRule{{ID: "00000000000000ff", Name: "web/allow@web", Tier: "tenant", Priority: 100, Match: "ip_proto=tcp,dst_port=80", Actions: "normal"}}},
		"bladestatus": &BladeStatus{Head: NewHead(KindBladeStatus, "b1"), Status: GenerationStatus{Record: 41, Generation: 3, Digest: "ab12", Since: at, Proved: true,
			VFs: []VFState{{vf, set, true, true}},
			Devices: []Device{{Name: "nic0", Model: "softnic", PFs: []string{"nic0/pf0"}, Entries: 4, Limit: 64, Foreign: 1, Guards: 1, Masks: 2, MaskLimit: 16,
				Strange: []Entry{{ID: "0000000000000001", Class: "foreign", Kind: "rule", Priority: 7, Match: "eth_type=0x88cc", Actions: "drop"}}}},
			Links:  []Link{{Port: "nic0/pf0", Netdev: "rep0", Mode: "afxdp", Since: at, Reason: "its netdev is not there"}},
			Events: []BladeEvent{{at, "E_ENTRY_FOREIGN", "nic0", "0000000000000001"}},
			Error:  &Error{"E_DRIVER", "device nic0", "it does not answer", "see its log"}}},
		"alive": &Alive{Head: NewHead(KindAlive, "b1"), Status: AliveStatus{Version: "v0.1.0", Since: at}},
		"rules": &Rules{Head: NewHead(KindRules, "b1"), Status: RulesStatus{Generation: 3, At: at, Hardware: 1, Packets: []TierPackets{{"hardware", "normal", 5}},
			Rules: []RuleState{{Name: "web/allow@web", ID: "00000000000000ff", Place: "hardware", Entries: 1, Hardware: Count{5, 500}}}}},
		"busy": &Busy{Head: NewHead(KindBusy, "b1/web/allow@web"), Status: BusyStatus{Blade: "b1", Readings: map[string]Reading{FromRules: {State: ReadingMeasured, At: at, Seconds: 1.5}},
			Figures: map[string]float64{"packets": 12.5, "total": 500}, Words: map[string]string{"place": "hardware"}}},
		"policy": &PolicyView{Head: NewHead(KindPolicy, "b1"), Status: PolicyStatus{State: "pending", Digest: "ab12", Default: "drop", Total: 1,
			Sets:  []PolicySet{{Tier: "tenant", Name: "web", Rules: 1, Highest: 100, Lowest: 100, Default: true, Profiles: []string{"web"}, Unreported: 1}},
			Rules: []PolicyRule{{Name: "web/allow@web", ID: "00000000000000ff", Tier: "tenant", Priority: 100, Match: "ip_proto=tcp,dst_port=80", Actions: "normal", Place: Unreported}}}},
		"ports":   &Ports{Head: NewHead(KindPorts, "b1"), Status: PortsStatus{At: at, Ports: []PortCount{{"nic0/pf0", Count{5, 500}, Count{6, 600}}}}},
		"chassis": &Chassis{Head: named(KindChassis, "c1"), Spec: ChassisSpec{Slots: 16}, Status: &ChassisStatus{Blades: []string{"b1"}}},
		"blade": &Blade{Head: named(KindBlade, "b1"), Spec: BladeSpec{Chassis: "c1", Slot: 1}, Status: &BladeView{State: "settled", Wanted: 3, Running: 3, Digest: "ab12",
			Proved: true, VFs: 8, Used: 1, Rules: &RuleTile{Hardware: 1}}},
		"network": &Network{Head: named(KindNetwork, "front"), Spec: NetworkSpec{VLAN: 10}},
		"ruleset": &RuleSet{Head: named(KindRuleSet, "web"), Spec: RuleSetSpec{Tier: "tenant", Default: "drop",
			Rules: []Rule{{Name: "in", Priority: 10, Match: map[string]any{"dst_port": "80"}, Actions: []any{"normal"}}}}},
		"profile": &Profile{Head: named(KindProfile, "web"), Spec: ProfileSpec{VNICs: []VNICSpec{{Name: "eth0", MAC: "02:00:00:00:00:01", Network: "front", QoS: &QoS{"1G", "5G"}}},
			RuleSets: []string{"web"}, Where: &Pool{Blades: []string{"b1"}}}, Status: &ProfileStatus{State: "active", Blade: "b1", VNICs: []VNICPlace{{"eth0", "nic0/pf0/vf1", vf, true}}}},
		"assignment": &Assignment{Head: named(KindAssignment, "web"), Spec: AssignmentSpec{Blade: "b1", VNICs: []Placed{{"eth0", vf}}}},
		"snapshot":   &Snapshot{Head: named(KindSnapshot, "before"), Spec: SnapshotSpec{Revision: 7, Note: "before the move", Made: at}},
		"history": &History{Head: named("History", "7"), Spec: HistorySpec{EventSpec: EventSpec{At: at, Who: "ann", Role: "admin", From: "10.0.0.1", Verb: "apply",
			Changes: []Touched{{KindNetwork, "default", "front", "created"}, {KindNetwork, "default", "back", "deleted"}}}, Before: []json.RawMessage{json.RawMessage("null"), json.RawMessage("{}")}}},
		"preview": &Preview{Revision: 7, DryRun: true, Changes: []Touched{{KindProfile, "default", "web", "created"}}, Steps: []Step{{"b1", "prove", "prove b1 ab12"}},
			Held: []Held{{"b2", "web/eth0", Error{"E_BLADE_SILENT", "blade b2", "its agent does not report any more", ""}}}, Capacity: []CapacityOf{{"b1", Free{8, "-", 0}, Free{7, "1G", 1}, effect}}, Fleet: &effect},
		"inventory": &Inventory{Head: NewHead(KindInventory, "b1"), Status: InventoryStatus{Findings: []Finding{},
			NICs: []NIC{{Name: "nic0", Slot: "0000:03:00", Serial: "MT1", Vendor: "0x15b3", Device: "0x1017", PFs: []PF{{Name: "nic0/pf0", PCI: "0000:03:00.0",
				TotalVFs: 8, NumVFs: 1, ESwitch: "switchdev", Netdev: &Netdev{Name: "eth0", BitsPerSecond: 25e9, Link: "up"},
				VFs: []VF{{Name: "nic0/pf0/vf0", PCI: "0000:03:00.2", Representor: &Netdev{Name: "eth1"}}}}}}}}},
	}
}

// TestGolden: every kind looks as it always did, and is read strictly as it is
// written.
func TestGolden(t *testing.T) {
	for name, v := range sample() {
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		again := newOf(v)
		if err := Decode(want, again); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("%s: -written +read\n%s", name, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	const head = `{"apiVersion":"bladeflow/v1","kind":"Generation","metadata":{"name":"b1"}`
	for _, c := range []struct{ text, code, what string }{
		{head + `,"spec":{"vnics":[{"profile":"p","macc":"x"}]}}`, "E_FIELD_UNKNOWN", "field spec.vnics[0].macc"},
		{head + `,"Spec":{}}`, "E_FIELD_UNKNOWN", "field Spec"},
		{head + `,"spec":{"rules":1,"rules":2}}`, "E_FIELD_TWICE", "field spec.rules"},
		{head + `,"spec":{"rules":"one"}}`, "E_TYPE", "field spec.rules"},
		{head + `,"spec":{"number":-1}}`, "E_TYPE", "field spec.number"},
		{head + `} {}`, "E_JSON", "document"},
		{head, "E_JSON", "document"},
		{``, "E_JSON", "document"},
		{`[]`, "E_TYPE", "field "},
	} {
		var g Generation
		err := Decode([]byte(c.text), &g)
		f, ok := errors.AsType[*flow.Fault](err)
		if !ok || f.Code != c.code || f.What != c.what {
			t.Errorf("%s: %v, want %s of %s", c.text, err, c.code, c.what)
		}
	}
	var g Generation
	if err := Decode([]byte(head+`,"spec":{"vnics":[{"mca":"x"}]}}`), &g); err == nil || !bytes.Contains([]byte(err.Error()), []byte("did you mean mac?")) {
		t.Errorf("got %v", err)
	}
	if err := Decode([]byte(`{"apiVersion":"bladeflow/v1","metadata":{"labels":{"any":"thing"}}}`), &g); err != nil {
		t.Error(err)
	}
}

// FuzzDecode: what is read can be written and read again, to the same.
func FuzzDecode(f *testing.F) {
	for _, v := range sample() {
		text, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var g, again Generation
		if Decode(text, &g) != nil {
			return
		}
		out, err := json.Marshal(g)
		if err != nil {
			return // a time that JSON cannot say
		}
		if err := Decode(out, &again); err != nil {
			t.Errorf("%s: %v", out, err)
		}
	})
}

// newOf returns a pointer to a new zero value of what v points to.
func newOf(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }
