package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/agent"
)

func agentCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "run one blade: observe, plan, check, apply",
		Long: `Keep one blade as the fabric's manager wants it, or as its own rule files do: put rules into the device where
that is right, answer the rest in software, set up the VFs of vNICs, find and heal what changes behind its back.
What is wanted comes from the fabric's store (spec.store), with the blade's own certificate, or from files
(spec.rules), which are read again when they change; what is not right leaves the running generation as it is.
Cut off from the store, a blade goes on as it was told last. It needs root, and runs in the network namespace
that has the representors. When it ends, the device keeps its entries. Under systemd (Type=notify) it is
ready when its rules are in force.

The configuration, with every field:

` + agent.Example,
		Example: "  bladeflow agent --config /etc/bladeflow/agent.yaml",
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file")
	_ = cmd.MarkFlagRequired("config")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := agent.ReadFile(config)
		if err != nil {
			return err
		}
		if err := needRoot("agent"); err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		d, err := agent.Open(f, log)
		if err != nil {
			return err
		}
		if a := d.Address(); a != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "serving http://%s/metrics, /status and /inventory\n", a)
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		go notifyReady(ctx, d.Agent(), log)
		err = d.Run(ctx)
		if closed := d.Close(); err == nil {
			err = closed
		}
		return err
	}
	return cmd
}

// notifyReady tells systemd once rules are in force.
func notifyReady(ctx context.Context, a *agent.Agent, log *slog.Logger) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for a.Status().Generation == 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	if err := notify("READY=1"); err != nil {
		log.Warn("cannot tell systemd", "error", err)
	}
}

// notify sends a state to whoever started the program, if that wants to know
// (sd_notify(3)).
func notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
