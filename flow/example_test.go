package flow_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

func ExampleParseRule() {
	ports := flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1")
	r, err := flow.ParseRule("name=web,priority=100,in_port=vf0,ip_proto=tcp,dst_port=80-443 actions=mirror:vf1,normal", ports)
	fmt.Println(flow.FormatRule(&r, ports), err)
	_, err = flow.ParseRule("name=web,dst_prot=80 actions=normal", ports)
	fmt.Println(err)
	// Output:
	// name=web,priority=100,in_port=nic0/pf0/vf0,ip_proto=tcp,dst_port=80-443 actions=mirror:nic0/pf0/vf1,normal <nil>
	// field dst_prot: there is no such field: did you mean dst_port?
}

func ExampleFormatMatch() {
	var m flow.Match
	m.SetPorts(flow.DstPort, 80, 443)
	fmt.Println(flow.FormatMatch(&m, nil)) // not what dst_port=80-443 means
	m.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	fmt.Println(flow.FormatMatch(&m, nil))
	// Output:
	// bare,dst_port=80-443
	// dst_port=80-443
}

func ExampleJudge() {
	ports := flow.NewPorts("uplink", "vf0", "vf1")
	rule, err := flow.ParseRule("name=tag,in_port=vf0,eth_type=arp actions=mirror:vf1,vlan_push:5,output:uplink", ports)
	if err != nil {
		fmt.Println(err)
	}
	table, err := flow.NewTable(flow.TableSpec{Rules: []flow.Rule{rule}, Ports: ports})
	if err != nil {
		fmt.Println(err)
	}
	frame, in, err := flow.ParsePacket("in_port=vf0,eth_type=arp", ports)
	if err != nil {
		fmt.Println(err)
	}
	for _, e := range flow.Judge(table, frame, in) {
		fmt.Printf("%s %x\n", ports.Name(e.Port), e.Bytes[12:])
	}
	// Output:
	// vf1 0806
	// uplink 810000050806
}

// TestSemanticsDocument reads every rule and packet of docs/semantics.md.
func TestSemanticsDocument(t *testing.T) {
	file, err := os.Open("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ports := flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1")
	fence, n := "", 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		var err error
		switch {
		case strings.HasPrefix(line, "```"):
			fence = strings.TrimPrefix(line, "```")
			continue
		case fence == "rules":
			_, err = flow.ParseRule(line, ports)
		case fence == "packets":
			_, _, err = flow.ParsePacket(line, ports)
		default:
			continue
		}
		if n++; err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if n < 10 {
		t.Errorf("only %d rules and packets found", n)
	}
}
