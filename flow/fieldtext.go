package flow

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// form says in which kind of list a field may stand.
type form uint8

const (
	both     form = iota
	ordinary      // not beside `bare`
	raw           // only beside `bare`
)

// fieldRow is one row of the contract's table of fields.
type fieldRow struct {
	name   string
	form   form
	late   bool   // read after the others
	values string // what would be right, for people
	read   func(r *reader, s string) error
	write  func(m *Match, ports *Ports, bare bool) string // "" if m says nothing of the field
}

// fieldRows are the fields of a text, in the order they are written. Flags come
// last: of an ordinary text they are what no other term implies.
var fieldRows = []fieldRow{
	portRow(),
	macRow("src_mac", SrcMAC), macRow("dst_mac", DstMAC),
	tagIDRow("vlan_id", VLAN), tagPrioRow("vlan_prio", VLAN), numberRow("vlan", VLAN, raw, nil),
	tagIDRow("cvlan_id", CVLAN), tagPrioRow("cvlan_prio", CVLAN), numberRow("cvlan", CVLAN, raw, nil),
	ethTypeRow(),
	numberRow("ip_proto", Proto, both, protoNames),
	fragRow(),
	addressRow("src_ip", SrcHi, SrcLo), addressRow("dst_ip", DstHi, DstLo),
	maskedRow("ip_tos", TOS), maskedRow("ip_ttl", TTL),
	tcpFlagsRow(),
	l4Row("src_port", SrcPort), l4Row("dst_port", DstPort),
	icmpRow("icmp_type", SrcPort), icmpRow("icmp_code", DstPort),
	ctStateRow(), numberRow("reserved", Reserved, raw, nil),
	flagsRow(),
}

// FieldNames returns the contract's field names, in the order they are written.
func FieldNames() []string {
	var out []string
	for i := range fieldRows {
		if fieldRows[i].form != raw {
			out = append(out, fieldRows[i].name)
		}
	}
	return out
}

// fieldNamed returns the place of a name's row, or -1.
func fieldNamed(name string, bare bool) int {
	for i := range fieldRows {
		if row := &fieldRows[i]; row.name == name && row.fits(bare) {
			return i
		}
	}
	return -1
}

func (row *fieldRow) fits(bare bool) bool {
	return row.form == both || (row.form == raw) == bare
}

func writeRows(m *Match, ports *Ports, bare bool) []Term {
	var out []Term
	for i := range fieldRows {
		row := &fieldRows[i]
		if !row.fits(bare) {
			continue
		}
		if v := row.write(m, ports, bare); v != "" {
			out = append(out, Term{Name: row.name, Value: v})
		}
	}
	return out
}

func decimal(v uint64) string { return strconv.FormatUint(v, 10) }

func portRow() fieldRow {
	return fieldRow{name: "in_port", values: "a port's name",
		read: func(r *reader, s string) error {
			v, mask, err := uint64(0), InPort.Max(), error(nil)
			if r.bare && strings.HasPrefix(s, "0x") {
				v, mask, err = r.masked(s, InPort, true, func(s string) (uint64, error) { return number(s, InPort.Max()) })
			} else {
				var p Port
				p, err = r.ports.Find(s)
				v = uint64(p)
			}
			if err != nil {
				if f, ok := err.(*Fault); ok {
					return &Fault{Code: f.Code, What: "field in_port: " + f.What, Why: f.Why, Remedy: f.Remedy, Offset: r.term.Offset}
				}
				return err
			}
			return r.pin(InPort, v, mask)
		},
		write: func(m *Match, ports *Ports, _ bool) string {
			return writeMasked(m, InPort, func(v uint64) string { return ports.Name(Port(v)) })
		}}
}

