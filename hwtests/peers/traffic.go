package peers

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// frameBytes is how long the frames are, without the checksum that Ethernet adds.
const frameBytes = 64

// Ports of the table: frames come in by the first and leave by the second.
const (
	insidePort  flow.Port = 1
	outsidePort flow.Port = 2
)

// flowID is what makes one flow of UDP over IPv4 differ from another.
type flowID struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
}

// traffic is a rule table as a user would have one, and flows that meet its rules.
type traffic struct {
	rules []flow.Rule
	flows []flowID
}

// newTraffic returns a generated access list of so many rules for what comes in by the
// inside port, and flows, a power of two, each inside a random one of the rules. The
// addresses are such that the kernel routes them.
func newTraffic(rules, flows int, seed uint64) traffic {
	t := traffic{rules: flowtest.Generate(flowtest.ACL, rules, seed)}
	seen := map[flowID]bool{}
	for ; len(t.flows) < flows; seed++ {
		for _, k := range flowtest.Trace(t.rules, flowtest.Traffic{Packets: 16 * flows, Seed: seed}) {
			f := flowID{address(k.Get(flow.SrcLo)), address(k.Get(flow.DstLo)), uint16(k.Get(flow.SrcPort)), uint16(k.Get(flow.DstPort))}
			if len(t.flows) < flows && routable(f.src) && routable(f.dst) && !seen[f] {
				seen[f] = true
				t.flows = append(t.flows, f)
			}
		}
	}
	return t
}

func address(v4 uint64) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(v4))))
}

func routable(a netip.Addr) bool {
	first := a.As4()[0]
	return first > 0 && first < 224 && !a.IsLoopback()
}

// table returns the rules with one thing done to every frame that comes in by the
// inside port. What comes in by the outside port is sent back to the inside.
func (t traffic) table(inward flow.Action) (*flow.Table, error) {
	rules := make([]flow.Rule, len(t.rules))
	for i, r := range t.rules {
		r.Match.Pin(flow.InPort, uint64(insidePort), flow.InPort.Max())
		r.Actions = flow.Actions{inward}
		rules[i] = r
	}
	table, err := flow.NewTable(flow.TableSpec{Rules: rules, Default: flow.Actions{{Op: flow.Output, Ports: []flow.Port{insidePort}}}})
	if err != nil {
		return nil, fmt.Errorf("the rules of the bench: %w", err)
	}
	return table, nil
}

// frame returns a frame of a flow. The program that makes frames writes all that differs
// from flow to flow anew.
func (f flowID) frame() []byte {
	be := binary.BigEndian
	b := make([]byte, frameBytes)
	copy(b, sinkMAC)
	copy(b[6:], senderMAC)
	be.PutUint16(b[12:], flow.EthIPv4)
	ip, udp := b[14:], b[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, flow.ProtoUDP
	be.PutUint16(ip[2:], frameBytes-14)
	be.PutUint16(udp[4:], frameBytes-34)
	be.PutUint16(udp, f.srcPort)
	be.PutUint16(udp[2:], f.dstPort)
	copy(ip[12:], f.src.AsSlice())
	copy(ip[16:], f.dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(be.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	be.PutUint16(ip[10:], ^uint16(sum))
	return b
}

// tuple returns what the program needs to make frames of the flow: pieces of one.
func (f flowID) tuple() programTuple {
	b, ne := f.frame(), binary.NativeEndian
	return programTuple{Saddr: ne.Uint32(b[26:]), Daddr: ne.Uint32(b[30:]), Source: ne.Uint16(b[34:]), Dest: ne.Uint16(b[36:]), Check: ne.Uint16(b[24:])}
}
