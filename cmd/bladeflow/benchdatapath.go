package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/peers"
)

func benchDatapath() *cobra.Command {
	c := peers.Config{Commit: commit}
	cmd := &cobra.Command{
		Use:   "datapath",
		Short: "measure what a frame costs in the software datapath and in its peers",
		Long: `Measure what a frame costs in the software datapath, and in what one would use instead,
in the same run: XDP, TCX, tc, nftables, IP forwarding, a Linux bridge, Open vSwitch.
Needs root.

Each path is laid between a sender and a sink in network namespaces of its own. Costs are
CPU time, kernel and user, for each frame of 64 bytes that comes to its end; they are the
median over the repetitions, with the least and the greatest. Modes say what counts:
  one core                 sender, path and sink share a CPU, and all of it counts
  one core, to a kernel    the same, but frames end in the kernel of the sink, not in XDP
  two cores                the sender has a CPU of its own, which does not count
  two cores, user's alone  nor does what the kernel does to receive
Only figures of one mode can be compared. Round trips are of UDP between sockets, two ways
through the path, on one core.

What this machine does not have is left out, and named. Other work on the machine makes
figures spread: those that go far apart are marked with "wide".`,
		Example: `  bladeflow bench datapath
  bladeflow bench datapath --path linux-bridge --path bladeflow-forward --repetitions 9 -o json`,
	}
	f := cmd.Flags()
	f.IntVar(&c.Frames, "frames", 1_000_000, "frames for each path and repetition")
	f.IntVar(&c.RoundTrips, "round-trips", 5_000, "round trips for each path and repetition")
	f.IntVar(&c.Repetitions, "repetitions", 5, "how often each path is measured")
	f.IntVar(&c.Rules, "rules", 10_000, "rules in the table")
	f.IntVar(&c.Flows, "flows", 1024, "flows that the frames are of, a power of two")
	f.Uint64Var(&c.Seed, "seed", 1, "of rules and flows")
	f.BoolVar(&c.Install, "install", false, "install packages of the distribution that peers need: nftables, openvswitch-switch")
	f.StringArrayVar(&c.Only, "path", nil, "only this one: "+list(peers.Names())+"; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("path", cobra.FixedCompletions(peers.Names(), cobra.ShellCompDirectiveNoFileComp))
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needRoot("bench datapath"); err != nil {
			return err
		}
		if c.Frames < 1 || c.RoundTrips < 1 || c.Repetitions < 1 || c.Rules < 1 || c.Flows < 1 { // 0 would mean the default
			return &flow.Fault{Code: "E_BENCH", What: "bench datapath", Why: "a number is below 1", Remedy: "see 'bladeflow bench datapath --help'"}
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		c.Doing = func(format string, a ...any) { doing(cmd, format, a...) }
		r, err := peers.Run(ctx, c)
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return printPeers(cmd.OutOrStdout(), r)
	}
	return cmd
}

func printPeers(w io.Writer, r *peers.Report) error {
	spread := func(s peers.Spread, digits int) []string {
		wide := ""
		if s.Wide() {
			wide = "wide"
		}
		return []string{fmt.Sprintf("%.*f", digits, s.Median), fmt.Sprintf("%.*f-%.*f", digits, s.Least, digits, s.Most), wide}
	}
	rows := [][]string{{"MODE", "PATH", "CPU NS/FRAME", "SPREAD", "", "MFRAMES/CORE", "DELIVERED", "WHAT IT IS"}}
	for _, p := range r.Paths {
		row := append([]string{string(p.Mode), p.Name}, spread(p.CPU, 0)...)
		rows = append(rows, append(row, fmt.Sprintf("%.1f", p.Mpps), fmt.Sprintf("%.2f %%", 100*p.Delivered), p.Does))
	}
	if err := printTable(w, rows); err != nil {
		return err
	}
	rows = [][]string{{"ROUND TRIP", "P50 US", "SPREAD", "", "P99 US", "SPREAD", "", "LOST"}}
	for _, l := range r.Latency {
		row := append(append([]string{l.Name}, spread(l.P50, 1)...), spread(l.P99, 1)...)
		rows = append(rows, append(row, fmt.Sprintf("%d of %d", l.Lost, l.Trips)))
	}
	fmt.Fprintln(w)
	if err := printTable(w, rows); err != nil {
		return err
	}
	if len(r.Installs) > 0 {
		rows = [][]string{{"A FLOW MADE KNOWN", "CPU NS", "SPREAD"}}
		for _, i := range r.Installs {
			rows = append(rows, append([]string{i.Name}, spread(i.CPU, 0)...))
		}
		fmt.Fprintln(w)
		if err := printTable(w, rows); err != nil {
			return err
		}
	}
	rows = [][]string{{"RATIO", "MODE", "VALUE", "SPREAD", "", "WANTED", ""}}
	for _, q := range r.Ratios {
		wanted, met := ">= ", "met"
		if q.Most {
			wanted = "<= "
		}
		if !q.Met {
			met = "MISSED"
		}
		rows = append(rows, append(append([]string{q.What, string(q.Mode)}, spread(q.Value, 2)...), wanted+fmt.Sprintf("%g", q.Bar), met))
	}
	fmt.Fprintln(w)
	if err := printTable(w, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, l := range r.LeftOut {
		fmt.Fprintf(w, "left out: %s: %s\n", l.Name, l.Why)
	}
	_, err := fmt.Fprintf(w, "%d bytes a frame, %d flows, %d rules, %d repetitions of %d frames, seed %d, %.0f s at load %.1f; %s, %d cores, kernel %s, %s\n", r.FrameBytes, r.Flows, r.Rules,
		r.Repetitions, r.Frames, r.Seed, r.Seconds, r.Load, strings.TrimSpace(r.Machine.CPU), r.Machine.Cores, r.Machine.Kernel, r.Machine.Go)
	return err
}
