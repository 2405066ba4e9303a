package flowtest_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// TestClassBenchText writes generated rules and traces in the ClassBench format and
// reads them again: the rules are the same, and the packets have the same winners,
// although in that format every packet has ports.
func TestClassBenchText(t *testing.T) {
	for _, f := range flowtest.Families() {
		rules := flowtest.Generate(f, 1000, 1)
		var text bytes.Buffer
		set := &ruleset.Set{Name: "set", UID: "set", Tier: flow.TierTenant, Rules: rules}
		if err := ruleset.Encode(&text, ruleset.ClassBench, []*ruleset.Set{set}, nil); err != nil {
			t.Fatal(f, err)
		}
		sets, err := ruleset.Decode(ruleset.ClassBench, "set", text.Bytes(), nil)
		if err != nil {
			t.Fatal(f, err)
		}
		again := sets[0].Rules
		if !slices.EqualFunc(rules, again, func(a, b flow.Rule) bool { return a.Match == b.Match }) {
			t.Errorf("%s: the rules read are not the rules written", f)
		}

		keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 2000, Mix: 0.1})
		winners := flowtest.Winners(rules, keys)
		text.Reset()
		if err := (&ruleset.Trace{Keys: keys, Expected: winners}).Write(&text); err != nil {
			t.Fatal(f, err)
		}
		trace, err := ruleset.ReadTrace("trace", text.Bytes())
		if err != nil {
			t.Fatal(f, err)
		}
		if !slices.Equal(trace.Expected, winners) || !slices.Equal(flowtest.Winners(again, trace.Keys), winners) {
			t.Errorf("%s: the packets read have other winners than those written", f)
		}
	}
}
