package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
)

func inventoryCommand() *cobra.Command {
	var root, name string
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "this blade's NICs, functions, representors and RDMA devices",
		Long: `List the NICs of this blade with their physical and virtual functions, representors and RDMA devices.
What is odd, and where two sources disagree, is a finding on standard error. --root reads a recorded
tree instead, as 'bladeflow support bundle' makes it; only sysfs is asked then.`,
		Example: `  bladeflow inventory -o json
  bladeflow inventory --root bundle/root`,
	}
	cmd.Flags().StringVar(&root, "root", "", "read a recorded tree below this directory")
	_ = cmd.MarkFlagDirname("root")
	cmd.Flags().StringVar(&name, "name", "", "name of the blade; the host's if not given")
	output := outputFlag(cmd, "table", "json", "name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		inv, findings, err := readInventory(root)
		if err != nil {
			return err
		}
		for _, f := range findings {
			fmt.Fprintf(cmd.ErrOrStderr(), "finding: %s [%s]\n", f, f.Code)
		}
		switch *output {
		case "json":
			if name == "" {
				name, _ = os.Hostname()
			}
			return printJSON(cmd.OutOrStdout(), discover.NewObject(name, inv, findings))
		case "name":
			for _, p := range inv.PortNames() {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			return nil
		}
		return inv.WriteTable(cmd.OutOrStdout())
	}
	return cmd
}

func readInventory(root string) (fabric.Inventory, []fabric.Finding, error) {
	if root == "" {
		return discover.Live()
	}
	return discover.Read(root)
}
