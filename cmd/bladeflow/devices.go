package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/offload/device"
)

func devicesCommand() *cobra.Command {
	return group("devices", "device models that ship with the program", "  bladeflow devices list", devicesList(), devicesShow())
}

func devicesList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "list the models", Example: "  bladeflow devices list -o json"}
	output := outputFlag(cmd, "table", "json", "name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		rows := [][]string{{"NAME", "ENTRIES", "ORDER", "ABOUT"}}
		type line struct {
			Name    string `json:"name"`
			Entries int    `json:"entries"`
			Order   string `json:"order"`
			About   string `json:"about"`
		}
		lines := []line{}
		for _, name := range device.List() {
			m, err := device.Load(name)
			if err != nil {
				return err
			}
			lines = append(lines, line{name, m.Entries, string(m.Order), m.About})
			rows = append(rows, []string{name, limit(m.Entries), string(m.Order), m.About})
		}
		switch *output {
		case "json":
			return printJSON(cmd.OutOrStdout(), lines)
		case "name":
			for _, l := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), l.Name)
			}
			return nil
		}
		return printTable(cmd.OutOrStdout(), rows)
	}
	return cmd
}

// limit writes a limit of a model, where 0 is none that is known.
func limit(n int) string {
	if n == 0 {
		return "unknown"
	}
	return fmt.Sprint(n)
}

func devicesShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME|FILE", Short: "show a model: every limit, its source and how well it is known",
		Example: "  bladeflow devices show softnic",
		Args:    needs("bladeflow devices show softnic", "NAME"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return device.List(), cobra.ShellCompDirectiveDefault
		},
	}
	output := outputFlag(cmd, "yaml", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		where, b, err := device.Source(args[0])
		if err != nil {
			return err
		}
		if _, err := device.Parse(where, b); err != nil {
			return err
		}
		if *output == "json" {
			var doc map[string]any
			if err := yaml.Unmarshal(b, &doc); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), doc)
		}
		_, err = cmd.OutOrStdout().Write(b)
		return err
	}
	return cmd
}
