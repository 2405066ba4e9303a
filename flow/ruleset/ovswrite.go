package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// encodeOVS writes the lines of one table. Priorities that Open vSwitch does not
// have, and tiers, become ranks. A range of ports becomes the masks it consists of, one line each, and a rule of
// ports without a protocol is refused, because Open vSwitch cannot say it. The
// cookie of a line is the RuleID.
func encodeOVS(w io.Writer, sets []*Set) error {
	rules := inOrder(sets)
	b := bufio.NewWriter(w)
	rank := 0 // how many different (tier, priority) there are
	ranks := make([]int, len(rules))
	for i := len(rules) - 1; i >= 0; i-- {
		if i+1 < len(rules) && (rules[i].Tier != rules[i+1].Tier || rules[i].Priority != rules[i+1].Priority) {
			rank++
		}
		ranks[i] = rank
	}
	keep := len(rules) > 0 && rules[0].Tier == rules[len(rules)-1].Tier && rules[0].Priority <= 0xffff
	if rank > 0xffff && !keep {
		return &flow.Fault{Code: "E_FORMAT_RULES", What: fmt.Sprintf("%d priorities", rank+1), Why: "Open vSwitch has 65536", Remedy: "use the format yaml or flows"}
	}
	for i, r := range rules {
		priority := ranks[i]
		if keep {
			priority = int(r.Priority)
		}
		heads, err := ovsMatches(&r.Match)
		if err == nil {
			var actions string
			if actions, err = ovsActionText(r); err == nil {
				for _, head := range heads {
					fmt.Fprintf(b, "cookie=0x%x, table=0, priority=%d%s actions=%s\n", uint64(r.ID), priority, head, actions)
				}
				continue
			}
		}
		f := *asFault(err)
		f.What = "rule " + r.Name + ": " + f.What
		return &f
	}
	return b.Flush()
}

// ovsMatches writes the lines' matches, each with a comma in front of every field.
func ovsMatches(m *flow.Match) ([]string, error) {
	unsayable := func(field, why string) error {
		return &flow.Fault{Code: "E_FORMAT_FIELD", What: "field " + field, Why: why, Remedy: "change the rule, or use the format yaml or flows"}
	}
	var head string
	var ranges [2][]string
	add := func(name, value string) { head += "," + name + "=" + value }
	terms := flow.MatchTerms(m, nil)
	if len(terms) > 0 && terms[0].Name == "bare" {
		return nil, unsayable("bare", "the match has masks that Open vSwitch cannot say")
	}
	named := map[string]string{}
	for _, t := range terms {
		named[t.Name] = t.Value
	}
	six := m.Value.Get(flow.EthType) == flow.EthIPv6
	ethType := m.Mask.Get(flow.EthType) == flow.EthType.Max()
	if (named["ip_proto"] != "" || named["ip_tos"] != "" || named["ip_ttl"] != "" || named["ip_frag"] != "") && !ethType {
		return nil, unsayable("eth_type", "Open vSwitch needs ipv4 or ipv6 here beside fields of IP")
	}
	if (named["src_port"] != "" || named["dst_port"] != "") && named["ip_proto"] == "" {
		return nil, unsayable("ip_proto", "Open vSwitch needs it beside ports")
	}
	if ethType { // before everything that needs it
		add("dl_type", fmt.Sprintf("0x%04x", m.Value.Get(flow.EthType)))
	}
	for _, t := range terms {
		switch t.Name {
		case "in_port":
			add("in_port", fmt.Sprint(m.Value.Get(flow.InPort)))
		case "src_mac", "dst_mac":
			add("dl_"+t.Name[:3], t.Value)
		case "eth_type":
		case "vlan_id":
			switch t.Value {
			case "none":
				add("vlan_tci", "0x0000/0x1000")
			case "any":
				add("vlan_vid", "0x1000/0x1000")
			default:
				add("dl_vlan", t.Value)
			}
		case "vlan_prio":
			add("dl_vlan_pcp", t.Value)
		case "ip_proto":
			add("nw_proto", fmt.Sprint(m.Value.Get(flow.Proto)))
		case "src_ip", "dst_ip":
			name := "nw_" + t.Name[:3]
			if six {
				name = "ipv6_" + t.Name[:3]
			}
			add(name, t.Value)
		case "ip_tos":
			v, mask := m.Value.Get(flow.TOS), m.Mask.Get(flow.TOS)
			if mask&0xfc != 0 && mask&0xfc != 0xfc || mask&3 != 0 && mask&3 != 3 {
				return nil, unsayable("ip_tos", "Open vSwitch has the masks 0xfc, 0x03 and 0xff only")
			}
			if mask&0xfc != 0 {
				add("nw_tos", fmt.Sprint(v&0xfc))
			}
			if mask&3 != 0 {
				add("nw_ecn", fmt.Sprint(v&3))
			}
		case "ip_ttl":
			if strings.Contains(t.Value, "/") {
				return nil, unsayable("ip_ttl", "Open vSwitch has no mask for it")
			}
			add("nw_ttl", t.Value)
		case "ip_frag":
			add("nw_frag", t.Value)
		case "tcp_flags", "icmp_type", "icmp_code":
			name := t.Name
			if six {
				name = strings.Replace(name, "icmp_", "icmpv6_", 1)
			}
			add(name, t.Value)
		case "src_port":
			ranges[0] = portMasks("tp_src", m, flow.SrcPort, m.SrcPort)
		case "dst_port":
			ranges[1] = portMasks("tp_dst", m, flow.DstPort, m.DstPort)
		default:
			return nil, unsayable(t.Name, "Open vSwitch has no such field")
		}
	}
	var out []string
	for _, src := range orNone(ranges[0]) {
		for _, dst := range orNone(ranges[1]) {
			out = append(out, head+src+dst)
		}
	}
	return out, nil
}

