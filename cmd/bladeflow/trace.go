package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/matcher"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

func traceCommand() *cobra.Command {
	var in rulesInput
	var dev string
	cmd := &cobra.Command{
		Use:   "trace --rules F PACKET",
		Short: "show step by step what happens to a packet",
		Long: `Show step by step what happens to a packet, ending in its verdict. A packet is fields in text, a frame in
hexadecimal behind hex:, or a pcap file (each of its frames; --in-port says where they came in).
With --device, "place" says whether the planned device would answer it.`,
		Example: `  bladeflow trace --rules web.yaml in_port=vf0,ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,dst_port=443
  bladeflow trace --rules web.yaml -o json in_port=vf0,hex:020000000002020000000001080645000014000000004011`,
		Args: cobra.ExactArgs(1),
	}
	in.flags(cmd)
	var inPort string
	cmd.Flags().StringVar(&dev, "device", "", "device model that rules are planned for")
	cmd.Flags().StringVar(&inPort, "in-port", "", "port by which the frames of a pcap file came in")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		var plan *offload.Plan
		var m device.Model
		if dev != "" {
			if m, err = device.Load(dev); err != nil {
				return err
			}
			p := offload.NewPlan(t.Table, t.Table, nil, m, nil)
			plan = &p
		}
		frames, port, err := framesToTrace(cmd, args[0], inPort, ports)
		if err != nil {
			return err
		}
		agree := true
		for _, f := range frames {
			doc := traceOf(t, f, port)
			if plan != nil {
				doc.place(t, f, port, plan.Entries, m)
			}
			agree = agree && doc.Agree
			if *output == "json" {
				err = printJSON(cmd.OutOrStdout(), doc)
			} else {
				err = doc.print(cmd)
			}
			if err != nil {
				return err
			}
		}
		if !agree {
			return &flow.Fault{Code: "E_MISMATCH", What: "packet", Why: "not all implementations agree on it", Remedy: "report it with the rules and the packet"}
		}
		return nil
	}
	return cmd
}

func framesToTrace(cmd *cobra.Command, arg, inPort string, ports *flow.Ports) ([][]byte, flow.Port, error) {
	if _, err := os.Stat(arg); err != nil && !strings.HasSuffix(arg, ".pcap") {
		frame, in, err := flow.ParsePacket(arg, ports)
		return [][]byte{frame}, in, err
	}
	b, err := readFile(cmd, arg)
	if err != nil {
		return nil, 0, err
	}
	frames, err := ruleset.ReadPcap(arg, b)
	if err != nil || inPort == "" {
		return frames, 0, err
	}
	in, err := ports.Find(inPort)
	return frames, in, err
}

// traceDoc is the JSON form of what happens to one packet.
type traceDoc struct {
	Packet  string     `json:"packet"`
	Frame   string     `json:"frame"`
	Steps   []string   `json:"steps"`
	Rule    string     `json:"rule"`
	Verdict string     `json:"verdict"`
	Out     []traceOut `json:"out"`
	Place   string     `json:"place"`
	Agree   bool       `json:"agree"`
}

// traceOut is one copy that leaves, and what is different in it.
type traceOut struct {
	Port    string   `json:"port"`
	Changed []string `json:"changed"`
	Frame   string   `json:"frame"`
}

// traceOf judges a frame by the definition and compares every lane with it.
func traceOf(t rules, frame []byte, in flow.Port) *traceDoc {
	doc := &traceDoc{Frame: fmt.Sprintf("%x", frame), Out: []traceOut{}, Place: "software", Agree: true}
	step := func(format string, a ...any) { doc.Steps = append(doc.Steps, fmt.Sprintf(format, a...)) }
	k, err := flow.Parse(frame, in)
	if err != nil {
		doc.Rule, doc.Verdict = "-", flow.Drop.String()
		step("parse: %v: dropped", err)
		return doc
	}
	doc.Packet = flow.FormatKey(k, t.Ports())
	step("parse: %s", doc.Packet)
	won := t.Lookup(&k)
	r := t.Rule(won)
	doc.Rule = t.name(won)
	if won == t.Len() {
		step("lookup: none of %d rules matches: the default", t.Len())
	} else {
		step("lookup: rule %s (tier %s, priority %d), number %d of %d, matches: %s", doc.Rule, r.Tier, r.Priority, won+1, t.Len(), flow.FormatMatch(&r.Match, t.Ports()))
	}
	for _, a := range r.Actions {
		step("action: %s", flow.FormatActions(flow.Actions{a}, t.Ports()))
	}
	out := flow.Judge(t.Table, frame, in)
	for _, e := range out {
		name := t.Ports().Name(e.Port)
		if e.Kernel {
			name = "kernel:" + name
		}
		o := traceOut{name, changed(frame, &e), fmt.Sprintf("%x", e.Bytes)}
		doc.Out = append(doc.Out, o)
		step("emit: to %s%s", name, withChanges(o.Changed))
	}
	if len(out) == 0 {
		step("emit: nothing leaves")
	}
	doc.Verdict = r.Actions.Terminal().Op.String()
	step("verdict: %s", doc.Verdict)
	for _, lane := range matcher.Lanes() {
		if got := matcher.Compile(t.Table, matcher.WithLane(lane)).LookupOne(&k); got != won {
			doc.Agree = false
			step("disagree: lane %s says rule %s", lane, t.name(got))
		}
	}
	return doc
}

// changed lists what is different in a copy. Actions change nothing but VLAN tags.
func changed(frame []byte, e *flow.Emission) []string {
	out := []string{}
	before, _ := flow.Parse(frame, 0) // a frame that was emitted has a key
	after, _ := flow.Parse(e.Bytes, 0)
	for _, tag := range []struct {
		name  string
		field flow.Field
	}{{"vlan", flow.VLAN}, {"cvlan", flow.CVLAN}} {
		if was, is := before.Get(tag.field), after.Get(tag.field); was != is {
			out = append(out, fmt.Sprintf("%s: %s -> %s", tag.name, tagText(was), tagText(is)))
		}
	}
	return out
}

func tagText(tci uint64) string {
	if tci&flow.TagPresent == 0 {
		return "none"
	}
	return fmt.Sprintf("id %d prio %d", tci&flow.TagID, tci>>13)
}

func withChanges(c []string) string {
	if len(c) == 0 {
		return ", unchanged"
	}
	return ", " + strings.Join(c, ", ")
}

// place says where the packet would be answered, and compares a device that answers
// it with the definition.
func (d *traceDoc) place(t rules, frame []byte, in flow.Port, entries []flow.Entry, m device.Model) {
	k, err := flow.Parse(frame, in)
	if err != nil {
		return
	}
	e := answers(entries, m, &k)
	switch {
	case e == nil:
		d.Steps = append(d.Steps, "device: "+m.Name+" misses it")
		return
	case e.Punt():
		d.Steps = append(d.Steps, "device: "+m.Name+" punts it: guard for rule "+t.nameOf(e.Rule))
		return
	}
	d.Place = "hardware"
	d.Steps = append(d.Steps, fmt.Sprintf("device: %s answers it: %s %016x for rule %s", m.Name, e.Kind, uint64(e.ID), t.nameOf(e.Rule)))
	got := flow.Act(e.Actions, t.Switch(), e.Rule, frame, in)
	d.Agree = d.Agree && flow.SameEmissions(got, flow.Judge(t.Table, frame, in))
}

func (d *traceDoc) print(cmd *cobra.Command) error {
	for _, s := range d.Steps {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), s); err != nil {
			return err
		}
	}
	return nil
}
