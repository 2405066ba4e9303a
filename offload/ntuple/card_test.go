package ntuple

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// fake is a card in memory. It differs as drivers differ: it may choose locations, keep
// one set of fields for each kind of packet (i40e), or refuse to drop (igb).
type fake struct {
	size                    int
	chooses, oneSet, noDrop bool
	rules                   map[uint32][]byte
	between                 func() // is called before the locations are told
}

func (f *fake) call(b []byte) error {
	where := native.Uint32(b[offWhere:])
	switch native.Uint32(b) {
	case cmdCount:
		native.PutUint32(b[offCount:], uint32(len(f.rules)))
		data := uint64(f.size)
		if f.chooses {
			data |= special
		}
		native.PutUint64(b[offData:], data)
	case cmdAll:
		if f.between != nil {
			f.between()
		}
		var all []uint32
		for at := range f.rules {
			all = append(all, at)
		}
		if len(all) > int(native.Uint32(b[offCount:])) {
			return unix.EMSGSIZE
		}
		slices.Sort(all)
		for i, at := range all {
			native.PutUint32(b[offCount+4+4*i:], at)
		}
		native.PutUint32(b[offCount:], uint32(len(all)))
	case cmdRule:
		r, ok := f.rules[where]
		if !ok {
			return unix.ENOENT
		}
		copy(b[offSpec:offCount], r[offSpec:])
	case cmdDelete:
		if _, ok := f.rules[where]; !ok {
			return unix.EINVAL
		}
		delete(f.rules, where)
	case cmdInsert:
		return f.insert(b, where)
	default:
		return unix.EOPNOTSUPP
	}
	return nil
}

func (f *fake) insert(b []byte, where uint32) error {
	if f.noDrop && native.Uint64(b[offQueue:]) == Discard {
		return unix.EINVAL
	}
	for _, r := range f.rules {
		if f.oneSet && native.Uint32(r[offSpec:]) == native.Uint32(b[offSpec:]) && !slices.Equal(r[offMask:offMask+52], b[offMask:offMask+52]) {
			return unix.EOPNOTSUPP
		}
	}
	if where == Any {
		if !f.chooses {
			return unix.EINVAL
		}
		for where = 0; f.rules[where] != nil; where++ {
		}
	}
	if f.rules[where] == nil && len(f.rules) == f.size || int(where) >= f.size {
		return unix.ENOSPC
	}
	native.PutUint32(b[offWhere:], where)
	f.rules[where] = slices.Clone(b)
	return nil
}

func newFake(size int) *fake { return &fake{size: size, rules: map[uint32][]byte{}} }

// anyRule draws a rule in the form that Parse gives.
func anyRule(t *rapid.T) Rule {
	r := Rule{Kind: rapid.SampledFrom([]Kind{TCPv4, UDPv4, SCTPv4, TCPv6, UDPv6, SCTPv6, IPv4, IPv6, Ether}).Draw(t, "kind"),
		Location: rapid.Uint32().Draw(t, "location"), Queue: rapid.Uint64().Draw(t, "queue")}
	fields, ethType, proto, _ := r.Kind.slots()
	pin := func(f flow.Field, most uint64) {
		mask := rapid.Uint64().Draw(t, "mask") & most
		r.Match.Pin(f, rapid.Uint64().Draw(t, "value")&mask, mask)
	}
	for _, s := range fields {
		if s.field == flow.SrcPort || s.field == flow.DstPort {
			r.Match.SetPortMask(s.field, rapid.Uint16().Draw(t, "port"), 0xffff)
			continue
		}
		pin(s.field, ^uint64(0)>>(64-8*s.bytes))
	}
	if ethType != 0 {
		r.Match.Pin(flow.EthType, ethType, 0xffff)
		r.Match.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		if rapid.Bool().Draw(t, "mac") {
			pin(flow.DstMAC, flow.DstMAC.Max())
		}
	}
	if proto != 0 {
		r.Match.Pin(flow.Proto, proto, 0xff)
		r.Match.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	}
	if rapid.Bool().Draw(t, "vlan") {
		r.Match.Pin(flow.VLAN, flow.TagPresent|rapid.Uint64Range(0, 4095).Draw(t, "id"), flow.TagPresent|flow.TagID)
	}
	return r
}

