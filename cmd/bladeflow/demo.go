package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests"
)

func demoCommand() *cobra.Command {
	var c hwtests.DemoConfig
	var blind string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "emulate a chassis, send packets, show that hardware and software agree",
		Long: `Build an emulated chassis of namespaces and veth on this machine, its NICs made of XDP programs; run a
manager, and an agent on each blade that reaches its store by mutual TLS with certificates made for the
occasion; tell the manager rules and profiles; send real packets between workloads, also across blades;
show where each rule is answered and why not in hardware; delete an entry behind the agent's back and show
it found and healed; compare every frame that left every port with what the rules mean. Then create a
profile, move it to another blade under traffic and take that back, with the time each took and how long
packets did not come. Exit code 0 only if all of it is right. Needs root; everything is gone afterwards,
also after Ctrl-C.

--hold keeps it running: the manager's page and API are on this machine's loopback address, without TLS
and certificates, for whoever is on this machine; 'bladeflow get blades --server URL' and the others work on it.`,
		Example: `  bladeflow demo
  bladeflow demo --duration 3s -o json
  bladeflow demo --hold`,
	}
	f := cmd.Flags()
	f.DurationVar(&c.Duration, "duration", 5*time.Second, "how long packets flow")
	f.IntVar(&c.Blades, "blades", 2, "blades, at least 2")
	f.IntVar(&c.VFs, "vfs", 4, "VFs of each blade, at least 4")
	f.IntVar(&c.Rate, "rate", 20_000, "packets per second, all ports together")
	choiceFlag(cmd, &c.Source, "datapath", "", "afxdp", "where software gets its frames", "afxdp", "afpacket")
	f.BoolVar(&c.Hold, "hold", false, "keep everything running until Ctrl-C")
	f.StringVar(&blind, "blind", "", "a lie for the cards to tell: FIELD/BIT, a bit that their matches ignore")
	f.Uint64Var(&c.Seed, "seed", uint64(time.Now().UnixNano()), "order of the packets; another one each time if not given")
	f.Lookup("seed").DefValue = "0" // which help does not print: the clock is no default to show
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case c.Blades < 2 || c.Blades > 200:
			return usage(fmt.Sprintf("--blades %d", c.Blades), "out of range", "use 2 to 200")
		case c.VFs < 4 || c.VFs > 60:
			return usage(fmt.Sprintf("--vfs %d", c.VFs), "out of range", "use 4 to 60")
		case c.Duration <= 0 || c.Duration > 5*time.Minute:
			return usage(fmt.Sprintf("--duration %s", c.Duration), "out of range", "use more than 0 and up to 5m")
		case c.Rate < 100 || c.Rate > 1_000_000:
			return usage(fmt.Sprintf("--rate %d", c.Rate), "out of range", "use 100 to 1000000")
		}
		var err error
		if c.Blind, err = blindBit(blind); err != nil {
			return err
		}
		if err := needRoot("demo"); err != nil {
			return err
		}
		start := time.Now()
		c.Say = func(format string, a ...any) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, a...))
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		c.Shown = func(r *hwtests.Report) error {
			if *output == "json" {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printDemo(cmd.OutOrStdout(), r)
			}
			if err == nil && c.Hold {
				c.Say("everything runs on until Ctrl-C, with some packets: open %s in a browser on this machine; it needs no certificate", r.Fabric.Page)
			}
			return err
		}
		r, err := hwtests.Demo(ctx, c)
		if err != nil {
			return err
		}
		if !r.OK() {
			return &flow.Fault{Code: "E_MISMATCH", What: "demo", Why: fmt.Sprintf("%d frames or counters are not what the rules say", r.Mismatches), Remedy: "see the first of them above"}
		}
		return nil
	}
	return cmd
}

