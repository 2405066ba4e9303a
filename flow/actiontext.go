package flow

import (
	"fmt"
	"strings"
)

// ParseActions reads actions in order, separated by commas: `drop`, `normal`,
// `pass`, `vlan_pop`, `vlan_set:5`, `output:vf1`, `output(vf1,vf2)`,
// `mirror:vf1`, `vlan_push(id=5,prio=3,proto=0x88a8)`, `set(dst_ip=10.0.0.1,dst_port=80)`,
// `police(rate=100M,burst=64k)`. One argument follows a colon, several and those with
// a name stand in parentheses. The error is a *[Fault].
func ParseActions(s string, ports *Ports) (Actions, error) { return parseActions(s, 0, ports) }

// parseActions is ParseActions for a text that starts at offset base of another.
func parseActions(s string, base int, ports *Ports) (Actions, error) {
	var out Actions
	for at := 0; at <= len(s) && strings.TrimSpace(s) != ""; {
		size := actionEnd(s[at:])
		text := s[at : at+size]
		trimmed := strings.TrimSpace(text)
		op, args, err := splitAction(trimmed, base+at+strings.Index(text, trimmed))
		if err != nil {
			return nil, err
		}
		a, err := NewAction(op, args, ports)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
		at += size + 1
	}
	if err := out.Valid(); err != nil {
		f := *err.(*Fault)
		f.Offset = base
		return nil, &f
	}
	return out, nil
}

// actionEnd returns the length of the first action of s: to the next comma outside
// parentheses.
func actionEnd(s string) int {
	depth := 0
	for i, c := range []byte(s) {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth <= 0 {
				return i
			}
		}
	}
	return len(s)
}

// splitAction cuts `op`, `op:value` or `op(…)`.
func splitAction(s string, offset int) (op Term, args []Term, err error) {
	end := strings.IndexAny(s, ":(")
	if end < 0 {
		return Term{Name: s, Offset: offset}, nil, nil
	}
	op = Term{Name: s[:end], Offset: offset}
	rest, offset := s[end+1:], offset+end+1
	if s[end] == ':' {
		return op, []Term{{Value: rest, Offset: offset}}, nil
	}
	inner, ok := strings.CutSuffix(rest, ")")
	if !ok {
		return op, nil, &Fault{Code: "E_ACTION", What: "action " + op.Name, Why: "its parenthesis is not closed", Remedy: "add )", Offset: op.Offset}
	}
	for at := 0; at <= len(inner); {
		size := strings.IndexByte(inner[at:], ',')
		if size < 0 {
			size = len(inner) - at
		}
		arg := strings.TrimSpace(inner[at : at+size])
		name, value, named := strings.Cut(arg, "=")
		if !named {
			name, value = "", arg
		}
		args = append(args, Term{name, value, offset + at})
		at += size + 1
	}
	return op, args, nil
}

// NewAction makes one action of its word and its arguments: for output and mirror
// unnamed ports; for vlan_set an unnamed id; for vlan_push id, prio (0 if absent)
// and proto (0x8100 if absent), or only an unnamed id; for set fields; for police rate
// and burst. The error is a *[Fault] with the Offset of the word or of the argument at
// fault.
func NewAction(op Term, args []Term, ports *Ports) (Action, error) {
	r := actionReader{op: op}
	var a Action
	switch op.Name {
	case "drop", "normal", "pass", "vlan_pop":
		if len(args) > 0 {
			return a, r.fault(args[0], "it takes no value", "write "+op.Name+" alone")
		}
		for i, name := range opNames {
			if name == op.Name {
				a.Op = Op(i)
			}
		}
		return a, nil
	case "output", "mirror":
		a.Op = Output
		if op.Name == "mirror" {
			a.Op = Mirror
		}
		return r.ports(a, args, ports)
	case "vlan_set":
		a.Op = VLANSet
		if len(args) != 1 || args[0].Name != "" && args[0].Name != "id" {
			return a, r.fault(op, "it takes one VLAN id", "write vlan_set:ID with an id of 0 to 4095")
		}
		id, err := r.number(args[0], TagID)
		a.Tag = uint16(id)
		return a, err
	case "vlan_push":
		return r.push(args)
	case "set":
		return r.set(args)
	case "police":
		return r.police(args)
	}
	return a, &Fault{Code: "E_ACTION", What: fmt.Sprintf("action %q", op.Name), Why: "there is no such action",
		Remedy: Suggest(op.Name, opNames[:]...), Offset: op.Offset}
}

// actionReader reads the arguments of one action.
type actionReader struct{ op Term }

