package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/agent"
)

func agentCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "run one blade: observe, plan, check, apply",
		Long: `Keep one blade as its rule files want it: put rules into the device where that is right, answer the rest in
software, find and heal what changes behind its back. It reads the rules again when they change; rules
that are not right leave the running generation as it is. It needs root, and runs in the network namespace
that has the representors. When it ends, the device keeps its entries.

The configuration, with every field:

` + agent.Example,
		Example: "  bladeflow agent --config /etc/bladeflow/agent.yaml",
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file")
	_ = cmd.MarkFlagRequired("config")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := agent.ReadFile(config)
		if err != nil {
			return err
		}
		if err := needRoot("agent"); err != nil {
			return err
		}
		d, err := agent.Open(f, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		if err != nil {
			return err
		}
		if a := d.Address(); a != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "serving http://%s/metrics, /status and /inventory\n", a)
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		err = d.Run(ctx)
		if closed := d.Close(); err == nil {
			err = closed
		}
		return err
	}
	return cmd
}
