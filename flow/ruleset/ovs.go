package ruleset

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Lines of `ovs-ofctl dump-flows`, for the fields and actions that Open vSwitch and
// bladeflow both know; anything else is a fault that names it. Line i, from 0, is
// rule ri. Port n of Open vSwitch is the blade's n-th port; LOCAL as an output is
// `pass`. What bladeflow cannot know from a line: Open vSwitch never sends a packet
// back to the port it came from, bladeflow's output does; and for Open vSwitch a
// later fragment has the ports 0, for bladeflow none.

func decodeOVS(file string, data []byte, ports *flow.Ports) ([]*Set, error) {
	name := setName(file)
	s := &Set{Name: name, UID: name, Tenant: "default", Tier: flow.TierTenant, file: file}
	for at, line := range lines(data) {
		if strings.Contains(line, "_FLOW reply ") { // NXST_FLOW reply (xid=0x4):
			continue
		}
		r := ovsReader{ports: ports}
		if err := r.read(line); err != nil {
			return nil, lineFault(file, at, err)
		}
		r.rule.Name = "r" + strconv.Itoa(len(s.Rules))
		s.Rules = append(s.Rules, r.rule)
		s.at = append(s.at, at)
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return []*Set{s}, nil
}

// ovsPriority is what Open vSwitch assumes where a line has no priority.
const ovsPriority = 32768

// ovsReader reads one line by turning its terms into bladeflow's.
type ovsReader struct {
	ports *flow.Ports
	rule  flow.Rule
	terms []flow.Term
	first map[string]string // which OVS field first became a field of ours
}

// ovsStatistics are fields of a line that say nothing about what it does.
var ovsStatistics = map[string]bool{"cookie": true, "duration": true, "n_packets": true, "n_bytes": true, "idle_age": true, "hard_age": true}

// ovsShorthand is what a word without a value stands for.
var ovsShorthand = map[string][2]string{ // eth_type, ip_proto
	"ip": {"ipv4"}, "ipv6": {"ipv6"}, "arp": {"arp"}, "rarp": {"rarp"},
	"icmp": {"ipv4", "icmp"}, "tcp": {"ipv4", "tcp"}, "udp": {"ipv4", "udp"}, "sctp": {"ipv4", "sctp"},
	"icmp6": {"ipv6", "icmpv6"}, "icmpv6": {"ipv6", "icmpv6"}, "tcp6": {"ipv6", "tcp"}, "udp6": {"ipv6", "udp"}, "sctp6": {"ipv6", "sctp"},
}

// ovsFields are fields that only have another name.
var ovsFields = map[string]string{
	"in_port": "in_port", "dl_src": "src_mac", "eth_src": "src_mac", "dl_dst": "dst_mac", "eth_dst": "dst_mac",
	"dl_type": "eth_type", "eth_type": "eth_type", "dl_vlan_pcp": "vlan_prio", "vlan_pcp": "vlan_prio",
	"nw_src": "src_ip", "ip_src": "src_ip", "ipv6_src": "src_ip", "nw_dst": "dst_ip", "ip_dst": "dst_ip", "ipv6_dst": "dst_ip",
	"nw_proto": "ip_proto", "ip_proto": "ip_proto", "nw_ttl": "ip_ttl",
	"tp_src": "src_port", "tcp_src": "src_port", "udp_src": "src_port", "sctp_src": "src_port",
	"tp_dst": "dst_port", "tcp_dst": "dst_port", "udp_dst": "dst_port", "sctp_dst": "dst_port",
	"tcp_flags": "tcp_flags", "icmp_type": "icmp_type", "icmpv6_type": "icmp_type", "icmp_code": "icmp_code", "icmpv6_code": "icmp_code",
}

func (r *ovsReader) read(line string) error {
	head, tail, found := strings.Cut(line, "actions=")
	if !found {
		return &flow.Fault{Code: "E_ACTION", What: "flow", Why: "it has no actions", Remedy: "take the line as dump-flows prints it", Offset: len(line)}
	}
	r.first = map[string]string{}
	r.rule.Priority = ovsPriority
	at := 0
	for part := range strings.FieldsFuncSeq(head, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }) {
		at += strings.Index(head[at:], part)
		if err := r.field(part, at); err != nil {
			return err
		}
		at += len(part)
	}
	var err error
	if r.rule.Match, err = flow.NewMatch(r.terms, r.ports); err != nil {
		return err
	}
	actions := ovsActions{ports: r.ports, match: &r.rule.Match}
	if r.rule.Actions, err = actions.read(tail, len(line)-len(tail)); err != nil {
		return err
	}
	if err = r.rule.Valid(); err != nil {
		f := *asFault(err)
		f.Offset = len(line) - len(tail)
		return &f
	}
	return nil
}

