package hwtests

import (
	"errors"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// TestOrder checks the check: a move as it should be, and each thing that may be wrong
// with one.
func TestOrder(t *testing.T) {
	ports := flow.NewPorts("uplink", "vf0")
	delivers := func(to flow.Port) *flow.Table {
		sw, err := flow.NewSwitch(1, flow.Station{MAC: webMAC, Port: to})
		if err != nil {
			t.Fatal(err)
		}
		table, err := flow.NewTable(flow.TableSpec{Ports: ports, Switch: sw, Default: flow.Actions{{Op: flow.Normal}}})
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	k, err := flow.ParseKey("in_port=uplink,src_mac=02:00:00:00:bb:01,dst_mac="+flow.FormatMAC(webMAC)+",ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.9.0.2,dst_port=80", ports)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string, change func(silent, on *Told, first *int64)) {
		t.Helper()
		silent := Told{Before: 10, After: 20}
		on := Told{Setting: fabric.Setting{MAC: webMAC, Traffic: true}, Before: 30, After: 40, Table: delivers(2)}
		first := int64(35)
		change(&silent, &on, &first)
		wrong := strings.Join(order(&silent, &on, webMAC, stampable(k), 2, first), "; ")
		if want == "" && wrong != "" || !strings.Contains(wrong, want) {
			t.Errorf("found %q, want %q", wrong, want)
		}
	}
	check("", func(*Told, *Told, *int64) {})
	check("before the old one was silent", func(silent, _ *Told, _ *int64) { silent.After = 31 })
	check("is not proved", func(_, on *Told, _ *int64) { on.Proved = errors.New("a packet differs") })
	check("does not deliver", func(_, on *Told, _ *int64) { on.Table = delivers(1) })
	check("before its link went on", func(_, _ *Told, first *int64) { *first = 29 })
	check("was told", func(silent, _ *Told, _ *int64) { silent.Setting.Traffic = true })
	check("was told", func(_, on *Told, _ *int64) { on.Setting.Traffic = false })
	check("was told", func(_, on *Told, _ *int64) { on.Setting.MAC++ })
	if wrong := order(nil, nil, webMAC, nil, 2, 0); len(wrong) != 1 {
		t.Errorf("nothing was told to any VF, and found is %q", wrong)
	}
}
