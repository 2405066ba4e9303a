package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
)

// observeOptions are the flags of observe.
type observeOptions struct {
	look           agent.Look
	socket, config string
	count          int
	lasts          time.Duration
}

func observeCommand() *cobra.Command {
	var o observeOptions
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "show what becomes of packets on this blade, as it happens",
		Long: `Show what becomes of packets on this blade, until it is stopped. The blade's agent must run.

Tier software shows one packet a line. Tiers hardware and cache show one rule a line, with how many packets they
have answered for it since they were read last: a device once a round of the agent, the flow cache once a second.
By which port these came is only known of rules that name one (in_port): with --port the others are not shown.
Where more packets are wanted than --rate allows, some are left out; the next line says how many (skipped). What is
shown is copied out of the datapath, which never waits for whoever looks.

Packets are the tenants': the agent shows them to root, and to the group that its configuration names
(spec.observe.group). Who is in it can look and change nothing. The agent is found by its socket (--socket or
BLADEFLOW_OBSERVE), or by its configuration.

-o pcap writes the frames of tier software, of each at most 2,048 bytes, for Wireshark or tcpdump, and for
'bladeflow classify'.`,
		Example: `  bladeflow observe
  bladeflow observe --port vf0 --verdict drop --count 20
  bladeflow observe --rule web/in --for 10s -o json
  bladeflow observe --verdict drop --for 1m -o pcap >dropped.pcap`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.look.Ports, "port", nil, "only packets that came in by this `PORT`; may be repeated")
	f.StringArrayVar(&o.look.Rules, "rule", nil, "only packets that met this `RULE`, - for the default; may be repeated")
	f.StringArrayVar(&o.look.Verdicts, "verdict", nil, "only this: "+list(agent.Verdicts())+"; may be repeated")
	f.StringArrayVar(&o.look.Tiers, "tier", nil, "only what was answered there: "+list(agent.Tiers())+"; may be repeated")
	f.IntVar(&o.look.Rate, "rate", agent.DefaultRate, fmt.Sprintf("lines a second at most, up to %d", agent.MaxRate))
	f.IntVarP(&o.count, "count", "n", 0, "end after so many lines")
	f.DurationVar(&o.lasts, "for", 0, "end after this time")
	f.StringVar(&o.socket, "socket", "", "`SOCKET` of the agent (or BLADEFLOW_OBSERVE)")
	f.StringVar(&o.config, "config", "/etc/bladeflow/agent.yaml", "configuration `FILE` of the agent, which says where its socket is")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.RegisterFlagCompletionFunc("verdict", cobra.FixedCompletions(agent.Verdicts(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("tier", cobra.FixedCompletions(agent.Tiers(), cobra.ShellCompDirectiveNoFileComp))
	output := outputFlag(cmd, "text", "json", "pcap")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.complete(*output); err != nil {
			return err
		}
		write, err := observedWriter(cmd.OutOrStdout(), *output)
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		return o.run(ctx, func() { fmt.Fprintln(cmd.ErrOrStderr(), "looking on; Ctrl-C ends it") }, write)
	}
	return cmd
}

// complete checks the flags and fills in what they leave open.
func (o *observeOptions) complete(output string) error {
	switch {
	case o.count < 0:
		return usage(fmt.Sprintf("--count %d", o.count), "not a number of lines", "use 1 or more, or leave it out")
	case o.lasts < 0:
		return usage(fmt.Sprintf("--for %v", o.lasts), "not a time", "use a duration like 10s, or leave it out")
	case o.look.Rate < 1 || o.look.Rate > agent.MaxRate:
		return usage(fmt.Sprintf("--rate %d", o.look.Rate), fmt.Sprintf("not a number of lines a second from 1 to %d", agent.MaxRate), fmt.Sprintf("use %d", agent.DefaultRate))
	case output == "pcap" && slices.ContainsFunc(o.look.Tiers, func(tier string) bool { return tier != "software" }):
		return usage("-o pcap", "only tier software has frames: the others count", "leave out --tier, or use -o json")
	}
	if output == "pcap" {
		o.look.Tiers, o.look.Frames = []string{"software"}, true
		if _, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS); err == nil {
			return usage("-o pcap", "standard output is a terminal", "write it to a file: >FILE.pcap")
		}
	}
	if o.socket = cmp.Or(o.socket, os.Getenv("BLADEFLOW_OBSERVE")); o.socket != "" {
		return nil
	}
	f, err := agent.ReadFile(o.config)
	if err != nil {
		return err
	}
	if o.socket = f.Observe; o.socket == "" {
		return usage("observe", o.config+" has no socket for it", "set spec.observe.socket there, and start the agent again")
	}
	return nil
}