func orNone(s []string) []string {
	if len(s) == 0 {
		return []string{""}
	}
	return s
}

// portMasks writes a port's mask, or the fewest prefixes that make up its range.
func portMasks(name string, m *flow.Match, f flow.Field, r flow.PortRange) []string {
	if r.Any() {
		if mask := m.Mask.Get(f); mask != 0xffff {
			return []string{fmt.Sprintf(",%s=0x%x/0x%x", name, m.Value.Get(f), mask)}
		}
		return []string{fmt.Sprintf(",%s=%d", name, m.Value.Get(f))}
	}
	var out []string
	for lo, end := uint32(r.Lo), uint32(r.Hi)+1; lo < end; {
		size := uint32(1) << min(bits.TrailingZeros32(lo|1<<16), bits.Len32(end-lo)-1)
		if size == 1 {
			out = append(out, fmt.Sprintf(",%s=%d", name, lo))
		} else {
			out = append(out, fmt.Sprintf(",%s=0x%x/0x%x", name, lo, 0xffff&^(size-1)))
		}
		lo += size
	}
	return out
}

func ovsActionText(r *flow.Rule) (string, error) {
	var out []string
	tagged := r.Match.Value.Get(flow.VLAN)&flow.TagPresent != 0 // surely
	for _, a := range r.Actions {
		switch a.Op {
		case flow.Drop:
			if len(r.Actions) == 1 {
				out = append(out, "drop")
			} // else: nothing more happens, which needs no word
		case flow.Normal:
			out = append(out, "NORMAL")
		case flow.Pass:
			out = append(out, "LOCAL")
		case flow.Output, flow.Mirror:
			for _, p := range a.Ports {
				if r.Match.Mask.Get(flow.InPort) != 0 && r.Match.Value.Get(flow.InPort) == uint64(p) {
					out = append(out, "IN_PORT")
				} else {
					out = append(out, fmt.Sprintf("output:%d", p))
				}
			}
		case flow.VLANPush:
			tagged = true
			out = append(out, fmt.Sprintf("push_vlan:0x%04x", a.Proto), fmt.Sprintf("set_field:%d->vlan_vid", flow.TagPresent|a.Tag&flow.TagID))
			if prio := a.Tag >> 13; prio != 0 {
				out = append(out, fmt.Sprintf("set_field:%d->vlan_pcp", prio))
			}
		case flow.VLANPop:
			tagged = false
			out = append(out, "strip_vlan")
		case flow.VLANSet:
			if !tagged {
				return "", &flow.Fault{Code: "E_FORMAT_ACTION", What: "action vlan_set", Why: "Open vSwitch has it for tagged frames only",
					Remedy: "add vlan_id=any to the match"}
			}
			out = append(out, fmt.Sprintf("set_field:%d->vlan_vid", flow.TagPresent|a.Tag))
		case flow.Police:
			return "", &flow.Fault{Code: "E_FORMAT_ACTION", What: "action police", Why: "Open vSwitch has meters in a table beside its flows", Remedy: "use the format yaml or flows"}
		case flow.Set:
			texts, err := ovsSetText(a, &r.Match)
			if err != nil {
				return "", err
			}
			out = append(out, texts...)
		default:
			return "", &flow.Fault{Code: "E_FORMAT_ACTION", What: "action " + a.Op.String(), Why: "Open vSwitch has no such action", Remedy: "use the format yaml or flows"}
		}
	}
	if len(out) == 0 {
		out = append(out, "drop")
	}
	return strings.Join(out, ","), nil
}
