package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

//go:embed faults.txt
var faultTable string

// explanation is what is to be said of a code.
type explanation struct {
	Code    string `json:"code"`
	Means   string `json:"means"`
	Causes  string `json:"causes"`
	Remedy  string `json:"remedy"`
	section string
}

// explanations reads the table of all codes.
func explanations() ([]explanation, error) {
	var all []explanation
	section := ""
	for _, block := range strings.Split(strings.TrimSpace(faultTable), "\n\n")[1:] { // the first says what it is
		lines := strings.Split(block, "\n")
		title, isTitle := strings.CutPrefix(lines[0], "# ")
		switch {
		case isTitle && len(lines) == 1:
			section = title
		case len(lines) == 4 && strings.HasPrefix(lines[0], "E_") && section != "":
			all = append(all, explanation{lines[0], lines[1], lines[2], lines[3], section})
		default:
			return nil, fmt.Errorf("the table of codes: %q is neither a title nor four lines of a code", block)
		}
	}
	return all, nil
}

// writeErrors writes the table as docs/errors.md.
func writeErrors(w io.Writer, all []explanation) {
	fmt.Fprint(w, "# Errors\n\nEvery message of an error ends in a code, the same in commands, API and pages. This is what each means; `bladeflow explain CODE` says the same.\n"+
		"The file is made of `cmd/bladeflow/faults.txt`: change that, then `go test ./cmd/bladeflow -run Explained -update`.\n")
	section := ""
	for _, x := range all {
		if x.section != section {
			section = x.section
			fmt.Fprintf(w, "\n## %s\n\n| code | what it means | what causes it | what to do |\n|---|---|---|---|\n", section)
		}
		cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", x.Code, cell(x.Means), cell(x.Causes), cell(x.Remedy))
	}
}

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain E_CODE...",
		Short: "say what a code means, or where a rule is and why not in hardware",
		Long:  `Say of codes that bladeflow printed what they mean, what causes them, and what to do.`,
		Example: `  bladeflow explain E_TABLE_FULL
  bladeflow explain offload web/in`,
		Args: needs("bladeflow explain E_TABLE_FULL", "E_CODE..."),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			all, err := explanations()
			var codes []string
			for _, x := range all {
				codes = append(codes, x.Code+"\t"+x.Means)
			}
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
	}
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		all, err := explanations()
		if err != nil {
			return err
		}
		var found []explanation
		for _, arg := range args {
			i := slices.IndexFunc(all, func(x explanation) bool { return x.Code == strings.ToUpper(arg) })
			if i < 0 {
				return unknownCode(arg, all)
			}
			found = append(found, all[i])
		}
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), found)
		}
		for i, x := range found {
			if i > 0 {
				fmt.Fprintln(cmd.OutOrStdout())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\ncauses: %s\nwhat to do: %s\n", x.Code, x.Means, x.Causes, x.Remedy)
		}
		return nil
	}
	cmd.AddCommand(explainOffload())
	return cmd
}

func unknownCode(arg string, all []explanation) error {
	near := make([]string, len(all))
	for i, x := range all {
		near[i] = x.Code
	}
	remedy := flow.Suggest(strings.ToUpper(arg), near...)
	if strings.HasPrefix(remedy, "use one of") {
		remedy = "take it as the message printed it, E_…"
	}
	return usage(fmt.Sprintf("code %q", arg), "there is none", remedy)
}

func explainOffload() *cobra.Command {
	var on connection
	var q client.Query
	cmd := &cobra.Command{
		Use:   "offload RULE",
		Short: "say where a rule is on each blade, and if not in hardware, why not",
		Long: `Say of a rule, SET/RULE, for every blade that has it, or BLADE/SET/RULE for one: whether hardware or software answers it, what was counted
where, and if not all of it is in hardware, why not and what would change that. A rule that a set has for each
profile's vNICs is SET/RULE@PROFILE; without @ all of them are shown.`,
		Example: "  bladeflow explain offload web/in --blade b1",
		Args:    needs("bladeflow explain offload web/in", "RULE"),
	}
	cmd.Flags().StringVar(&q.Blade, "blade", "", "only on this blade")
	output := outputFlag(cmd, "text", "json", "yaml")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := on.open()
		if err != nil {
			return err
		}
		if blade, _, of := strings.Cut(args[0], "/"); of && strings.Count(args[0], "/") == 2 {
			q.Blade = cmp.Or(q.Blade, blade)
		}
		all, err := client.Rules.List(cmd.Context(), c, q)
		if err != nil {
			return err
		}
		found := all.Items[:0]
		for _, r := range all.Items {
			of, _, _ := strings.Cut(r.Status.Name, "@")
			if slices.Contains([]string{r.Status.Name, of, r.Metadata.Name, r.Status.Blade + "/" + of}, args[0]) {
				found = append(found, r)
			}
		}
		more := all.Metadata.Unlisted
		if len(found) == 0 {
			why, remedy := "no blade has it or shall have it", "write SET/RULE; see bladeflow get rules"
			if more > 0 {
				why, remedy = fmt.Sprintf("no blade lists it, and %s in no blade's report, which has those that counted most", isOrAre(more, "rule")), "name the blade with --blade"
			}
			return &flow.Fault{Code: "E_NOT_FOUND", What: "rule " + args[0], Why: why, Remedy: remedy, Err: client.ErrNotFound}
		}
		if more > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: %s in no blade's report, which has those that counted most: --blade asks about one blade\n", isOrAre(more, "rule"))
		}
		all.Items = found
		switch *output {
		case "json":
			return printJSON(cmd.OutOrStdout(), all)
		case "yaml":
			return printYAML(cmd.OutOrStdout(), all)
		}
		for _, r := range found {
			printOffload(cmd.OutOrStdout(), r.Status)
		}
		return nil
	}
	return cmd
}

func printOffload(w io.Writer, s api.RuleStatus) {
	if s.Place == api.Unreported {
		last := "it has reported no rules so far"
		if !s.Reported.IsZero() {
			last = fmt.Sprintf("its last report of rules is %s old", time.Since(s.Reported).Round(time.Second))
		}
		fmt.Fprintf(w, "%s on %s: not reported yet: %s, and comes some seconds after a change is proved\n", s.Name, s.Blade, last)
		return
	}
	if s.Place == api.Unlisted {
		fmt.Fprintf(w, "%s on %s: it counted too little to be in the blade's report\n", s.Name, s.Blade)
		return
	}
	fmt.Fprintf(w, "%s on %s: %s, %s\n", s.Name, s.Blade, s.Place, count(s.Entries, "entry"))
	fmt.Fprintf(w, "  counted in hardware: packets %d, bytes %d; in the flow cache: packets %d, bytes %d; in software: packets %d, bytes %d\n", s.Hardware.Packets, s.Hardware.Bytes, s.Cache.Packets, s.Cache.Bytes, s.Software.Packets, s.Software.Bytes)
	if s.Code != "" {
		fmt.Fprintf(w, "  not all in hardware: %s [%s]\n  what would change that: %s\n", harmless(s.Reason), harmless(s.Code), harmless(s.Fix))
	}
}