// errEnough ends a look that was told when to end.
var errEnough = errors.New("enough")

// run shows lines until there is a reason to end.
func (o *observeOptions) run(ctx context.Context, began func(), write func(*agent.Observed) error) error {
	limited := ctx
	if o.lasts > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, o.lasts)
		defer cancel()
	}
	lines, looking := 0, false
	err := agent.Observe(limited, o.socket, o.look, func() { looking = true; began() }, func(l *agent.Observed) error {
		if err := write(l); err != nil {
			return err
		}
		if lines++; lines == o.count {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough), looking && ctx.Err() != nil: // Ctrl-C is how a look ends
		return nil
	case o.lasts > 0 && limited.Err() != nil && ctx.Err() == nil:
		return nil
	}
	return err
}

// observedWriter returns what writes lines in one of the forms. Of pcap it writes the head.
func observedWriter(w io.Writer, form string) (func(*agent.Observed) error, error) {
	switch form {
	case "json":
		return func(l *agent.Observed) error { return printJSONLine(w, l) }, nil
	case "pcap":
		return func(l *agent.Observed) error { return writePcapRecord(w, l) }, writePcapHead(w)
	}
	return func(l *agent.Observed) error {
		_, err := fmt.Fprintln(w, observedText(l))
		return err
	}, nil
}

// observedText is one line for people: when, where, by which rule, what.
func observedText(l *agent.Observed) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-8s %-7s %s", l.Time.Format("15:04:05.000000"), l.Tier, l.Verdict, l.Rule)
	if len(l.Out) > 0 {
		fmt.Fprintf(&b, " to %s", strings.Join(l.Out, ","))
	}
	if l.Packet != "" {
		fmt.Fprintf(&b, ": %d bytes %s", l.Bytes, l.Packet)
	} else {
		fmt.Fprintf(&b, ": %d packets, %d bytes", l.Packets, l.Bytes)
	}
	if l.Skipped > 0 {
		fmt.Fprintf(&b, " (%d skipped)", l.Skipped)
	}
	return b.String()
}

// writePcapHead writes the head of a capture of Ethernet frames with times in nanoseconds.
func writePcapHead(w io.Writer) error {
	const magic, linkEthernet = 0xa1b23c4d, 1
	ne := binary.LittleEndian
	head := ne.AppendUint32(nil, magic)
	head = ne.AppendUint16(head, 2)
	head = ne.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...) // time zone and accuracy, which nobody sets
	head = ne.AppendUint32(head, agent.FrameBytes)
	head = ne.AppendUint32(head, linkEthernet)
	_, err := w.Write(head)
	return err
}

func writePcapRecord(w io.Writer, l *agent.Observed) error {
	ne := binary.LittleEndian
	record := ne.AppendUint32(nil, uint32(l.Time.Unix()))
	record = ne.AppendUint32(record, uint32(l.Time.Nanosecond()))
	record = ne.AppendUint32(record, uint32(len(l.Frame)))
	record = ne.AppendUint32(record, uint32(l.Length))
	_, err := w.Write(append(record, l.Frame...))
	return err
}