func (r *ovsReader) fault(what string, at int, why, remedy string) error {
	return &flow.Fault{Code: "E_OVS", What: what, Why: why, Remedy: remedy, Offset: at}
}

// add says one of our fields. Shorthands and fields may say the same twice.
func (r *ovsReader) add(name, value string, at int) error {
	if have, twice := r.first[name]; twice {
		if have != value {
			return r.fault("field "+name, at, fmt.Sprintf("it is %s and %s", have, value), "leave one out")
		}
		return nil
	}
	r.first[name] = value
	r.terms = append(r.terms, flow.Term{Name: name, Value: value, Offset: at})
	return nil
}

func (r *ovsReader) field(part string, at int) error {
	name, value, _ := strings.Cut(part, "=")
	if name == "in_port" && (value == "LOCAL" || value == "65534") {
		return r.fault("field "+part, at, "what the host itself sends passes no rules here", "take the flow out")
	}
	if ours, known := ovsFields[name]; known && value != "" {
		return r.add(ours, r.value(ours, value), at)
	}
	if short, known := ovsShorthand[part]; known {
		if err := r.add("eth_type", short[0], at); err != nil || short[1] == "" {
			return err
		}
		return r.add("ip_proto", short[1], at)
	}
	switch {
	case ovsStatistics[name]:
		return nil
	case name == "table" && value == "0":
		return nil
	case name == "priority":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return r.fault("field priority", at, fmt.Sprintf("%q is not a number from 0 to 65535", value), "take the line as dump-flows prints it")
		}
		if have, twice := r.first[name]; twice && have != value {
			return r.fault("field priority", at, fmt.Sprintf("it is %s and %s", have, value), "leave one out")
		}
		r.first[name], r.rule.Priority = value, int32(n)
		return nil
	case name == "dl_vlan" || name == "vlan_vid":
		return r.vlan(name, value, at)
	case name == "vlan_tci" && value == "0x0000/0x1fff", name == "vlan_tci" && value == "0x0000/0x1000":
		return r.add("vlan_id", "none", at)
	case name == "nw_tos":
		return r.tos(name, value, 0, 0xfc, at)
	case name == "ip_dscp":
		return r.tos(name, value, 2, 0xfc, at)
	case name == "nw_ecn" || name == "ip_ecn":
		return r.tos(name, value, 0, 0x03, at)
	case name == "nw_frag" || name == "ip_frag":
		switch value {
		case "no", "first", "later":
			return r.add("ip_frag", value, at)
		}
	}
	return r.fault("field "+part, at, "bladeflow has no such field, or not with this value", "take it out of the flow")
}

// value writes a value as our texts have it.
func (r *ovsReader) value(ours, value string) string {
	switch ours {
	case "in_port":
		if _, err := strconv.ParseUint(value, 10, 16); err == nil {
			return "#" + value
		}
		return strings.Trim(value, `"`)
	case "eth_type":
		if m, err := flow.ParseMatch("eth_type="+value, nil); err == nil {
			return flow.MatchTerms(&m, nil)[0].Value // the same word for the same type
		}
	case "ip_proto":
		if m, err := flow.ParseMatch("ip_proto="+value, nil); err == nil {
			return flow.MatchTerms(&m, nil)[0].Value
		}
	}
	return value
}

