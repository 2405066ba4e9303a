package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	var on, of string
	c := hwtests.RunConfig{}
	cmd := &cobra.Command{
		Use:   "run --on lab|vm|nic:PCI",
		Short: "run scenarios and record what they found",
		Long: `Run scenarios with real packets and compare every frame with what the rules mean. They are:
` + scenarioList(hwtests.Scenarios()) + `
They run on the emulated chassis: on this machine's kernel, or on a stock kernel in QEMU (--on vm;
'make vm' gets both ready), where --card tcamsim has the cards played by a kernel module that takes
tc flower. On a real card of this machine (--on nic:0000:3b:00.0, the address of a PF), and in QEMU
on the machine's own, run:
` + scenarioList(hwtests.CardScenarios()) + `
With -o json it prints the record that HARDWARE.md cites. Exit code 0 only if all of them passed. Needs root.`,
		Example: `  bladeflow hwtest run --on lab
  bladeflow hwtest run --on lab --scenario cutoff -o json
  bladeflow hwtest run --on vm --card tcamsim
  bladeflow hwtest run --on nic:0000:3b:00.0`,
	}
	f := cmd.Flags()
	f.StringVar(&on, "on", "lab", "what to run on: lab, vm or nic:PCI")
	_ = cmd.RegisterFlagCompletionFunc("on", cobra.FixedCompletions([]string{"lab", "vm", "nic:"}, cobra.ShellCompDirectiveNoFileComp))
	choiceFlag(cmd, &c.Card, "card", "", "softnic", "what plays the cards in lab and vm", "softnic", "tcamsim")
	f.StringVar(&c.Device, "device", "", "device model of the real card; that of its driver if not given")
	f.BoolVar(&c.TakeVFs, "take-vfs", false, "let a scenario remove the real card's VFs and create others")
	f.StringArrayVar(&c.Scenarios, "scenario", nil, "only this one; may be repeated")
	f.StringVar(&of, "commit", commit, "commit of this program, for the record; what it was built from if not given")
	f.Lookup("commit").DefValue = "" // it is in bladeflow version
	f.IntVar(&c.Slow, "slow", 0, "how many times slower than others this machine is: rates and numbers of packets are divided by it, and above 1 no times are judged; 0 is 1, and 20 in an emulated vm")
	f.Uint64Var(&c.Seed, "seed", uint64(time.Now().UnixNano()), "of rules and packets; another one each time if not given")
	f.Lookup("seed").DefValue = "0" // which help does not print: the clock is no default to show
	var completions []string
	for _, s := range append(hwtests.Scenarios(), hwtests.CardScenarios()...) {
		completions = append(completions, s.Name+"\t"+s.Shows)
	}
	_ = cmd.RegisterFlagCompletionFunc("scenario", cobra.FixedCompletions(completions, cobra.ShellCompDirectiveNoFileComp))
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needRoot("hwtest run"); err != nil {
			return err
		}
		if err := misplaced(cmd, on); err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		start := time.Now()
		c.Say = func(format string, a ...any) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
		}
		var r *hwtests.Run
		var err error
		switch pci, nic := strings.CutPrefix(on, "nic:"); {
		case nic:
			r, err = hwtests.RunCard(ctx, pci, c)
		case on == "vm" && os.Getenv("BLADEFLOW_IN_VM") != "":
			r, err = hwtests.RunMachine(ctx, c)
		case on == "vm":
			r, err = runInMachine(ctx, cmd.ErrOrStderr(), c)
		case on == "lab":
			r, err = hwtests.RunScenarios(ctx, c)
		default:
			err = usage("--on "+on, "unknown", flow.Suggest(on, "lab", "vm", "nic:PCI"))
		}
		if err != nil {
			return err
		}
		if r.Status.Commit = of; *output == "json" {
			err = printJSON(cmd.OutOrStdout(), r)
		} else {
			err = printRun(cmd.OutOrStdout(), r)
		}
		if err == nil && !r.Status.Passed {
			err = &flow.Fault{Code: "E_MISMATCH", What: "hwtest run", Why: "a scenario failed", Remedy: fmt.Sprintf("see above; --seed %d repeats it", c.Seed)}
		}
		return err
	}
	return cmd
}

// misplaced is the fault of a flag that says nothing where the scenarios are to run.
func misplaced(cmd *cobra.Command, on string) error {
	others := []string{"device", "take-vfs"}
	if strings.HasPrefix(on, "nic:") {
		others = []string{"card"}
	}
	for _, name := range others {
		if cmd.Flags().Changed(name) {
			return usage("--"+name, "it says nothing with --on "+on, "leave it out: --card is for lab and vm, --device and --take-vfs are for nic:PCI")
		}
	}
	return nil
}

// runInMachine runs the scenarios in a virtual machine, by the runner beside this program:
// this program is what it runs there, and its record is the one that is returned.
func runInMachine(ctx context.Context, progress io.Writer, c hwtests.RunConfig) (*hwtests.Run, error) {
	fault := func(why, remedy string, err error) error {
		return &flow.Fault{Code: "E_VM", What: "virtual machine", Why: why, Remedy: remedy, Err: err}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fault(err.Error(), "say where this program is by calling it with its path", err)
	}
	runner := filepath.Join(filepath.Dir(self), "vm")
	if _, err := os.Stat(runner); err != nil {
		return nil, fault("there is no runner beside this program: "+err.Error(), "build it with `go build -o bin/vm ./hwtests/vm`, then `bin/vm prepare`; `make vm` does both, and runs tests", err)
	}
	args := []string{self, "hwtest", "run", "--on", "vm", "--card", c.Card, "--seed", fmt.Sprint(c.Seed), "--slow", fmt.Sprint(cmp.Or(c.Slow, emulatedSlow)), "-o", "json"}
	for _, name := range c.Scenarios {
		args = append(args, "--scenario", name)
	}
	cmd := exec.CommandContext(ctx, runner, args...)
	if cmd.Env = os.Environ(); os.Getenv(machineClock) == "" {
		cmd.Env = append(cmd.Env, machineClock+"=instructions") // agents and manager hear of each other in time, however busy this host is
	}
	cmd.Stderr = progress
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var r hwtests.Run
	if json.Unmarshal(out, &r) != nil || r.Kind != "HardwareTest" {
		return nil, fault(fmt.Sprintf("it gave no record: %v", err), "see above; `make vm` gets a machine ready", err)
	}
	return &r, nil
}

// machineClock is the variable by which the runner chooses a machine's clock: see its --help.
const machineClock = "BLADEFLOW_VM_CLOCK"

// emulatedSlow is how much slower the scenarios' machine is taken to be: all of it, card
// and senders too, is one CPU that QEMU emulates.
const emulatedSlow = 20

func scenarioList(scenarios []hwtests.Scenario) string {
	var rows string
	for _, s := range scenarios {
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
	_, err := fmt.Fprintf(w, "on %s with card %s (%s), seed %d, kernel %s, %d cores, %s\n", r.Spec.On, r.Spec.Card, r.Status.Evidence, r.Spec.Seed, r.Status.Machine.Kernel, r.Status.Machine.Cores, r.Status.Machine.CPU)
	return err
}