func (r actionReader) fault(at Term, why, remedy string) error {
	what := "action " + r.op.Name
	if at.Name != "" && at.Name != r.op.Name {
		what += ": " + at.Name
	}
	return &Fault{Code: "E_ACTION", What: what, Why: why, Remedy: remedy, Offset: at.Offset}
}

func (r actionReader) number(arg Term, limit uint64) (uint64, error) {
	v, err := number(arg.Value, limit)
	if err != nil {
		return 0, r.fault(arg, err.Error(), fmt.Sprintf("use 0 to %d", limit))
	}
	return v, nil
}

func (r actionReader) ports(a Action, args []Term, ports *Ports) (Action, error) {
	if len(args) == 0 {
		return a, r.fault(r.op, "no port", fmt.Sprintf("write %s:PORT or %[1]s(PORT,PORT)", r.op.Name))
	}
	for _, arg := range args {
		if arg.Name != "" {
			return a, r.fault(arg, "it takes only ports", fmt.Sprintf("write %s:PORT or %[1]s(PORT,PORT)", r.op.Name))
		}
		p, err := ports.Find(arg.Value)
		if err == nil && p == 0 {
			return a, r.fault(arg, "#0 is no port", "use #1 to #65535")
		}
		if err != nil {
			f := *err.(*Fault)
			f.What, f.Offset = "action "+r.op.Name+": "+f.What, arg.Offset
			return a, &f
		}
		a.Ports = append(a.Ports, p)
	}
	return a, nil
}

func (r actionReader) push(args []Term) (Action, error) {
	a := Action{Op: VLANPush, Proto: EthVLAN}
	seen := map[string]bool{}
	for _, arg := range args {
		name := arg.Name
		if name == "" && len(args) == 1 {
			name = "id"
		}
		if seen[name] {
			return a, r.fault(arg, "it is there twice", "leave one out")
		}
		seen[name] = true
		var v uint64
		var err error
		switch name {
		case "id":
			v, err = r.number(arg, TagID)
			a.Tag |= uint16(v)
		case "prio":
			v, err = r.number(arg, 7)
			a.Tag |= uint16(v) << 13
		case "proto":
			v, err = r.number(arg, 0xffff)
			a.Proto = uint16(v)
			if err == nil && v != EthVLAN && v != EthQinQ {
				err = r.fault(arg, fmt.Sprintf("%s is not a VLAN protocol", arg.Value), "use 0x8100 or 0x88a8")
			}
		default:
			err = r.fault(arg, "it has no such part", Suggest(name, "id", "prio", "proto"))
		}
		if err != nil {
			return a, err
		}
	}
	if !seen["id"] {
		return a, r.fault(r.op, "no id", "write vlan_push(id=ID)")
	}
	return a, nil
}

// Args returns the arguments of which [NewAction] makes a again.
func (a Action) Args(ports *Ports) []Term {
	var args []Term
	switch a.Op {
	case Output, Mirror:
		for _, p := range a.Ports {
			args = append(args, Term{Value: ports.Name(p)})
		}
	case VLANSet:
		args = append(args, Term{Value: decimal(uint64(a.Tag))})
	case VLANPush:
		args = append(args, Term{Name: "id", Value: decimal(uint64(a.Tag & TagID))})
		if prio := a.Tag >> 13; prio != 0 {
			args = append(args, Term{Name: "prio", Value: decimal(uint64(prio))})
		}
		if a.Proto != EthVLAN {
			args = append(args, Term{Name: "proto", Value: fmt.Sprintf("0x%04x", a.Proto)})
		}
	case Set:
		return setArgs(a.Settings)
	case Police:
		return []Term{{Name: "rate", Value: formatAmount(a.Rate)}, {Name: "burst", Value: formatAmount(uint64(a.Burst))}}
	}
	return args
}

// FormatActions writes actions so that [ParseActions] reads the same list again.
// The empty list, which a guard has, is the empty text.
func FormatActions(actions Actions, ports *Ports) string {
	var b strings.Builder
	for i, a := range actions {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(a.Op.String())
		args := a.Args(ports)
		if len(args) == 1 && args[0].Name == "" {
			b.WriteString(":" + args[0].Value)
		} else if len(args) > 0 {
			b.WriteString("(" + joinArgs(args) + ")")
		}
	}
	return b.String()
}

func joinArgs(args []Term) string {
	var out []string
	for _, t := range args {
		if t.Name != "" {
			out = append(out, t.Name+"="+t.Value)
		} else {
			out = append(out, t.Value)
		}
	}
	return strings.Join(out, ",")
}
