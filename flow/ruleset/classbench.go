package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// ClassBench's format has one rule a line:
//
//	@sip/len dip/len lo : hi lo : hi proto/mask [flags/mask]
//
// Its world is IPv4 packets that have ports whatever their protocol, and so a rule
// pins eth_type=ipv4, the ip flag where it names a protocol and the l4 flag where
// it names ports. Line i, from 0, is rule ri; the first line wins, so priorities
// count down. TCP flags are checked for form and not matched, as in every
// published measurement. The format has no actions: rule i gets an output that no
// other rule has, so that a wrong winner always shows ([classBenchAction]).

func decodeClassBench(file string, data []byte) ([]*Set, error) {
	name := setName(file)
	s := &Set{Name: name, UID: name, Tenant: "default", Tier: flow.TierTenant, file: file}
	for at, line := range lines(data) {
		m, err := classBenchLine(line)
		if err != nil {
			return nil, lineFault(file, at, err)
		}
		i := len(s.Rules)
		s.Rules = append(s.Rules, flow.Rule{Name: "r" + strconv.Itoa(i), Match: m, Actions: classBenchAction(i)})
		s.at = append(s.at, at)
	}
	for i := range s.Rules {
		s.Rules[i].Priority = int32(len(s.Rules) - 1 - i)
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return []*Set{s}, nil
}

// classBenchAction returns the i-th of the lists output:#1, output:#2, … #65535,
// output(#1,#1), output(#2,#1), …
func classBenchAction(i int) flow.Actions {
	ports := []flow.Port{flow.Port(1 + i%flow.MaxPorts)}
	if more := i / flow.MaxPorts; more > 0 {
		ports = append(ports, flow.Port(more))
	}
	return flow.Actions{{Op: flow.Output, Ports: ports}}
}

// columns cuts a line at blanks and reads one column after the other. Its first
// fault stays.
type columns struct {
	line string
	at   int
	err  error
}

// next returns the next column, or "" at the end.
func (c *columns) next() (text string, offset int) {
	for c.at < len(c.line) && (c.line[c.at] == ' ' || c.line[c.at] == '\t') {
		c.at++
	}
	offset = c.at
	for c.at < len(c.line) && c.line[c.at] != ' ' && c.line[c.at] != '\t' {
		c.at++
	}
	return c.line[offset:c.at], offset
}

func (c *columns) fail(offset int, what, why, remedy string) {
	if c.err == nil {
		c.err = &flow.Fault{Code: "E_LINE", What: what, Why: why, Remedy: remedy, Offset: offset}
	}
}

// number reads a column as a number from 0 to limit.
func (c *columns) number(what string, limit uint64) uint64 {
	s, offset := c.next()
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > limit {
		c.fail(offset, what, fmt.Sprintf("%q is not a number from 0 to %d", s, limit), "write the number in decimal")
	}
	return v
}

func (c *columns) address(m *flow.Match, what string, f flow.Field) {
	s, offset := c.next()
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		c.fail(offset, what, fmt.Sprintf("%q is not an IPv4 address with a length", s), "write it as 10.0.0.0/8")
		return
	}
	_, v := flow.AddrWords(p.Addr())
	if mask := uint64(math.MaxUint32) << (32 - p.Bits()) & math.MaxUint32; mask != 0 {
		m.Pin(f, v&mask, mask)
	}
}

func (c *columns) ports(m *flow.Match, what string, f flow.Field) {
	lo := c.number(what, 0xffff)
	if s, offset := c.next(); s != ":" {
		c.fail(offset, what, fmt.Sprintf("%q where a colon belongs", s), "write it as 80 : 443")
	}
	start := c.at
	hi := c.number(what, 0xffff)
	if lo > hi {
		c.fail(start, what, fmt.Sprintf("the range %d : %d is empty", lo, hi), "write the lower port first")
	}
	if c.err == nil && (lo > 0 || hi < 0xffff) {
		m.SetPorts(f, uint16(lo), uint16(hi))
		m.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	}
}

// pair reads VALUE/MASK in hexadecimal with 0x.
func (c *columns) pair(what string, bits int) (v, mask uint64) {
	s, offset := c.next()
	value, m, _ := strings.Cut(s, "/")
	v, err1 := hexadecimal(value, bits)
	mask, err2 := hexadecimal(m, bits)
	if err1 != nil || err2 != nil {
		c.fail(offset, what, fmt.Sprintf("%q is not a value and a mask", s), "write both in hexadecimal, as 0x06/0xFF")
	}
	return v, mask
}

func hexadecimal(s string, bits int) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(digits, 16, bits)
}