func macRow(name string, f Field) fieldRow {
	return fieldRow{name: name, values: "aa:bb:cc:dd:ee:ff or aa:bb:cc:dd:ee:ff/ff:ff:ff:00:00:00",
		read: func(r *reader, s string) error {
			v, mask, err := r.masked(s, f, true, func(s string) (uint64, error) {
				m, err := ParseMAC(s)
				if err != nil {
					return 0, fmt.Errorf("%q is not a MAC", s)
				}
				return m, nil
			})
			if err != nil {
				return err
			}
			return r.pin(f, v, mask)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			switch mask := m.Mask.Get(f); mask {
			case 0:
				return ""
			case f.Max():
				return FormatMAC(m.Value.Get(f))
			default:
				return FormatMAC(m.Value.Get(f)) + "/" + FormatMAC(mask)
			}
		}}
}

// numberRow is a field of numbers or names. Only `bare` gives it a mask. Those that
// are about IP imply it.
func numberRow(name string, f Field, in form, words names) fieldRow {
	values := fmt.Sprintf("0 to %d", f.Max())
	if len(words) > 0 {
		values = strings.Join(words.words(), ", ") + " or " + values
	}
	return fieldRow{name: name, form: in, values: values,
		read: func(r *reader, s string) error {
			v, mask, err := r.masked(s, f, false, func(s string) (uint64, error) { return words.read(s, f.Max()) })
			if err != nil {
				return err
			}
			if err := r.implyIP(); err != nil {
				return err
			}
			return r.pin(f, v, mask)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			return writeMasked(m, f, func(v uint64) string {
				if w, ok := words.name(v); ok {
					return w
				}
				return decimal(v)
			})
		}}
}

// implyIP pins the ip flag.
func (r *reader) implyIP() error { return r.imply(Flags, FlagIP, FlagIP) }

func ethTypeRow() fieldRow {
	return fieldRow{name: "eth_type", values: strings.Join(ethTypeNames.words(), ", ") + " or 0x0000 to 0xffff",
		read: func(r *reader, s string) error {
			v, mask, err := r.masked(s, EthType, false, func(s string) (uint64, error) { return ethTypeNames.read(s, EthType.Max()) })
			if err != nil {
				return err
			}
			return r.pin(EthType, v, mask)
		},
		write: func(m *Match, _ *Ports, bare bool) string {
			if !bare && (writeAddress(m, SrcHi, SrcLo, false) != "" || writeAddress(m, DstHi, DstLo, false) != "") {
				return "" // the address says it
			}
			return writeMasked(m, EthType, func(v uint64) string {
				if w, ok := ethTypeNames.name(v); ok {
					return w
				}
				return fmt.Sprintf("0x%04x", v)
			})
		}}
}

func maskedRow(name string, f Field) fieldRow {
	return fieldRow{name: name, values: fmt.Sprintf("0 to %d, or VALUE/MASK", f.Max()),
		read: func(r *reader, s string) error {
			v, mask, err := r.masked(s, f, true, func(s string) (uint64, error) { return number(s, f.Max()) })
			if err != nil {
				return err
			}
			if err := r.implyIP(); err != nil {
				return err
			}
			return r.pin(f, v, mask)
		},
		write: func(m *Match, _ *Ports, _ bool) string { return writeMasked(m, f, decimal) }}
}

// tagIDRow is the id of a VLAN tag: a number, none for no tag, any for any tag.
func tagIDRow(name string, f Field) fieldRow {
	return fieldRow{name: name, form: ordinary, values: "0 to 4095, none or any",
		read: func(r *reader, s string) error {
			switch s {
			case "none":
				return r.pin(f, 0, TagPresent)
			case "any":
				return r.pin(f, TagPresent, TagPresent)
			}
			v, err := number(s, TagID)
			if err != nil {
				return err
			}
			return r.pin(f, v|TagPresent, TagID|TagPresent)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			v, mask := m.Value.Get(f), m.Mask.Get(f)
			switch {
			case mask&^TagPrio == TagID|TagPresent:
				return decimal(v & TagID)
			case mask == TagPresent && v == 0:
				return "none"
			case mask == TagPresent:
				return "any"
			}
			return ""
		}}
}

