package main

import (
	"bufio"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

func classifyCommand() *cobra.Command {
	var in rulesInput
	var trace, lane string
	cmd := &cobra.Command{
		Use:   "classify --rules F --trace F",
		Short: "print the rule that each packet of a trace gets, or - for the default",
		Long: `Print one line a packet: the name of the rule that wins, or - for the default.

The trace is ClassBench's (one packet a line, "sip dip sport dport proto [expected]"), packets in
text, one a line, or a pcap file. Where it says what is expected, the number of packets that
differ is printed on standard error, and any makes the exit code 1.`,
		Example: `  bladeflow classify --rules acl.rules --from classbench --trace acl.trace --lane definition`,
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&trace, "trace", "", "file of packets, - for standard input")
	var lanes []string
	for _, l := range matcher.Lanes() {
		lanes = append(lanes, l.String())
	}
	choiceFlag(cmd, &lane, "lane", "", lanes[0], "implementation that answers, of those this machine has", lanes...)
	_ = cmd.MarkFlagRequired("trace")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := matcher.ParseLane(lane)
		if err != nil {
			return err
		}
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		p, err := readPackets(cmd, trace, ports)
		if err != nil {
			return err
		}
		return classify(cmd, t, matcher.Compile(t.Table, matcher.WithLane(l)), p)
	}
	return cmd
}

func classify(cmd *cobra.Command, t rules, c *matcher.Classifier, p packets) error {
	const size = 256
	out := bufio.NewWriter(cmd.OutOrStdout())
	b := matcher.Batch{Rules: make([]int32, size)}
	differ := 0
	for at := 0; at < len(p.keys); at += size {
		doing(cmd, "classified %d of %d packets", at, len(p.keys))
		b.Keys = p.keys[at:min(at+size, len(p.keys))]
		b.Rules = b.Rules[:len(b.Keys)]
		c.Lookup(&b)
		for i, r := range b.Rules {
			fmt.Fprintln(out, t.name(int(r)))
			if p.expected != nil && !t.expects(p.expected[at+i], int(r)) {
				differ++
			}
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if differ > 0 {
		return &flow.Fault{Code: "E_DIFFERS", What: fmt.Sprintf("%d of %d packets", differ, len(p.keys)),
			Why: "they got another rule than the trace expects", Remedy: "check that trace and rules belong together"}
	}
	return nil
}

// expects reports whether rule i of the table is what a trace calls want: the place
// in the file, which is the order of a ClassBench table, or -1 for the default.
func (r rules) expects(want int32, i int) bool {
	if want < 0 {
		return i == r.Len()
	}
	return int(want) == i
}