func classBenchLine(line string) (flow.Match, error) {
	rest, ok := strings.CutPrefix(line, "@")
	if !ok {
		return flow.Match{}, &flow.Fault{Code: "E_LINE", What: "rule", Why: "it does not start with @", Remedy: "write @sip/len dip/len lo : hi lo : hi proto/mask"}
	}
	var m flow.Match
	m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	c := columns{line: rest}
	c.address(&m, "source address", flow.SrcLo)
	c.address(&m, "destination address", flow.DstLo)
	c.ports(&m, "source port", flow.SrcPort)
	c.ports(&m, "destination port", flow.DstPort)
	if v, mask := c.pair("protocol", 8); mask != 0 && c.err == nil {
		m.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		m.Pin(flow.Proto, v&mask, mask)
	}
	if s, _ := c.next(); s != "" && c.err == nil {
		c.at -= len(s)
		c.pair("flags", 16)
	}
	if s, offset := c.next(); s != "" {
		c.fail(offset, "rule", fmt.Sprintf("%q stands after the last column", s), "remove it")
	}
	if c.err != nil {
		asFault(c.err).Offset++ // the @
		return flow.Match{}, c.err
	}
	return m, nil
}

func encodeClassBench(w io.Writer, sets []*Set) error {
	b := bufio.NewWriter(w)
	for _, r := range inOrder(sets) {
		line, err := classBenchRule(&r.Match)
		if err != nil {
			f := *asFault(err)
			f.What = "rule " + r.Name + ": " + f.What
			return &f
		}
		fmt.Fprintln(b, line)
	}
	return b.Flush()
}

// classBenchRule writes a match that only looks at what ClassBench has.
func classBenchRule(m *flow.Match) (string, error) {
	unsayable := func(field, why string) error {
		return &flow.Fault{Code: "E_FORMAT_FIELD", What: "field " + field, Why: why, Remedy: "use the format yaml or flows"}
	}
	rest := *m
	// Every packet of this world satisfies these, so that saying them says nothing.
	for _, always := range []struct {
		f       flow.Field
		v, mask uint64
	}{{flow.EthType, flow.EthIPv4, 0xffff}, {flow.Flags, flow.FlagIP | flow.FlagL4, flow.FlagIP | flow.FlagL4}} {
		if (rest.Value.Get(always.f)^always.v)&rest.Mask.Get(always.f)&always.mask == 0 {
			rest.Value.Set(always.f, rest.Value.Get(always.f)&^always.mask)
			rest.Mask.Set(always.f, rest.Mask.Get(always.f)&^always.mask)
		}
	}
	var prefixes [2]string
	for i, f := range []flow.Field{flow.SrcLo, flow.DstLo} {
		v, mask := uint32(rest.Value.Get(f)), uint32(rest.Mask.Get(f))
		if host := ^mask; host&(host+1) != 0 || rest.Mask.Get(f)>>32 != 0 {
			return "", unsayable([]string{"src_ip", "dst_ip"}[i], "ClassBench has only IPv4 prefixes")
		}
		length := 0
		for ; length < 32 && mask<<length != 0; length++ {
		}
		prefixes[i] = fmt.Sprintf("%d.%d.%d.%d/%d", v>>24, v>>16&255, v>>8&255, v&255, length)
		rest.Value.Set(f, 0)
		rest.Mask.Set(f, 0)
	}
	var ports [2]string
	for i, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		r := []*flow.PortRange{&rest.SrcPort, &rest.DstPort}[i]
		switch mask := rest.Mask.Get(f); {
		case !r.Any():
			ports[i] = fmt.Sprintf("%d : %d", r.Lo, r.Hi)
		case mask == 0:
			ports[i] = "0 : 65535"
		case mask == 0xffff:
			ports[i] = fmt.Sprintf("%d : %[1]d", rest.Value.Get(f))
		default:
			return "", unsayable([]string{"src_port", "dst_port"}[i], "ClassBench has only ranges of ports")
		}
		*r = flow.PortRange{}
		rest.Value.Set(f, 0)
		rest.Mask.Set(f, 0)
	}
	proto := fmt.Sprintf("0x%02X/0x%02X", rest.Value.Get(flow.Proto), rest.Mask.Get(flow.Proto))
	rest.Value.Set(flow.Proto, 0)
	rest.Mask.Set(flow.Proto, 0)
	if rest != (flow.Match{}) {
		terms := flow.MatchTerms(&rest, nil)
		return "", unsayable(terms[len(terms)-1].Name, "ClassBench has no such field")
	}
	return fmt.Sprintf("@%s\t%s\t%s\t%s\t%s", prefixes[0], prefixes[1], ports[0], ports[1], proto), nil
}
