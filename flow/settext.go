package flow

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// settable are the fields that a set action can name, as matches name them.
var settable = []struct {
	name   string
	field  Field // the upper half of an address
	values string
}{
	{"src_mac", SrcMAC, "aa:bb:cc:dd:ee:ff"}, {"dst_mac", DstMAC, "aa:bb:cc:dd:ee:ff"},
	{"src_ip", SrcHi, "an IPv4 or IPv6 address"}, {"dst_ip", DstHi, "an IPv4 or IPv6 address"},
	{"ip_tos", TOS, "0 to 255, or VALUE/MASK"}, {"ip_ttl", TTL, "0 to 255"},
	{"src_port", SrcPort, "0 to 65535"}, {"dst_port", DstPort, "0 to 65535"},
}

// SettableFields returns the contract's names of what a set action can set.
func SettableFields() []string {
	var out []string
	for _, row := range settable {
		out = append(out, row.name)
	}
	return out
}

// fieldName returns the contract's name of what s sets.
func fieldName(s Setting) string {
	f := s.Field
	if f == SrcLo || f == DstLo {
		f--
	}
	for _, row := range settable {
		if row.field == f {
			return row.name
		}
	}
	return "unknown"
}

// set reads the arguments of a set action: FIELD=VALUE, each field once.
func (r actionReader) set(args []Term) (Action, error) {
	a := Action{Op: Set}
	if len(args) == 0 {
		return a, r.fault(r.op, "it sets nothing", "write set(FIELD=VALUE)")
	}
	seen := map[string]bool{}
	for _, arg := range args {
		at := 0
		for at < len(settable) && settable[at].name != arg.Name {
			at++
		}
		switch {
		case arg.Name == "":
			return a, r.fault(arg, "it takes fields with values", "write set(FIELD=VALUE)")
		case at == len(settable):
			return a, r.fault(arg, "it cannot be set", Suggest(arg.Name, SettableFields()...))
		case seen[arg.Name]:
			return a, r.fault(arg, "it is there twice", "leave one out")
		}
		seen[arg.Name] = true
		settings, err := readSetting(settable[at].field, arg.Value)
		if err != nil {
			return a, r.fault(arg, err.Error(), "use "+settable[at].values)
		}
		a.Settings = append(a.Settings, settings...)
	}
	slices.SortFunc(a.Settings, func(x, y Setting) int { return cmp.Compare(x.Field, y.Field) })
	return a, nil
}

func readSetting(f Field, value string) ([]Setting, error) {
	switch f {
	case SrcMAC, DstMAC:
		v, err := ParseMAC(value)
		if err != nil {
			return nil, fmt.Errorf("%q is not a MAC", value)
		}
		return []Setting{{f, v, f.Max()}}, nil
	case SrcHi, DstHi:
		if strings.Contains(value, "/") {
			return nil, fmt.Errorf("only a whole address can be set")
		}
		addr, _, err := readAddress(value)
		if err != nil {
			return nil, err
		}
		hi, lo := AddrWords(addr)
		if addr.Is4() {
			return []Setting{{f + 1, lo, ipv4Mask}}, nil
		}
		return []Setting{{f, hi, f.Max()}, {f + 1, lo, f.Max()}}, nil
	}
	value, under, masked := strings.Cut(value, "/")
	mask := f.Max()
	if masked {
		if f != TOS {
			return nil, fmt.Errorf("this field has no mask")
		}
		var err error
		if mask, err = number(under, f.Max()); err != nil {
			return nil, err
		}
		if mask == 0 {
			return nil, fmt.Errorf("the mask 0 sets nothing")
		}
	}
	v, err := number(value, f.Max())
	return []Setting{{f, v & mask, mask}}, err
}

// setArgs is the inverse of set.
func setArgs(settings []Setting) []Term {
	var args []Term
	for i, s := range settings {
		var value string
		switch s.Field {
		case SrcMAC, DstMAC:
			value = FormatMAC(s.Value)
		case SrcHi, DstHi:
			continue // written with the lower half
		case SrcLo, DstLo:
			hi := uint64(0)
			if s.Mask != ipv4Mask && i > 0 {
				hi = settings[i-1].Value
			}
			value = wordsAddr(hi, s.Value, s.Mask == ipv4Mask).String()
		default:
			value = decimal(s.Value)
			if s.Mask != s.Field.Max() {
				value = fmt.Sprintf("0x%02x/0x%02x", s.Value, s.Mask)
			}
		}
		args = append(args, Term{Name: fieldName(s), Value: value})
	}
	return args
}

// police reads the arguments of a police action: the rate in bits a second and the
// burst in bytes, whole numbers with k, M, G or T behind them.
func (r actionReader) police(args []Term) (Action, error) {
	a := Action{Op: Police}
	seen := map[string]bool{}
	for _, arg := range args {
		if seen[arg.Name] {
			return a, r.fault(arg, "it is there twice", "leave one out")
		}
		seen[arg.Name] = true
		var v uint64
		var err error
		switch arg.Name {
		case "rate":
			a.Rate, err = amount(arg.Value, MaxRate)
		case "burst":
			v, err = amount(arg.Value, MaxBurst)
			a.Burst = uint32(v)
		case "":
			return a, r.fault(arg, "it takes a rate and a burst", "write police(rate=100M,burst=64k)")
		default:
			return a, r.fault(arg, "it has no such part", Suggest(arg.Name, "rate", "burst"))
		}
		if err != nil {
			return a, r.fault(arg, err.Error(), map[string]string{
				"rate": "write bits a second, like 100M, up to 1000T", "burst": "write bytes, like 64k, up to 2G"}[arg.Name])
		}
	}
	for _, part := range []string{"rate", "burst"} {
		if !seen[part] {
			return a, r.fault(r.op, "no "+part, "write police(rate=100M,burst=64k): bits a second, and bytes")
		}
	}
	return a, nil
}

// The suffixes of amounts, the largest first; K is read and never written.
var amountUnits = []struct {
	suffix string
	size   uint64
}{{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}, {"K", 1e3}}

// amount reads a whole number from 1 to limit with a suffix for a power of 1000.
func amount(s string, limit uint64) (uint64, error) {
	digits, unit := s, uint64(1)
	for _, u := range amountUnits {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = d, u.size
			break
		}
	}
	v, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || v == 0 || v > limit/unit {
		return 0, fmt.Errorf("%q is not a whole number from 1 to %s with k, M, G or T behind it", s, formatAmount(limit))
	}
	return v * unit, nil
}

// formatAmount is the inverse of amount.
func formatAmount(v uint64) string {
	for _, u := range amountUnits {
		if v >= u.size && v%u.size == 0 {
			return decimal(v/u.size) + u.suffix
		}
	}
	return decimal(v)
}