// vlan reads dl_vlan=ID, dl_vlan=0xffff (untagged) and vlan_vid=0x1000|ID.
func (r *ovsReader) vlan(name, value string, at int) error {
	switch {
	case name == "dl_vlan" && (value == "0xffff" || value == "65535"), name == "vlan_vid" && (value == "0" || value == "0x0000"):
		return r.add("vlan_id", "none", at)
	case value == "0x1000/0x1000":
		return r.add("vlan_id", "any", at)
	}
	n, err := strconv.ParseUint(value, 0, 16)
	if name == "vlan_vid" && err == nil {
		if n&flow.TagPresent == 0 {
			return r.fault("field vlan_vid", at, value+" has no 0x1000 in it", "add 0x1000")
		}
		n &^= flow.TagPresent
	}
	if err != nil || n > flow.TagID {
		return r.fault("field "+name, at, fmt.Sprintf("%q is not a VLAN id from 0 to 4095", value), "take the line as dump-flows prints it")
	}
	return r.add("vlan_id", strconv.FormatUint(n, 10), at)
}

// tos reads a part of the TOS byte.
func (r *ovsReader) tos(name, value string, shift int, mask uint64, at int) error {
	n, err := strconv.ParseUint(value, 0, 8)
	if n <<= shift; err != nil || n&^mask != 0 {
		return r.fault("field "+name, at, fmt.Sprintf("%q is out of range", value), "take the line as dump-flows prints it")
	}
	// The two parts are two OVS fields and one of ours.
	for i := range r.terms {
		if t := &r.terms[i]; t.Name == "ip_tos" {
			v, m, _ := strings.Cut(t.Value, "/")
			have, _ := strconv.ParseUint(v, 0, 8)
			hadMask, _ := strconv.ParseUint(m, 0, 8)
			if (have^n)&mask&hadMask != 0 {
				return r.fault("field "+name, at, "it contradicts an earlier field", "leave one out")
			}
			t.Value = fmt.Sprintf("0x%02x/0x%02x", have|n, hadMask|mask)
			return nil
		}
	}
	return r.add("ip_tos", fmt.Sprintf("0x%02x/0x%02x", n, mask), at)
}

// ovsActions turns the actions of a line into ours. Open vSwitch has no terminal
// action: outputs that end a list become one output, an earlier one a mirror, and a
// list that ends without an output drops.
type ovsActions struct {
	ports  *flow.Ports
	match  *flow.Match
	out    flow.Actions
	open   int  // index in out of a vlan_push whose tag may still be set, or -1
	tagged bool // the frame surely has a tag
	bare   bool // the frame surely has none
	ended  bool
}

func (a *ovsActions) fault(text string, at int, why string) error {
	return &flow.Fault{Code: "E_OVS", What: "action " + text, Why: why, Remedy: "take it out of the flow", Offset: at}
}

func (a *ovsActions) read(s string, base int) (flow.Actions, error) {
	a.open = -1
	vlan, mask := a.match.Value.Get(flow.VLAN), a.match.Mask.Get(flow.VLAN)
	a.tagged, a.bare = vlan&flow.TagPresent != 0, mask&flow.TagPresent != 0 && vlan&flow.TagPresent == 0
	at := base
	for part := range strings.SplitSeq(s, ",") {
		text := strings.TrimSpace(part)
		offset := at + strings.Index(part, text)
		at += len(part) + 1
		if a.ended {
			return nil, a.fault(text, offset, "bladeflow does nothing after NORMAL, LOCAL or drop")
		}
		if err := a.one(text, offset); err != nil {
			return nil, err
		}
	}
	if n := len(a.out); n > 0 && a.out[n-1].Op == flow.Mirror {
		a.out[n-1].Op = flow.Output
	} else if !a.ended {
		a.out = append(a.out, flow.Action{Op: flow.Drop})
	}
	return a.out, a.out.Valid()
}

// end appends a terminal action.
func (a *ovsActions) end(op flow.Op) error {
	a.out = append(a.out, flow.Action{Op: op})
	a.ended = true
	return nil
}

