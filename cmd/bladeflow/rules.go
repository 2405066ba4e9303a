package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

func rulesCommand() *cobra.Command {
	return group("rules", "check, convert and generate files of rules", `  bladeflow rules check web.yaml
  bladeflow rules generate --family acl --count 1000 >acl.yaml`, rulesCheck(), rulesConvert(), rulesGenerate())
}

func rulesCheck() *cobra.Command {
	var in rulesInput
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "check that files of rules make one table: form, values, ties",
		Example: `  bladeflow rules check web.yaml db.yaml
  bladeflow rules check --from classbench acl.rules`,
		Args: needs("bladeflow rules check web.yaml", "FILE..."),
	}
	in.formatFlag(cmd)
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		in.files = files
		t, err := in.table(cmd, flow.OpenPorts())
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), map[string]any{"rules": t.Len(), "ports": t.Ports().Names(), "ok": true})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s, %s\n", count(t.Len(), "rule"), count(t.Ports().Len(), "port"))
		return err
	}
	return cmd
}

func rulesConvert() *cobra.Command {
	var in rulesInput
	var to string
	cmd := &cobra.Command{
		Use:     "convert FILE...",
		Short:   "write rules in another form",
		Example: "  bladeflow rules convert --from ovs --to yaml dump.txt",
		Args:    needs("bladeflow rules convert --from ovs --to yaml dump.txt", "FILE..."),
	}
	in.formatFlag(cmd)
	formatFlag(cmd, &to, "to", "form to write")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		ports := flow.OpenPorts()
		sets, err := in.sets(cmd, files, ports)
		if err != nil {
			return err
		}
		return writeSets(cmd, to, sets, ports)
	}
	return cmd
}

// writeSets writes all of it or nothing: not every form can say every rule.
func writeSets(cmd *cobra.Command, to string, sets []*ruleset.Set, ports *flow.Ports) error {
	doing(cmd, "writing rules")
	var b bytes.Buffer
	if err := ruleset.Encode(&b, ruleset.Format(to), sets, ports); err != nil {
		return err
	}
	_, err := b.WriteTo(cmd.OutOrStdout())
	return err
}

func rulesGenerate() *cobra.Command {
	var family, to string
	var count, trace int
	var seed uint64
	var zipf, mix float64
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "generate ClassBench-like rules, or a trace of packets for them",
		Long: `Generate rules of a family, the same ones for the same seed. With --trace, print a trace
of packets for those rules instead: a line a packet, the last column the rule that wins.`,
		Example: `  bladeflow rules generate --family acl --count 1000 --seed 7 --to classbench >acl.rules
  bladeflow rules generate --family acl --count 1000 --seed 7 --trace 100000 --zipf 1.1 >acl.trace`,
	}
	f := cmd.Flags()
	var families []string
	for _, fam := range flowtest.Families() {
		families = append(families, fam.String())
	}
	choiceFlag(cmd, &family, "family", "", "acl", "kind of rules", families...)
	formatFlag(cmd, &to, "to", "form to write")
	f.IntVar(&count, "count", 1000, "how many rules")
	f.Uint64Var(&seed, "seed", 1, "seed")
	f.IntVar(&trace, "trace", 0, "print a trace of so many packets instead of the rules")
	f.Float64Var(&zipf, "zipf", 0, "skew of the trace over rules; 0 is uniform")
	f.Float64Var(&mix, "mix", 0, "percent of the trace's packets that only the last rule matches")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case count < 1 || count > 1_000_000:
			return usage(fmt.Sprintf("--count %d", count), "out of range", "use 1 to 1000000")
		case trace < 0 || trace > 100_000_000:
			return usage(fmt.Sprintf("--trace %d", trace), "out of range", "use 1 to 100000000")
		case !(zipf >= 0 && zipf <= 10): // written so that NaN is refused too
			return usage(fmt.Sprintf("--zipf %g", zipf), "out of range", "use 0 (uniform) to 10")
		case !(mix >= 0 && mix <= 100):
			return usage(fmt.Sprintf("--mix %g", mix), "out of range", "use 0 to 100 percent")
		}
		fam, err := flowtest.ParseFamily(family)
		if err != nil {
			return err
		}
		doing(cmd, "generating %d rules", count)
		rules := flowtest.Generate(fam, count, seed)
		if trace > 0 {
			return writeTrace(cmd, rules, flowtest.Traffic{Packets: trace, Seed: seed, Zipf: zipf, Mix: mix / 100})
		}
		for i := range rules {
			rules[i].Name = fmt.Sprintf("r%d", i)
		}
		set, err := ruleset.New(fmt.Sprintf("%s-%d-%d", fam, count, seed), flow.TierTenant, flow.Actions{{Op: flow.Drop}}, rules)
		if err != nil {
			return err
		}
		return writeSets(cmd, to, []*ruleset.Set{set}, flow.OpenPorts())
	}
	return cmd
}

// writeTrace writes packets and who wins them. A trace has five columns and no flags:
// whoever reads it counts every packet as one with ports, and so the winners do.
func writeTrace(cmd *cobra.Command, rules []flow.Rule, traffic flowtest.Traffic) error {
	doing(cmd, "generating %d packets", traffic.Packets)
	t := ruleset.Trace{Keys: flowtest.Trace(rules, traffic)}
	for i := range t.Keys {
		t.Keys[i].Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	}
	doing(cmd, "looking up %d packets", traffic.Packets)
	t.Expected = flowtest.Winners(rules, t.Keys)
	return t.Write(cmd.OutOrStdout())
}
