package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "check, convert and generate files of rules"}
	cmd.AddCommand(rulesCheck(), rulesConvert(), rulesGenerate())
	return cmd
}

func rulesCheck() *cobra.Command {
	var in rulesInput
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "check that files of rules make one table: form, values, ties",
		Example: `  bladeflow rules check web.yaml db.yaml
  bladeflow rules check --from classbench acl.rules`,
		Args: cobra.MinimumNArgs(1),
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
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %d rules, %d ports\n", t.Len(), t.Ports().Len())
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
		Args:    cobra.MinimumNArgs(1),
	}
	in.formatFlag(cmd)
	cmd.Flags().StringVar(&to, "to", "yaml", "form to write: yaml, json, flows, classbench or ovs")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		form, err := ruleset.ParseFormat(to)
		if err != nil {
			return usage(cmd, err)
		}
		ports := flow.OpenPorts()
		sets, err := in.sets(cmd, files, ports)
		if err != nil {
			return err
		}
		return ruleset.Encode(cmd.OutOrStdout(), form, sets, ports)
	}
	return cmd
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
	f.StringVar(&family, "family", "acl", "acl, fw, ipc or segment")
	f.IntVar(&count, "count", 1000, "how many rules")
	f.Uint64Var(&seed, "seed", 1, "seed")
	f.StringVar(&to, "to", "yaml", "form to write: yaml, json, flows, classbench or ovs")
	f.IntVar(&trace, "trace", 0, "print a trace of so many packets instead of the rules")
	f.Float64Var(&zipf, "zipf", 0, "skew of the trace over rules; 0 is uniform")
	f.Float64Var(&mix, "mix", 0, "percent of the trace's packets that only the last rule matches")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fam, err := flowtest.ParseFamily(family)
		if err != nil {
			return usage(cmd, err)
		}
		form, err := ruleset.ParseFormat(to)
		switch {
		case err != nil:
			return usage(cmd, err)
		case count < 1 || count > 1_000_000:
			return usage(cmd, fmt.Errorf("--count %d: out of range: use 1 to 1000000", count))
		case trace < 0 || zipf < 0 || mix < 0 || mix > 100:
			return usage(cmd, fmt.Errorf("--trace, --zipf or --mix out of range: use a count, a skew from 0, and 0 to 100 percent"))
		}
		rules := flowtest.Generate(fam, count, seed)
		if trace > 0 {
			return writeTrace(cmd, rules, flowtest.Traffic{Packets: trace, Seed: seed, Zipf: zipf, Mix: mix / 100})
		}
		name := fmt.Sprintf("%s-%d-%d", fam, count, seed)
		for i := range rules {
			rules[i].Name = fmt.Sprintf("r%d", i)
		}
		set, err := ruleset.New(name, flow.TierTenant, flow.Actions{{Op: flow.Drop}}, rules)
		if err != nil {
			return err
		}
		return ruleset.Encode(cmd.OutOrStdout(), form, []*ruleset.Set{set}, flow.OpenPorts())
	}
	return cmd
}

func writeTrace(cmd *cobra.Command, rules []flow.Rule, traffic flowtest.Traffic) error {
	t := ruleset.Trace{Keys: flowtest.Trace(rules, traffic)}
	t.Expected = flowtest.Winners(rules, t.Keys)
	return t.Write(cmd.OutOrStdout())
}