func (a *ovsActions) one(text string, at int) error {
	name, value, _ := strings.Cut(text, ":")
	switch {
	case text == "drop" && len(a.out) == 0:
		return a.end(flow.Drop)
	case text == "NORMAL" || text == "normal":
		return a.end(flow.Normal)
	case text == "LOCAL" || text == "output:LOCAL":
		return a.end(flow.Pass)
	case text == "strip_vlan" || text == "pop_vlan":
		a.open, a.tagged = -1, false
		a.out = append(a.out, flow.Action{Op: flow.VLANPop})
		return nil
	case name == "push_vlan" && value != "":
		proto, err := strconv.ParseUint(value, 0, 16)
		if err != nil || proto != flow.EthVLAN && proto != flow.EthQinQ {
			return a.fault(text, at, "bladeflow pushes 0x8100 and 0x88a8 only")
		}
		a.push(uint16(proto))
		return nil
	case name == "mod_vlan_vid":
		return a.setTag(text, value, flow.TagID, 0, at)
	case name == "mod_vlan_pcp":
		return a.setTag(text, value, 7, 13, at)
	case name == "set_field":
		v, field, _ := strings.Cut(value, "->")
		switch field {
		case "vlan_vid":
			n, err := strconv.ParseUint(v, 0, 16)
			if err != nil || n&flow.TagPresent == 0 {
				return a.fault(text, at, "the value has no 0x1000 in it")
			}
			return a.setTag(text, strconv.FormatUint(n&^flow.TagPresent, 10), flow.TagID, 0, at)
		case "vlan_pcp":
			return a.setTag(text, v, 7, 13, at)
		}
		if ok, err := a.set(text, field, v, at); ok {
			return err
		}
		return a.fault(text, at, "bladeflow sets no such field")
	case strings.HasPrefix(name, "mod_"):
		if ok, err := a.set(text, strings.TrimPrefix(name, "mod_"), value, at); ok {
			return err
		}
	}
	if name == "output" {
		text = value
	}
	return a.output(text, at)
}

func (a *ovsActions) push(proto uint16) {
	a.open, a.tagged, a.bare = len(a.out), true, false
	a.out = append(a.out, flow.Action{Op: flow.VLANPush, Proto: proto})
}

// setTag sets the id or the priority of the outer tag: of one just pushed, or, the
// id only, of one that the match says is there. On an untagged frame it pushes one.
func (a *ovsActions) setTag(text, value string, limit uint64, shift, at int) error {
	n, err := strconv.ParseUint(value, 0, 16)
	if err != nil || n > limit {
		return a.fault(text, at, fmt.Sprintf("%q is not a number from 0 to %d", value, limit))
	}
	if a.bare {
		a.push(flow.EthVLAN)
	}
	if a.open >= 0 {
		p := &a.out[a.open]
		p.Tag = p.Tag&^uint16(limit<<shift) | uint16(n)<<shift
		return nil
	}
	if shift != 0 {
		return a.fault(text, at, "bladeflow sets the priority of a tag only with vlan_push")
	}
	if !a.tagged {
		return a.fault(text, at, "it tags untagged frames and changes the tag of others, which bladeflow does in two rules")
	}
	a.out = append(a.out, flow.Action{Op: flow.VLANSet, Tag: uint16(n)})
	return nil
}

func (a *ovsActions) output(text string, at int) error {
	name := strings.Trim(text, `"`)
	pinned := a.match.Mask.Get(flow.InPort) != 0
	back := text == "IN_PORT" && pinned
	if back {
		name = fmt.Sprintf("#%d", a.match.Value.Get(flow.InPort))
	} else if _, err := strconv.ParseUint(name, 10, 16); err == nil {
		name = "#" + name
	} else if name == text && !strings.HasPrefix(text, `"`) && strings.ToUpper(text) == text {
		return a.fault(text, at, "bladeflow has no such action")
	}
	p, err := a.ports.Find(name)
	if err != nil || p == 0 {
		return a.fault(text, at, "neither an action nor a port that bladeflow has")
	}
	if pinned && !back && a.match.Value.Get(flow.InPort) == uint64(p) {
		return nil // Open vSwitch does not send back
	}
	a.open = -1
	if n := len(a.out); n > 0 && a.out[n-1].Op == flow.Mirror {
		a.out[n-1].Ports = append(a.out[n-1].Ports, p)
		return nil
	}
	a.out = append(a.out, flow.Action{Op: flow.Mirror, Ports: []flow.Port{p}})
	return nil
}