// blindBit reads FIELD/BIT.
func blindBit(s string) (flow.Key, error) {
	var k flow.Key
	if s == "" {
		return k, nil
	}
	fields := map[string]flow.Field{"in_port": flow.InPort, "src_mac": flow.SrcMAC, "dst_mac": flow.DstMAC, "eth_type": flow.EthType,
		"vlan_id": flow.VLAN, "src_ip": flow.SrcLo, "dst_ip": flow.DstLo, "ip_proto": flow.Proto, "src_port": flow.SrcPort, "dst_port": flow.DstPort}
	name, number, _ := strings.Cut(s, "/")
	f, known := fields[name]
	bit, err := strconv.ParseUint(number, 10, 6)
	if err != nil || !known || uint64(1)<<bit > f.Max() {
		return k, usage(fmt.Sprintf("--blind %q", s), "there is no such bit", "write FIELD/BIT, as in dst_port/3")
	}
	k.Set(f, 1<<bit)
	return k, nil
}

func printDemo(w io.Writer, r *hwtests.Report) error {
	rows := [][]string{{"BLADE", "RULE", "ANSWERED IN", "HARDWARE", "SOFTWARE", "WHY NOT (ALL) IN HARDWARE"}}
	for _, p := range r.Where {
		why := p.Reason
		if p.Code != "" {
			why = p.Code + ": " + why
		}
		rows = append(rows, []string{p.Blade, p.Rule, p.Place, fmt.Sprint(p.Hardware), fmt.Sprint(p.Software), why})
	}
	fmt.Fprintln(w)
	if err := printTable(w, rows); err != nil {
		return err
	}
	share := func(n uint64) float64 { return 100 * float64(n) / float64(max(1, r.Packets.Sent)) }
	fmt.Fprintf(w, "\n%d packets judged: %.0f %% in hardware, %.0f %% in software, at %d per second without a loss\n", r.Packets.Sent,
		share(r.Packets.Hardware), share(r.Packets.Software), r.Rate)
	fmt.Fprintf(w, "actions in hardware: %s\nactions in software: %s\n", strings.Join(r.Actions.Hardware, " "), strings.Join(r.Actions.Software, " "))
	for _, h := range r.Healed {
		fmt.Fprintf(w, "an entry of rule %s on %s was deleted behind the agent's back: found and healed after %.2f s\n", h.Rule, h.Blade, h.Seconds)
	}
	if err := printFabric(w, r.Fabric); err != nil {
		return err
	}
	for _, d := range r.Different {
		fmt.Fprintln(w, d)
	}
	verdict := "every frame that left every port is what the rules say, and what every card holds is proved"
	if !r.OK() {
		verdict = fmt.Sprintf("NOT RIGHT: %d frames or counters differ; proved: %t; moves are as they should be: %t", r.Mismatches, r.Proved, r.Fabric.OK())
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

// printFabric prints what was seen of the fabric.
func printFabric(w io.Writer, r *hwtests.FabricReport) error {
	rows := [][]string{{"SLOT", "BLADE", "PF", "SERIAL", "SPEED", "VFS", "USED", "RDMA DEVICES"}}
	for _, b := range r.Inventory {
		rows = append(rows, []string{fmt.Sprint(b.Slot), b.Blade, b.PF, b.Serial, fabric.BitsPerSecond(b.Speed).String(),
			fmt.Sprintf("%d of %d", b.VFs, b.TotalVFs), fmt.Sprint(b.Used), fmt.Sprint(b.RDMA)})
	}
	fmt.Fprintln(w)
	if err := printTable(w, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nprofile %s created on %s, %s: %.2f s from command to proved generation\n", r.Create.Profile, r.Create.Blade, r.Create.Port, r.Create.Seconds)
	for _, m := range []struct {
		what string
		*hwtests.Relocation
	}{{"moved", r.Move}, {"reverted", r.Revert}} {
		fmt.Fprintf(w, "%s from %s to %s: %.2f s from command to proved generation; no packet came for %.0f ms (%d of %d lost, %d came twice)\n",
			m.what, m.From, m.To, m.Seconds, 1000*m.Interruption, m.Lost, m.Sent, m.Twice)
		for _, wrong := range m.Wrong {
			fmt.Fprintf(w, "  NOT RIGHT: %s\n", wrong)
		}
	}
	fmt.Fprintf(w, "%d objects differ from the snapshot after the revert\n\n", r.Differ)
	for _, line := range r.Capacity {
		fmt.Fprintln(w, line)
	}
	_, err := fmt.Fprintln(w)
	return err
}
