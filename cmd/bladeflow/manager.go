package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/manager"
)

// managerCommand is the manager as a daemon.
func managerCommand() *cobra.Command {
	var config string
	var drop bool
	cmd := &cobra.Command{
		Use:   "manager --config FILE",
		Short: "run the fabric: API, page, and what each blade is told",
		Long: `Keep what users want of the fabric in the store, tell each blade its part, and show what the blades answer.
Any number of managers may run on one store; one of them leads. A manager never touches this machine's
network, and refuses to run with the capability to (CAP_NET_ADMIN).

The configuration, with every field:

` + manager.Example,
		Example: "  bladeflow manager --config /etc/bladeflow/manager.yaml",
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file")
	cmd.Flags().BoolVar(&drop, "drop-privileges", false, "give up all capabilities first, for good")
	_ = cmd.MarkFlagRequired("config")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := manager.ReadFile(config)
		if err != nil {
			return err
		}
		if err := manager.Unprivileged(); err != nil {
			if drop {
				err = manager.Drop()
			}
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		d, err := manager.Open(ctx, f, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		if err != nil {
			return err
		}
		defer d.Close()
		fmt.Fprintf(cmd.ErrOrStderr(), "serving %s\n", d.URL())
		if at := d.Endpoint(); at != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "store at %s\n", at)
		}
		if err := notify("READY=1"); err != nil {
			return err
		}
		return d.Run(ctx)
	}
	return cmd
}
