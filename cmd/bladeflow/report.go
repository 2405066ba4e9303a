package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
)

func reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "report",
		Short:   "reports for the planner",
		Example: "  bladeflow report capacity --input fleet.yaml -o html > capacity.html",
	}
	cmd.AddCommand(reportCapacity())
	return cmd
}

func reportCapacity() *cobra.Command {
	var input, recorded, profile, whatIf, scope string
	var window, horizon days
	var at connection
	cmd := &cobra.Command{
		Use:   "capacity [--input FILE]",
		Short: "what is allocated, used and left: VFs, bandwidth, table entries, software budget",
		Long: `Work out what is left of VF slots, port bandwidth, table entries and software budget, per port, PF,
blade, chassis and fleet: of the manager's fabric, with the demand that it recorded, or from a document of
kind CapacityInput; --history adds the demand recorded in a history file to that. The html form is one file
that opens from disk; csv has one number a line, with the table's name in the first column. The same input
gives the same bytes.

--horizon says when demand reaches what is usable, as a range of dates that holds 90 % of simulated futures:
"never" is not within so many days. It needs 56 days of recorded demand (the window is then 90 days if not
given), and says so where the record does not bear a forecast. --scope leaves out what is elsewhere.`,
		Example: `  bladeflow report capacity -o html > capacity.html
  bladeflow report capacity --input fleet.yaml -o html > capacity.html
  bladeflow report capacity --input fleet.yaml --history history.db --window 30 -o json
  bladeflow report capacity --input fleet.yaml --what-if 40=std-vnic.yaml -o md
  bladeflow report capacity --scope chassis/c1 --window 180d --horizon 365d`,
	}
	f := cmd.Flags()
	f.StringVar(&input, "input", "", "document of kind CapacityInput, - for standard input; the manager's if not given")
	f.StringVar(&recorded, "history", "", "history file with recorded demand")
	f.StringVar(&profile, "profile", "", "document of kind CapacityProfile: what \"still fits\" is counted in; the input's if not given")
	f.StringVar(&whatIf, "what-if", "", "say what N more vNICs would do: N=FILE, a document of kind CapacityProfile")
	f.Var(&window, "window", "days of demand looked at; the input's if not given")
	f.Var(&horizon, "horizon", "days ahead that demand is forecast for; nothing is if not given")
	f.StringVar(&scope, "scope", "", "only this `SCOPE` and what is in it: fleet, chassis/NAME, blade/NAME, pf/NAME or port/NAME")
	at.flags(cmd)
	output := outputFlag(cmd, "md", "html", "json", "csv")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if input == "" && recorded != "" {
			return usage("--history", "the manager has its own", "give --input, too, or leave it out")
		}
		if horizon > 0 && !cmd.Flags().Changed("window") {
			window = forecastWindow
		}
		text, err := capacityInput(cmd, input, at, int(window))
		if err != nil {
			return err
		}
		in, err := readCapacityInput(cmd, cmp.Or(input, "the manager's input"), text, profile, whatIf)
		if err != nil {
			return err
		}
		switch {
		case cmd.Flags().Changed("window"):
			in.Window = int(window)
		case horizon > 0:
			in.Window = max(in.Window, forecastWindow)
		}
		if cmd.Flags().Changed("horizon") {
			in.Horizon = int(horizon)
		}
		in.Scope = cmp.Or(scope, in.Scope)
		if recorded != "" {
			if err := fillFromHistory(cmd, recorded, &in); err != nil {
				return err
			}
		}
		d, err := capacity.Report(in)
		if err != nil {
			return err
		}
		switch *output {
		case "html":
			return d.WriteHTML(cmd.OutOrStdout())
		case "json":
			return d.WriteJSON(cmd.OutOrStdout())
		case "csv":
			return d.WriteCSV(cmd.OutOrStdout())
		}
		return d.WriteMarkdown(cmd.OutOrStdout())
	}
	return cmd
}

// forecastWindow is how many days a forecast looks back if nobody says how many.
const forecastWindow = 90

// days is a flag of a number of days: 90, or 90d.
type days int

// String is what --help shows as the value that a flag has.
func (d *days) String() string { return strconv.Itoa(int(*d)) }

// Type is what --help calls the value.
func (d *days) Type() string { return "DAYS" }

// Set reads the value. Whether it makes sense, the report says.
func (d *days) Set(text string) error {
	n, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	if err != nil {
		return usage(text, "not a number of days", "write 90 or 90d")
	}
	*d = days(n)
	return nil
}

// capacityInput returns the document that a report is made of: a file's or the manager's.
func capacityInput(cmd *cobra.Command, file string, at connection, window int) ([]byte, error) {
	if file != "" {
		return readFile(cmd, file)
	}
	c, err := at.open()
	if err != nil {
		return nil, err
	}
	return c.CapacityInput(cmd.Context(), window)
}

func readCapacityInput(cmd *cobra.Command, where string, text []byte, profile, whatIf string) (capacity.Input, error) {
	in, err := capacity.ParseInput(where, text)
	if err != nil {
		return in, err
	}
	if profile != "" {
		if in.Reference, err = readCapacityProfile(cmd, profile); err != nil {
			return in, err
		}
	}
	if whatIf != "" {
		number, file, _ := strings.Cut(whatIf, "=")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 || file == "" {
			return in, usage(fmt.Sprintf("--what-if %q", whatIf), "it is not N=FILE with a number above zero", "write 40=std-vnic.yaml")
		}
		in.WhatIf = &capacity.Addition{VNICs: n}
		if in.WhatIf.Profile, err = readCapacityProfile(cmd, file); err != nil {
			return in, err
		}
	}
	return in, nil
}

func readCapacityProfile(cmd *cobra.Command, file string) (capacity.Profile, error) {
	b, err := readFile(cmd, file)
	if err != nil {
		return capacity.Profile{}, err
	}
	return capacity.ParseProfile(file, b)
}

func fillFromHistory(cmd *cobra.Command, file string, in *capacity.Input) error {
	h, err := history.OpenReadOnly(file)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Fill(cmd.Context(), in)
}
