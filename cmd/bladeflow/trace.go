package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
	var dev, inPort string
	cmd := &cobra.Command{
		Use:   "trace --rules F PACKET",
		Short: "show step by step what happens to a packet",
		Long: `Show step by step what happens to a packet, ending in its verdict. A packet is fields in text, a frame in
hexadecimal behind hex:, or a pcap file, - for one on standard input (each of its frames; --in-port says
where they came in; -o json then prints a line a frame). With --device, "place" says whether the planned
device would answer it.`,
		Example: `  bladeflow trace --rules web.yaml in_port=vf0,ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,dst_port=443
  bladeflow trace --rules web.yaml -o json in_port=vf0,hex:020000000002020000000001080645000014000000004011`,
		Args: needs("bladeflow trace --rules web.yaml in_port=vf0,ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,dst_port=443", "PACKET"),
	}
	in.flags(cmd)
	deviceFlag(cmd, &dev)
	cmd.Flags().StringVar(&inPort, "in-port", "", "port by which the frames of a pcap file came in")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		tr := tracer{rules: t}
		if dev != "" {
			if tr.device, err = planned(cmd, t, dev); err != nil {
				return err
			}
		}
		for _, lane := range matcher.Lanes() {
			tr.lanes = append(tr.lanes, matcher.Compile(t.Table, matcher.WithLane(lane)))
		}
		known := ports.Names()
		frames, port, isFile, err := framesToTrace(cmd, args[0], inPort, ports)
		if err != nil {
			return err
		}
		if name := ports.Name(port); port != 0 && len(known) > 0 && !slices.Contains(known, name) {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: port %s: no rule, station or uplink names it; they name %s\n", name, strings.Join(known, ", "))
		}
		agree := true
		for i, f := range frames {
			doing(cmd, "tracing frame %d of %d", i+1, len(frames))
			doc := tr.trace(f, port)
			agree = agree && doc.Agree
			switch {
			case *output == "text":
				for _, s := range doc.Steps {
					fmt.Fprintln(cmd.OutOrStdout(), s)
				}
			case isFile:
				err = printJSONLine(cmd.OutOrStdout(), doc)
			default:
				err = printJSON(cmd.OutOrStdout(), doc)
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

// planned returns the device called dev as a plan for t would fill it.
func planned(cmd *cobra.Command, t rules, dev string) (*filled, error) {
	m, err := device.Load(dev)
	if err != nil {
		return nil, err
	}
	m = device.Planned(m)
	doing(cmd, "planning %d rules for %s", t.Len(), m.Name)
	return fill(m, offload.NewPlan(t.Table, t.Table, nil, m, nil).Entries)
}

func framesToTrace(cmd *cobra.Command, arg, inPort string, ports *flow.Ports) (frames [][]byte, in flow.Port, isFile bool, err error) {
	if _, err := os.Stat(arg); err != nil && arg != "-" && !strings.HasSuffix(arg, ".pcap") {
		frame, in, err := flow.ParsePacket(arg, ports)
		return [][]byte{frame}, in, false, err
	}
	b, err := readFile(cmd, arg)
	if err != nil {
		return nil, 0, true, err
	}
	if frames, err = ruleset.ReadPcap(arg, b); err != nil || inPort == "" {
		return frames, 0, true, err
	}
	in, err = ports.Find(inPort)
	return frames, in, true, err
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

func (d *traceDoc) step(format string, a ...any) {
	d.Steps = append(d.Steps, fmt.Sprintf(format, a...))
}

// tracer judges packets by the definition, and compares with it every lane, and the
// device if there is one.
type tracer struct {
	rules
	lanes  []*matcher.Classifier
	device *filled // or nil
}

func (t *tracer) trace(frame []byte, in flow.Port) *traceDoc {
	doc := &traceDoc{Packet: fmt.Sprintf("hex:%x", frame), Frame: fmt.Sprintf("%x", frame), Out: []traceOut{}, Place: "software", Agree: true}
	k, err := flow.Parse(frame, in)
	if err != nil {
		doc.Rule, doc.Verdict = "-", flow.Drop.String()
		doc.step("parse: %v", err)
		doc.step("verdict: %s", doc.Verdict)
		return doc
	}
	doc.Packet = flow.FormatKey(k, t.Ports())
	doc.step("parse: %s", doc.Packet)
	won := t.Lookup(&k)
	r := t.Rule(won)
	doc.Rule = t.name(won)
	if won == t.Len() {
		doc.step("lookup: none of %s matches: the default", count(t.Len(), "rule"))
	} else {
		doc.step("lookup: rule %s (tier %s, priority %d), number %d of %d, matches: %s", doc.Rule, r.Tier, r.Priority, won+1, t.Len(), cmp.Or(flow.FormatMatch(&r.Match, t.Ports()), "every packet"))
	}
	for _, c := range t.lanes {
		if got := c.LookupOne(&k); got.ID != r.ID {
			doc.Agree = false
			doc.step("disagree: lane %s says rule %s", c.Lane(), got.Name)
		}
	}
	for _, a := range r.Actions {
		doc.step("action: %s", flow.FormatActions(flow.Actions{a}, t.Ports()))
	}
	out := flow.Judge(t.Table, frame, in)
	if t.device != nil {
		t.ask(doc, &k, frame, in, out)
	}
	for _, e := range out {
		o := traceOut{t.leaves(&e), changed(frame, &e), fmt.Sprintf("%x", e.Bytes)}
		doc.Out = append(doc.Out, o)
		how := "unchanged"
		if len(o.Changed) > 0 {
			how = strings.Join(o.Changed, ", ")
		}
		doc.step("emit: to %s, %s", o.Port, how)
	}
	if len(out) == 0 {
		doc.step("emit: nothing leaves%s", t.whyNothing(r.Actions, frame, in))
	}
	doc.Verdict = r.Actions.Terminal().Op.String()
	doc.step("verdict: %s", doc.Verdict)
	return doc
}

// whyNothing says why actions that do not drop a frame send it nowhere; "" if they drop.
func (t *tracer) whyNothing(actions flow.Actions, frame []byte, in flow.Port) string {
	if actions.Terminal().Op == flow.Drop {
		return ""
	}
	var sent []flow.Emission
	for i := range actions { // the frame as each action gets it
		before := append(slices.Clone(actions[:i]), flow.Action{Op: flow.Pass})
		last := sent
		if sent = flow.Act(before, t.Switch(), 0, frame, in); len(sent) > 0 {
			continue
		}
		if by := actions[i-1]; by.Op == flow.Police {
			return fmt.Sprintf(": the frame has %s, more than the burst of police lets pass at any time", count(len(last[0].Bytes), "byte"))
		}
		return fmt.Sprintf(": a frame has at most %d VLAN tags", flow.MaxTags)
	}
	k, _ := flow.Parse(sent[len(sent)-1].Bytes, in) // a frame that was emitted has a key
	vlan, mac, sw := uint16(k.Get(flow.VLAN)&flow.TagID), k.Get(flow.DstMAC), t.Switch()
	if k.Get(flow.VLAN)&flow.TagPresent == 0 {
		vlan = 0
	}
	where := "untagged"
	if vlan > 0 {
		where = fmt.Sprintf("in VLAN %d", vlan)
	}
	switch known := slices.ContainsFunc(sw.Stations(), func(s flow.Station) bool { return s.VLAN == vlan && s.MAC == mac }); {
	case known:
		return fmt.Sprintf(": %s is %s at %s, where the frame came from", flow.FormatMAC(mac), where, t.Ports().Name(in))
	case mac>>40&1 == 1:
		return fmt.Sprintf(": nobody else is %s (--station, --uplink)", where)
	case sw.Uplink() == 0:
		return fmt.Sprintf(": %s is no station %s, and there is no uplink (--station, --uplink)", flow.FormatMAC(mac), where)
	}
	return fmt.Sprintf(": %s is no station %s, and the frame came from the uplink", flow.FormatMAC(mac), where)
}

// ask says what the device does with the packet, and compares that with what should
// come of it.
func (t *tracer) ask(doc *traceDoc, k *flow.Key, frame []byte, in flow.Port, want []flow.Emission) {
	name := t.device.model.Name
	e := t.device.answers(k)
	switch {
	case e == nil:
		doc.step("device: %s misses it", name)
		return
	case e.Punt():
		doc.step("device: %s punts it: guard for rule %s", name, t.nameOf(e.Rule))
		return
	}
	doc.Place = "hardware"
	doc.step("device: %s answers it: %s %016x for rule %s", name, e.Kind, uint64(e.ID), t.nameOf(e.Rule))
	if !flow.SameEmissions(flow.Act(e.Actions, t.Switch(), e.Rule, frame, in), want) {
		doc.Agree = false
		doc.step("disagree: the device does something else")
	}
}

// changed lists what is different in a copy, checksums apart.
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
	both := before.Get(flow.Flags) & after.Get(flow.Flags)
	address := func(k *flow.Key, hi flow.Field) string {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], k.Get(hi))
		binary.BigEndian.PutUint64(b[8:], k.Get(hi+1))
		if k.Get(flow.EthType) == flow.EthIPv4 {
			return netip.AddrFrom4([4]byte(b[12:])).String()
		}
		return netip.AddrFrom16(b).String()
	}
	for _, set := range []struct {
		name string
		has  bool
		text func(*flow.Key) string
	}{
		{"src_mac", true, func(k *flow.Key) string { return flow.FormatMAC(k.Get(flow.SrcMAC)) }},
		{"dst_mac", true, func(k *flow.Key) string { return flow.FormatMAC(k.Get(flow.DstMAC)) }},
		{"src_ip", both&flow.FlagIP != 0, func(k *flow.Key) string { return address(k, flow.SrcHi) }},
		{"dst_ip", both&flow.FlagIP != 0, func(k *flow.Key) string { return address(k, flow.DstHi) }},
		{"ip_tos", both&flow.FlagIP != 0, func(k *flow.Key) string { return fmt.Sprint(k.Get(flow.TOS)) }},
		{"ip_ttl", both&flow.FlagIP != 0, func(k *flow.Key) string { return fmt.Sprint(k.Get(flow.TTL)) }},
		{"src_port", both&flow.FlagL4 != 0, func(k *flow.Key) string { return fmt.Sprint(k.Get(flow.SrcPort)) }},
		{"dst_port", both&flow.FlagL4 != 0, func(k *flow.Key) string { return fmt.Sprint(k.Get(flow.DstPort)) }},
	} {
		if was, is := set.text(&before), set.text(&after); set.has && was != is {
			out = append(out, fmt.Sprintf("%s: %s -> %s", set.name, was, is))
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
