package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
)

// audit is a `get entries`: read-only, of the fabric's blades or of a card at hand.
type audit struct {
	foreign, orphans bool
	nic              string
}

func (a *audit) flags(f *pflag.FlagSet) {
	f.BoolVar(&a.foreign, "foreign", false, "of entries: those of others")
	f.BoolVar(&a.orphans, "orphans", false, "of entries: those with bladeflow's mark that nobody of it put in")
	f.StringVar(&a.nic, "nic", "", "of entries: read the card of this function (PCI address or nicN/pfN) of this machine")
}

// misplaced is the fault of what says nothing of entries, or of entries only.
func (a *audit) misplaced(cmd *cobra.Command, entries bool, args []string) error {
	others, remedy := []string{"foreign", "orphans", "nic"}, "leave it out, or say bladeflow get entries"
	if entries {
		others, remedy = []string{"watch", "tenant", "labels"}, "leave it out"
		if a.nic != "" {
			others = append(others, "blade")
		}
		if len(args) > 1 {
			return usage("get "+args[0]+" "+args[1], "entries are not chosen by name", "leave it out: -o json has their IDs")
		}
	}
	for _, name := range others {
		if cmd.Flags().Changed(name) {
			return usage("--"+name, "it says nothing of "+args[0], remedy)
		}
	}
	return nil
}

// found is an entry and where it is.
type found struct {
	Blade  string `json:"blade,omitempty"`
	Device string `json:"device"`
	api.Entry
}

func (a *audit) run(cmd *cobra.Command, on *connection, q client.Query, form string, heads bool) error {
	all := []found{}
	if a.nic != "" {
		entries, err := agent.CardEntries(cmd.Context(), a.nic)
		if err != nil {
			return err
		}
		for _, e := range entries {
			all = append(all, found{Device: a.nic, Entry: api.Entry(e)})
		}
	} else {
		c, err := on.open()
		if err != nil {
			return err
		}
		blades, err := client.Blades.List(cmd.Context(), c, client.Query{})
		if err != nil {
			return err
		}
		for _, b := range blades.Items {
			if q.Blade != "" && b.Metadata.Name != q.Blade {
				continue
			}
			for _, d := range b.Status.Devices {
				for _, e := range d.Strange {
					all = append(all, found{b.Metadata.Name, d.Name, e})
				}
			}
		}
	}
	if a.foreign || a.orphans {
		all = slices.DeleteFunc(all, func(f found) bool { return !(a.foreign && f.Class == "foreign" || a.orphans && f.Class == "orphaned") })
	}
	return a.print(cmd, all, form, heads)
}

func (a *audit) print(cmd *cobra.Command, all []found, form string, heads bool) error {
	out := cmd.OutOrStdout()
	switch form {
	case "json":
		return printJSON(out, all)
	case "yaml":
		raw, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return printYAML(out, json.RawMessage(raw))
	}
	if form == "name" {
		for _, f := range all {
			fmt.Fprintln(out, f.ID)
		}
		return nil
	}
	var rows [][]string
	if heads {
		rows = append(rows, []string{"BLADE", "DEVICE", "ENTRY", "CLASS", "KIND", "PRIORITY", "MATCH", "ACTIONS"})
	}
	for _, f := range all {
		rows = append(rows, []string{dash(f.Blade), f.Device, f.ID, f.Class, f.Kind, strconv.FormatUint(f.Priority, 10), dash(f.Match), dash(f.Actions)})
	}
	if form == "csv" {
		return csv.NewWriter(out).WriteAll(rows)
	}
	return printTable(out, rows)
}