// TestRoundTrip puts any rule into a card and reads it back.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRule(t)
		b, err := r.Append(nil, cmdInsert)
		if err != nil {
			t.Fatal(err)
		}
		have, err := Parse(b)
		if err != nil || have != r {
			t.Fatalf("read %+v, %v; written %+v", have, err, r)
		}
	})
}

// FuzzParse reads anything: what it takes for a rule it reads the same again.
func FuzzParse(f *testing.F) {
	r := Rule{Kind: TCPv4, Location: 3, Queue: Discard}
	r.Match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	r.Match.Pin(flow.Proto, flow.ProtoTCP, 0xff)
	r.Match.SetPorts(flow.DstPort, 80, 80)
	b, err := r.Append(nil, cmdInsert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil || !r.Match.SrcPort.Any() || !r.Match.DstPort.Any() { // a mask of leading bits reads as a range
			return
		}
		again, err := r.Append(nil, cmdInsert)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if have, err := Parse(again); err != nil || have != r {
			t.Fatalf("read %+v, again %+v, %v", r, have, err)
		}
	})
}

// port80 drops TCP of IPv4 to a port.
func port80(location uint32, port uint16) Rule {
	r := Rule{Kind: TCPv4, Location: location, Queue: Discard}
	r.Match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	r.Match.Pin(flow.Proto, flow.ProtoTCP, 0xff)
	r.Match.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
	r.Match.SetPorts(flow.DstPort, port, port)
	return r
}

func code(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	return ""
}

// TestCard inserts, lists, replaces and deletes.
func TestCard(t *testing.T) {
	f := newFake(3)
	c := &Card{f.call}
	for i := range 3 {
		if at, err := c.Insert(port80(uint32(i), uint16(80+i))); err != nil || at != uint32(i) {
			t.Fatal(at, err)
		}
	}
	if _, err := c.Insert(port80(3, 90)); code(err) != offload.CodeFull || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a fourth rule: %v", err)
	}
	if _, err := c.Insert(port80(1, 443)); err != nil {
		t.Error("in place of another:", err)
	}
	rules, err := c.Rules()
	if err != nil || len(rules) != 3 || rules[1] != port80(1, 443) {
		t.Errorf("rules %+v, %v", rules, err)
	}
	if err := c.Delete(2); err != nil {
		t.Error(err)
	}
	if err := c.Delete(2); code(err) != offload.CodeMissing {
		t.Errorf("deleted twice: %v", err)
	}
	if n, most, chooses, err := c.Size(); n != 2 || most != 3 || chooses || err != nil {
		t.Error(n, most, chooses, err)
	}
}

// TestDrivers meets what drivers do differently.
func TestDrivers(t *testing.T) {
	f := newFake(8)
	f.chooses, f.oneSet = true, true
	c := &Card{f.call}
	first, err := c.Insert(port80(Any, 80))
	second, err2 := c.Insert(port80(Any, 81))
	if err != nil || err2 != nil || first == second || first == Any {
		t.Error(first, err, second, err2)
	}
	other := port80(Any, 80)
	other.Match.Pin(flow.DstLo, 0x0a000001, 0xffffffff)
	if _, err := c.Insert(other); code(err) != "E_FIELD_UNSUPPORTED" {
		t.Errorf("another set of fields: %v", err)
	}
	igb := newFake(8)
	igb.noDrop = true
	if _, err := (&Card{igb.call}).Insert(port80(0, 80)); code(err) != offload.CodeDevice {
		t.Errorf("a drop: %v", err)
	}
	if _, err := c.Insert(Rule{Kind: TCPv4, Match: flow.Match{SrcPort: flow.PortRange{Lo: 80, Hi: 443}}}); code(err) != "E_FIELD_UNSUPPORTED" {
		t.Errorf("a range: %v", err)
	}
}

// TestRace lists rules while others put some in and take some out.
func TestRace(t *testing.T) {
	f := newFake(100)
	c := &Card{f.call}
	n := uint32(0)
	f.between = func() {
		if n++; n < 5 {
			b, err := (&Rule{Kind: Ether, Location: 10 + n}).Append(nil, cmdInsert)
			if err != nil {
				t.Fatal(err)
			}
			f.rules[10+n] = b
		}
	}
	if rules, err := c.Rules(); err != nil || len(rules) != 4 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}

// TestOpen asks a device that is not there.
func TestOpen(t *testing.T) {
	if _, _, _, err := Open("nosuchdevice").Size(); !errors.Is(err, unix.ENODEV) {
		t.Errorf("no device: %v", err)
	}
}
