package flow

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// A blade for the tests: the uplink is port 1, vf0 … vf2 are ports 2 … 4. vf0 and
// vf1 are in no VLAN, vf1 and vf2 in VLAN 5.
const (
	macVF0 = 0x020000000002
	macVF1 = 0x020000000003
	macVF2 = 0x020000000004
)

func testSwitch(t *testing.T) *Switch {
	t.Helper()
	sw, err := NewSwitch(1, Station{0, macVF0, 2}, Station{0, macVF1, 3}, Station{5, macVF1, 3}, Station{5, macVF2, 4})
	if err != nil {
		t.Fatal(err)
	}
	return sw
}

// frameTo writes a frame to a station: `tag` is bytes between source and eth_type.
func frameTo(dst uint64, tags ...string) []byte {
	s := strings.ReplaceAll(FormatMAC(dst), ":", "") + "020000000009" + strings.Join(tags, "") + "0806" + "cafe"
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

const (
	tag5     = "81000005"
	tag5Prio = "81006005" // priority 3
	tag5DEI  = "81001005" // the drop-eligible bit, which a Key does not show
	tag7     = "81000007"
	tag9QinQ = "88a80009"
)

// TestAct is what the actions mean, case by case.
func TestAct(t *testing.T) {
	sw := testSwitch(t)
	check := func(name, actions string, frame []byte, in Port, want ...Emission) {
		t.Helper()
		list, err := ParseActions(actions, NewPorts("uplink0", "vf0", "vf1", "vf2"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		before := bytes.Clone(frame)
		got := Act(list, sw, 7, frame, in)
		if !bytes.Equal(before, frame) {
			t.Errorf("%s: the frame was changed", name)
		}
		same := len(got) == len(want)
		for i := 0; same && i < len(got); i++ {
			same = got[i].Port == want[i].Port && got[i].Kernel == want[i].Kernel && bytes.Equal(got[i].Bytes, want[i].Bytes) && got[i].Rule == 7
		}
		if !same {
			t.Errorf("%s: %s on %x from %d:\n got %s\nwant %s", name, actions, frame, in, show(got), show(want))
		}
	}
	to := func(p Port, frame []byte) Emission { return Emission{Port: p, Bytes: frame} }
	plain, bcast := frameTo(macVF1), frameTo(0xffffffffffff)

	check("drop", "drop", plain, 2)
	check("pass", "pass", plain, 2, Emission{Port: 2, Kernel: true, Bytes: plain})
	check("output", "output:vf2", plain, 2, to(4, plain))
	check("output in order, twice the same", "output(vf2,uplink0,vf2)", plain, 2, to(4, plain), to(1, plain), to(4, plain))
	check("output back", "output:vf0", plain, 2, to(2, plain))
	check("mirror, then more", "mirror(vf2,vf2),output:vf1", plain, 2, to(4, plain), to(4, plain), to(3, plain))
	check("mirror back, then drop", "mirror:vf0,drop", plain, 2, to(2, plain))

	check("normal, known", "normal", plain, 2, to(3, plain))
	check("normal, known, from the uplink", "normal", plain, 1, to(3, plain))
	check("normal, known, on the port it came from", "normal", plain, 3)
	check("normal, known in another VLAN only", "normal", frameTo(macVF0, tag5), 4, to(1, frameTo(macVF0, tag5)))
	check("normal, in its VLAN", "normal", frameTo(macVF2, tag5), 3, to(4, frameTo(macVF2, tag5)))
	check("normal, VLAN 0 is untagged", "normal", frameTo(macVF0, "81006000"), 3, to(2, frameTo(macVF0, "81006000")))
	check("normal, the outer tag counts", "normal", frameTo(macVF2, tag5, tag7), 3, to(4, frameTo(macVF2, tag5, tag7)))
	check("normal, unknown", "normal", frameTo(0x020000000077), 2, to(1, frameTo(0x020000000077)))
	check("normal, unknown, from the uplink", "normal", frameTo(0x020000000077), 1)
	check("normal, broadcast", "normal", bcast, 2, to(3, bcast), to(1, bcast))
	check("normal, broadcast from the uplink", "normal", bcast, 1, to(2, bcast), to(3, bcast))
	check("normal, broadcast in a VLAN", "normal", frameTo(0xffffffffffff, tag5), 4, to(3, frameTo(0xffffffffffff, tag5)), to(1, frameTo(0xffffffffffff, tag5)))
	check("normal, multicast in a VLAN of nobody", "normal", frameTo(0x01005e000001, tag7), 4, to(1, frameTo(0x01005e000001, tag7)))

	check("push", "vlan_push(id=5),output:vf2", plain, 2, to(4, frameTo(macVF1, tag5)))
	check("push with priority and protocol", "vlan_push(id=9,prio=0,proto=0x88a8),output:vf2", frameTo(macVF1, tag5), 2, to(4, frameTo(macVF1, tag9QinQ, tag5)))
	check("push on two tags drops", "vlan_push:5,output:vf2", frameTo(macVF1, tag5, tag7), 2)
	check("push on two tags, copies stay", "mirror:vf2,vlan_push:5,output:vf1", frameTo(macVF1, tag5, tag7), 2, to(4, frameTo(macVF1, tag5, tag7)))
	check("push twice", "vlan_push:7,vlan_push:5,output:vf2", plain, 2, to(4, frameTo(macVF1, tag5, tag7)))
	check("push thrice drops", "vlan_push:7,vlan_push:5,vlan_push:5,output:vf2", plain, 2)
	check("push, then normal in the new VLAN", "vlan_push:5,normal", frameTo(macVF2), 2, to(4, frameTo(macVF2, tag5)))
	check("pop", "vlan_pop,output:vf2", frameTo(macVF1, tag5Prio), 2, to(4, plain))
	check("pop of two", "vlan_pop,output:vf2", frameTo(macVF1, tag9QinQ, tag5), 2, to(4, frameTo(macVF1, tag5)))
	check("pop of none", "vlan_pop,output:vf2", plain, 2, to(4, plain))
	check("pop of three", "vlan_pop,output:vf2", frameTo(macVF1, tag5, tag5, tag5), 2, to(4, frameTo(macVF1, tag5, tag5)))
	check("pop, then normal in no VLAN", "vlan_pop,normal", frameTo(macVF0, tag5), 4, to(2, frameTo(macVF0)))
	check("pop of half a tag", "vlan_pop,output:vf2", append(plain[:12:12], 0x81, 0, 0, 5), 2, to(4, append(plain[:12:12], 0x81, 0, 0, 5)))
	check("set keeps priority", "vlan_set:7,output:vf2", frameTo(macVF1, tag5Prio), 2, to(4, frameTo(macVF1, "81006007")))
	check("set keeps the drop-eligible bit and the protocol", "vlan_set:5,output:vf2", frameTo(macVF1, "88a81007"), 2, to(4, frameTo(macVF1, "88a81005")))
	check("set of the outer tag only", "vlan_set:7,output:vf2", frameTo(macVF1, tag5DEI, tag5), 2, to(4, frameTo(macVF1, "81001007", tag5)))
	check("set of none", "vlan_set:7,output:vf2", plain, 2, to(4, plain))
	check("mirror, then edits: the copy is as it was", "mirror:vf1,vlan_push:5,output:vf2", plain, 2, to(3, plain), to(4, frameTo(macVF1, tag5)))
	check("edits, then mirror: the copy is as it is", "vlan_push:5,mirror:vf1,vlan_pop,output:vf2", plain, 2, to(3, frameTo(macVF1, tag5)), to(4, plain))
}

func show(es []Emission) string {
	var out []string
	for _, e := range es {
		out = append(out, fmt.Sprintf("%d kernel=%v %x", e.Port, e.Kernel, e.Bytes))
	}
	return strings.Join(out, "; ")
}

func TestJudge(t *testing.T) {
	m, _ := ParseMatch("eth_type=arp", nil)
	table, err := NewTable(TableSpec{Default: Actions{{Op: Pass}}, Switch: testSwitch(t),
		Rules: []Rule{{ID: 9, Name: "arp", Match: m, Actions: Actions{{Op: Output, Ports: []Port{4}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	arp := frameTo(macVF0)
	if got := Judge(table, arp, 2); len(got) != 1 || got[0].Port != 4 || got[0].Rule != 9 {
		t.Errorf("arp: %s", show(got))
	}
	other := append(bytes.Clone(arp[:12]), 0x88, 0xcc)
	if got := Judge(table, other, 2); len(got) != 1 || !got[0].Kernel || got[0].Port != 2 || got[0].Rule != DefaultRule {
		t.Errorf("default: %s", show(got))
	}
	if got := Judge(table, arp[:13], 2); got != nil {
		t.Errorf("short frame: %s", show(got))
	}
}

func TestSameEmissions(t *testing.T) {
	a, b := Emission{Port: 1, Bytes: []byte{1}, Rule: 1}, Emission{Port: 2, Bytes: []byte{1}, Rule: 2}
	kernel := Emission{Port: 1, Kernel: true, Bytes: []byte{1}}
	check := func(want bool, x, y []Emission) {
		t.Helper()
		if SameEmissions(x, y) != want {
			t.Errorf("%s and %s: not %v", show(x), show(y), want)
		}
	}
	check(true, nil, []Emission{})
	check(true, []Emission{a, b}, []Emission{b, a})
	check(true, []Emission{a}, []Emission{{Port: 1, Bytes: []byte{1}, Rule: 5}})
	check(false, []Emission{a}, []Emission{a, a})
	check(false, []Emission{a, a, b}, []Emission{a, b, b})
	check(false, []Emission{a}, []Emission{kernel})
	check(true, []Emission{kernel, a}, []Emission{a, kernel})
	check(false, []Emission{a}, []Emission{{Port: 1, Bytes: []byte{2}}})
}

func TestNewSwitchRefused(t *testing.T) {
	check := func(code string, stations ...Station) {
		t.Helper()
		_, err := NewSwitch(1, stations...)
		refused(t, fmt.Sprint(stations), err, code, 0)
	}
	check("E_STATION_TWICE", Station{0, macVF0, 2}, Station{0, macVF0, 3})
	check("E_STATION", Station{0, macVF0, 0})
	check("E_STATION", Station{4096, macVF0, 2})
	check("E_STATION", Station{0, 0x01005e000001, 2})
	check("E_STATION", Station{0, 1 << 48, 2})
	if _, err := NewSwitch(1, Station{0, macVF0, 2}, Station{0, macVF0, 2}, Station{5, macVF0, 3}); err != nil {
		t.Error(err)
	}
}