func tagPrioRow(name string, f Field) fieldRow {
	shift := bits.TrailingZeros(TagPrio)
	return fieldRow{name: name, form: ordinary, values: "0 to 7",
		read: func(r *reader, s string) error {
			v, err := number(s, 7)
			if err != nil {
				return err
			}
			return r.pin(f, v<<shift|TagPresent, TagPrio|TagPresent)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			if m.Mask.Get(f)&TagPrio != TagPrio {
				return ""
			}
			return decimal(m.Value.Get(f) >> shift)
		}}
}

func fragRow() fieldRow {
	return fieldRow{name: "ip_frag", form: ordinary, values: "no, first or later",
		read: func(r *reader, s string) error {
			v, ok := fragNames.value(s)
			if !ok {
				return fmt.Errorf("%q is no kind of fragment", s)
			}
			return r.pin(Flags, v|FlagIP, fragBits|FlagIP)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			if m.Mask.Get(Flags)&fragBits != fragBits {
				return ""
			}
			w, _ := fragNames.name(m.Value.Get(Flags) & fragBits)
			return w
		}}
}

func tcpFlagsRow() fieldRow {
	return fieldRow{name: "tcp_flags", values: "+syn-ack, 0x002, 0x002/0x012; the names are " + strings.Join(tcpFlagNames.words(), ", "),
		read: func(r *reader, s string) error {
			var v, mask uint64
			var err error
			if strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
				v, mask, err = tcpFlagNames.readBits(s)
			} else {
				v, mask, err = r.masked(s, TCPFlags, true, func(s string) (uint64, error) { return number(s, TCPFlags.Max()) })
				if !strings.Contains(s, "/") {
					mask = 0xfff
				}
				if v&^mask != 0 {
					return fmt.Errorf("%s is more than the 12 bits there are", s)
				}
			}
			if err != nil {
				return err
			}
			if err := r.imply(Proto, ProtoTCP, Proto.Max()); err != nil {
				return err
			}
			if err := r.imply(Flags, FlagIP|FlagL4, FlagIP|FlagL4); err != nil {
				return err
			}
			return r.pin(TCPFlags, v, mask)
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			v, mask := m.Value.Get(TCPFlags), m.Mask.Get(TCPFlags)
			switch mask {
			case 0:
				return ""
			case 0xfff:
				return fmt.Sprintf("0x%03x", v)
			}
			if s, ok := tcpFlagNames.writeBits(v, mask); ok {
				return s
			}
			return fmt.Sprintf("0x%03x/0x%03x", v, mask)
		}}
}

func l4Row(name string, f Field) fieldRow {
	return fieldRow{name: name, values: "0 to 65535, LOW-HIGH or VALUE/MASK",
		read: func(r *reader, s string) error {
			if err := r.imply(Flags, FlagL4, FlagL4); err != nil {
				return err
			}
			if low, high, isRange := strings.Cut(s, "-"); isRange {
				lo, err := number(low, f.Max())
				if err != nil {
					return err
				}
				hi, err := number(high, f.Max())
				if err != nil {
					return err
				}
				if lo > hi {
					return fmt.Errorf("the range %s is empty", s)
				}
				r.owner[f] = r.at
				r.m.SetPorts(f, uint16(lo), uint16(hi))
				return nil
			}
			v, mask, err := r.masked(s, f, true, func(s string) (uint64, error) { return number(s, f.Max()) })
			if err != nil {
				return err
			}
			r.owner[f] = r.at
			r.m.SetPortMask(f, uint16(v), uint16(mask))
			return nil
		},
		write: func(m *Match, _ *Ports, bare bool) string {
			if _, isICMP := icmpOf(m); isICMP && !bare {
				return ""
			}
			if r := *m.ports(f); !r.Any() {
				return fmt.Sprintf("%d-%d", r.Lo, r.Hi)
			}
			return writeMasked(m, f, decimal)
		}}
}

