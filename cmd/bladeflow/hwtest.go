package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests"
)

// hwtestCommand runs the scenarios of package hwtests and records what they showed.
func hwtestCommand() *cobra.Command {
	return group("hwtest", "scenarios with packets: what HARDWARE.md rests on", "  bladeflow hwtest run --on lab", hwtestRun())
}

func hwtestRun() *cobra.Command {
	var on, commit string
	var names []string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "run --on lab",
		Short: "run scenarios and record what they found",
		Long: `Run scenarios with real packets and compare every frame with what the rules mean. They are:
` + scenarioList() + `
With -o json it prints the record that HARDWARE.md cites. Exit code 0 only if all of them passed. Needs root.
They run on the emulated chassis; VMs and real cards are not supported yet.`,
		Example: `  bladeflow hwtest run --on lab
  bladeflow hwtest run --on lab --scenario cutoff -o json`,
	}
	f := cmd.Flags()
	choiceFlag(cmd, &on, "on", "", "lab", "what to run on", "lab")
	f.StringArrayVar(&names, "scenario", nil, "only this one; may be repeated")
	f.StringVar(&commit, "commit", "", "commit of this program, for the record")
	f.Uint64Var(&seed, "seed", uint64(time.Now().UnixNano()), "of rules and packets; another one each time if not given")
	f.Lookup("seed").DefValue = "0" // which help does not print: the clock is no default to show
	var completions []string
	for _, s := range hwtests.Scenarios() {
		completions = append(completions, s.Name+"\t"+s.Shows)
	}
	_ = cmd.RegisterFlagCompletionFunc("scenario", cobra.FixedCompletions(completions, cobra.ShellCompDirectiveNoFileComp))
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needRoot("hwtest run"); err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		start := time.Now()
		r, err := hwtests.RunScenarios(ctx, seed, names, func(format string, a ...any) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
		})
		if err != nil {
			return err
		}
		if r.Status.Commit = commit; *output == "json" {
			err = printJSON(cmd.OutOrStdout(), r)
		} else {
			err = printRun(cmd.OutOrStdout(), r)
		}
		if err == nil && !r.Status.Passed {
			err = &flow.Fault{Code: "E_MISMATCH", What: "hwtest run", Why: "a scenario failed", Remedy: fmt.Sprintf("see above; --seed %d repeats it", seed)}
		}
		return err
	}
	return cmd
}

func scenarioList() string {
	var rows string
	for _, s := range hwtests.Scenarios() {
		rows += fmt.Sprintf("  %-9s %s\n", s.Name, s.Shows)
	}
	return rows
}

func printRun(w io.Writer, r *hwtests.Run) error {
	rows := [][]string{{"SCENARIO", "RESULT", "SECONDS", "SHOWS"}}
	for _, s := range r.Status.Scenarios {
		result := "passed"
		if !s.Passed {
			result = "FAILED"
		}
		rows = append(rows, []string{s.Name, result, fmt.Sprintf("%.1f", s.Seconds), s.Shows})
	}
	if err := printTable(w, rows); err != nil {
		return err
	}
	for _, s := range r.Status.Scenarios {
		for _, wrong := range s.Wrong {
			fmt.Fprintf(w, "%s: %s\n", s.Name, wrong)
		}
		if s.Error != "" {
			fmt.Fprintf(w, "%s: %s\n", s.Name, s.Error)
		}
	}
	_, err := fmt.Fprintf(w, "seed %d, kernel %s, %d cores, %s\n", r.Spec.Seed, r.Status.Machine.Kernel, r.Status.Machine.Cores, r.Status.Machine.CPU)
	return err
}
