package matcher_test

import (
	"fmt"
	"net/netip"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

// A table of two rules is compiled and asked about a batch of two packets.
func ExampleClassifier_Lookup() {
	var web, ssh flow.Match
	web.SetPorts(flow.DstPort, 80, 443)
	ssh.SetPorts(flow.DstPort, 22, 22)
	table, err := flow.NewTable(flow.TableSpec{Rules: []flow.Rule{
		{ID: 1, Name: "web", Priority: 20, Match: web, Actions: flow.Actions{{Op: flow.Normal}}},
		{ID: 2, Name: "ssh", Priority: 10, Match: ssh, Actions: flow.Actions{{Op: flow.Drop}}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	c := matcher.Compile(table)
	batch := matcher.Batch{Keys: make([]flow.Key, 2), Rules: make([]int32, 2)}
	for i, port := range []uint64{443, 8080} {
		batch.Keys[i].SetDst(netip.MustParseAddr("10.0.0.1"))
		batch.Keys[i].Set(flow.DstPort, port)
	}
	c.Lookup(&batch)
	for i := range batch.Keys {
		fmt.Println(batch.Rule(i).Name)
	}
	// Output:
	// web
	// -
}

// Explain says which bits of a key decided: here, only the port.
func ExampleClassifier_Explain() {
	var high flow.Match
	high.SetPorts(flow.DstPort, 1024, 65535)
	table, err := flow.NewTable(flow.TableSpec{Rules: []flow.Rule{
		{ID: 1, Name: "high", Match: high, Actions: flow.Actions{{Op: flow.Drop}}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	var k flow.Key
	k.Set(flow.DstPort, 80)
	rule, mask := matcher.Compile(table).Explain(k)
	fmt.Printf("%s, dst_port under mask %#04x\n", rule.Name, mask.Get(flow.DstPort))
	// Output: -, dst_port under mask 0xffff
}