// icmpRow is the type or the code of ICMP, which live where ports live. It implies
// the version that the protocol belongs to (elsewhere the number has no ICMP in it)
// and that the packet is no later fragment, which has no type.
func icmpRow(name string, f Field) fieldRow {
	return fieldRow{name: name, form: ordinary, late: true, values: "0 to 255",
		read: func(r *reader, s string) error {
			v, err := number(s, 255)
			if err != nil {
				return err
			}
			ethType := uint64(EthIPv4)
			switch {
			case r.m.Mask.Get(Proto) == Proto.Max() && r.m.Value.Get(Proto) == ProtoICMP:
			case r.m.Mask.Get(Proto) == Proto.Max() && r.m.Value.Get(Proto) == ProtoICMPv6:
				ethType = EthIPv6
			default:
				return r.fault("E_FIELD_NEEDS", "only ICMP has it", "add ip_proto=icmp or ip_proto=icmpv6")
			}
			if err := r.pin(EthType, ethType, EthType.Max()); err != nil {
				return err
			}
			if err := r.pin(Flags, FlagIP, FlagIP|FlagFragLater); err != nil {
				return err
			}
			return r.pin(f, v, f.Max())
		},
		write: func(m *Match, _ *Ports, _ bool) string {
			if _, isICMP := icmpOf(m); !isICMP || m.Mask.Get(f) == 0 {
				return ""
			}
			return decimal(m.Value.Get(f))
		}}
}

// icmpOf returns the eth_type of the ICMP that m is about, if it is.
func icmpOf(m *Match) (ethType uint64, ok bool) {
	if m.Mask.Get(Proto) != Proto.Max() || m.Value.Get(Flags)&FlagL4 != 0 {
		return 0, false
	}
	switch m.Value.Get(Proto) {
	case ProtoICMP:
		ethType = EthIPv4
	case ProtoICMPv6:
		ethType = EthIPv6
	default:
		return 0, false
	}
	return ethType, m.Mask.Get(EthType) == EthType.Max() && m.Value.Get(EthType) == ethType
}

// ctStateRow refuses the field that needs connection tracking, but lets `bare` say
// what is in a key.
func ctStateRow() fieldRow {
	return fieldRow{name: "ct_state", values: "0 to 255",
		read: func(r *reader, s string) error {
			if !r.bare {
				return r.fault("E_CT_OFF", "connection tracking is off", "leave the field out")
			}
			v, mask, err := r.masked(s, CTState, true, func(s string) (uint64, error) { return number(s, CTState.Max()) })
			if err != nil {
				return err
			}
			return r.pin(CTState, v, mask)
		},
		write: func(m *Match, _ *Ports, bare bool) string {
			if !bare {
				return ""
			}
			return writeMasked(m, CTState, decimal)
		}}
}

// flagsRow says the parser's flags themselves: `flags=+odd`, `flags=+ip-later`.
func flagsRow() fieldRow {
	return fieldRow{name: "flags", values: "+odd-l4 or VALUE/MASK; the names are " + strings.Join(flagNames.words(), ", "),
		read: func(r *reader, s string) error {
			v, mask, err := r.readFlags(s)
			if err != nil {
				return err
			}
			if r.exact && !r.bare {
				r.given.value, r.given.mask = v, mask
				return nil
			}
			return r.pin(Flags, v, mask)
		},
		write: func(m *Match, _ *Ports, bare bool) string {
			if !bare {
				return ""
			}
			return writeFlags(m.Value.Get(Flags), m.Mask.Get(Flags))
		}}
}

func (r *reader) readFlags(s string) (v, mask uint64, err error) {
	if strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
		return flagNames.readBits(s)
	}
	return r.masked(s, Flags, true, func(s string) (uint64, error) { return number(s, Flags.Max()) })
}

func writeFlags(v, mask uint64) string {
	if s, ok := flagNames.writeBits(v, mask); ok {
		return s
	}
	return fmt.Sprintf("0x%02x/0x%02x", v, mask)
}
