package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/bladeflow/bladeflow/flow"
)

// Trace is packets to classify, as ClassBench has them: IPv4 with ports whatever
// the protocol. Many of its keys no packet has; they are for lookups, not for
// [flow.Frame].
type Trace struct {
	Keys     []flow.Key
	Expected []int32 // index of each packet's rule or -1; nil if the trace does not say
}

// traceKey returns the key of a packet in ClassBench's world.
func traceKey(src, dst uint32, srcPort, dstPort uint16, proto uint8) flow.Key {
	var k flow.Key
	k.Set(flow.EthType, flow.EthIPv4)
	k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	k.Set(flow.SrcLo, uint64(src))
	k.Set(flow.DstLo, uint64(dst))
	k.Set(flow.SrcPort, uint64(srcPort))
	k.Set(flow.DstPort, uint64(dstPort))
	k.Set(flow.Proto, uint64(proto))
	return k
}

// ReadTrace reads one packet a line, `sip dip sport dport proto [expected]`, all
// decimal. Either every line says what it expects or none does.
func ReadTrace(file string, data []byte) (*Trace, error) {
	t := &Trace{}
	for at, line := range lines(data) {
		c := columns{line: line}
		k := traceKey(uint32(c.number("source address", math.MaxUint32)), uint32(c.number("destination address", math.MaxUint32)),
			uint16(c.number("source port", 0xffff)), uint16(c.number("destination port", 0xffff)), uint8(c.number("protocol", 255)))
		s, offset := c.next()
		switch {
		case s == "" && t.Expected != nil:
			c.fail(offset, "expected rule", "it is missing, and other lines have it", "give it in all lines or in none")
		case s != "":
			n, err := strconv.ParseInt(s, 10, 32)
			if err != nil || n < -1 {
				c.fail(offset, "expected rule", fmt.Sprintf("%q is no index", s), "write the rule's line from 0, or -1")
			}
			if len(t.Expected) != len(t.Keys) {
				c.fail(offset, "expected rule", "other lines do not have it", "give it in all lines or in none")
			}
			t.Expected = append(t.Expected, int32(n))
			if s, offset = c.next(); s != "" {
				c.fail(offset, "packet", fmt.Sprintf("%q stands after the last column", s), "remove it")
			}
		}
		if c.err != nil {
			return nil, lineFault(file, at, c.err)
		}
		t.Keys = append(t.Keys, k)
	}
	return t, nil
}

// Write writes t so that [ReadTrace] reads it again. Of its keys it says the five
// fields a trace has.
func (t *Trace) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for i := range t.Keys {
		k := &t.Keys[i]
		fmt.Fprintf(b, "%d\t%d\t%d\t%d\t%d", uint32(k.Get(flow.SrcLo)), uint32(k.Get(flow.DstLo)), k.Get(flow.SrcPort), k.Get(flow.DstPort), k.Get(flow.Proto))
		if t.Expected != nil {
			fmt.Fprintf(b, "\t%d", t.Expected[i])
		}
		fmt.Fprintln(b)
	}
	return b.Flush()
}
