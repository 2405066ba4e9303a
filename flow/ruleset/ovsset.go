package ruleset

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Open vSwitch sets one field at a time, by mod_NAME:VALUE or set_field:VALUE->NAME. What
// stands together becomes one set action, and the other way round.

// ovsSettable are the fields that Open vSwitch sets and bladeflow has, by every name.
var ovsSettable = map[string]string{
	"dl_src": "src_mac", "eth_src": "src_mac", "dl_dst": "dst_mac", "eth_dst": "dst_mac",
	"nw_src": "src_ip", "ip_src": "src_ip", "ipv6_src": "src_ip", "nw_dst": "dst_ip", "ip_dst": "dst_ip", "ipv6_dst": "dst_ip",
	"nw_tos": "ip_tos", "ip_dscp": "ip_tos", "nw_ecn": "ip_tos", "ip_ecn": "ip_tos", "nw_ttl": "ip_ttl",
	"tp_src": "src_port", "tcp_src": "src_port", "udp_src": "src_port", "sctp_src": "src_port",
	"tp_dst": "dst_port", "tcp_dst": "dst_port", "udp_dst": "dst_port", "sctp_dst": "dst_port",
}

// set sets a field that Open vSwitch calls name; ok is false if bladeflow sets no such field.
func (a *ovsActions) set(text, name, value string, at int) (ok bool, err error) {
	ours, ok := ovsSettable[name]
	if !ok {
		return false, nil
	}
	shift, mask := 0, uint64(0)
	switch name {
	case "nw_tos":
		mask = 0xfc
	case "ip_dscp":
		shift, mask = 2, 0xfc
	case "nw_ecn", "ip_ecn":
		mask = 3
	}
	if mask != 0 {
		n, err := strconv.ParseUint(value, 0, 8)
		if n <<= shift; err != nil || n&^mask != 0 {
			return true, a.fault(text, at, fmt.Sprintf("%q is out of range", value))
		}
		value = fmt.Sprintf("0x%02x/0x%02x", n, mask)
	}
	made, err := flow.NewAction(flow.Term{Name: "set"}, []flow.Term{{Name: ours, Value: value}}, nil)
	if err != nil {
		return true, a.fault(text, at, asFault(err).Why)
	}
	a.open = -1
	last := len(a.out) - 1
	if last < 0 || a.out[last].Op != flow.Set || !join(&a.out[last], made.Settings) {
		a.out = append(a.out, made)
	}
	return true, nil
}

// join adds settings to an action that has none of the same fields; of TOS, of the same
// bits. It reports whether it did.
func join(to *flow.Action, more []flow.Setting) bool {
	all := slices.Clone(to.Settings)
	for _, s := range more {
		i := slices.IndexFunc(all, func(have flow.Setting) bool { return have.Field == s.Field })
		switch {
		case i < 0:
			all = append(all, s)
		case s.Field == flow.TOS && all[i].Mask&s.Mask == 0:
			all[i].Value |= s.Value
			all[i].Mask |= s.Mask
		default:
			return false
		}
	}
	slices.SortFunc(all, func(x, y flow.Setting) int { return cmp.Compare(x.Field, y.Field) })
	to.Settings = all
	return true
}

// ovsSetText writes a set action; m is the match of its rule, by which Open vSwitch has to
// see that a packet has the field.
func ovsSetText(a flow.Action, m *flow.Match) ([]string, error) {
	unsayable := func(name, why, remedy string) error {
		return &flow.Fault{Code: "E_FORMAT_ACTION", What: "action set: " + name, Why: why, Remedy: remedy}
	}
	var version uint64
	if m.Mask.Get(flow.EthType) == flow.EthType.Max() {
		version = m.Value.Get(flow.EthType)
	}
	var out []string
	for _, t := range a.Args(nil) {
		part, end, _ := strings.Cut(t.Name, "_")
		switch {
		case t.Name == "src_mac" || t.Name == "dst_mac":
			out = append(out, fmt.Sprintf("set_field:%s->eth_%s", t.Value, part))
			continue
		case version != flow.EthIPv4 && version != flow.EthIPv6:
			return nil, unsayable(t.Name, "Open vSwitch needs an IP version in the match beside it", "add eth_type=ipv4 or eth_type=ipv6 to the match")
		case end == "ip" && version == flow.EthIPv4:
			out = append(out, fmt.Sprintf("set_field:%s->ip_%s", t.Value, part))
		case end == "ip":
			out = append(out, fmt.Sprintf("set_field:%s->ipv6_%s", t.Value, part))
		case end == "port" && m.Mask.Get(flow.Proto) != flow.Proto.Max():
			return nil, unsayable(t.Name, "Open vSwitch needs the protocol in the match beside it", "add ip_proto to the match")
		case end == "port":
			out = append(out, fmt.Sprintf("mod_tp_%s:%s", part, t.Value))
		case t.Name == "ip_ttl":
			out = append(out, "mod_nw_ttl:"+t.Value)
		default:
			var s flow.Setting
			for _, s = range a.Settings {
				if s.Field == flow.TOS {
					break
				}
			}
			if dscp, ecn := s.Mask&0xfc, s.Mask&3; dscp != 0 && dscp != 0xfc || ecn != 0 && ecn != 3 {
				return nil, unsayable(t.Name, "Open vSwitch has the masks 0xfc, 0x03 and 0xff only", "change the mask, or use the format yaml or flows")
			}
			if s.Mask&0xfc != 0 {
				out = append(out, fmt.Sprintf("mod_nw_tos:%d", s.Value&0xfc))
			}
			if s.Mask&3 != 0 {
				out = append(out, fmt.Sprintf("set_field:%d->nw_ecn", s.Value&3))
			}
		}
	}
	return out, nil
}
