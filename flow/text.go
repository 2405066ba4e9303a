package flow

import (
	"fmt"
	"math"
	"math/bits"
	"strings"
)

// The text forms. A match is a list of terms, `field=value`, separated by commas;
// the rows of fieldRows are the fields. A term may imply more than it says
// (dst_port=80 implies the l4 flag), which is what people mean, and which makes
// some matches unsayable: port 80 without that flag. Devices hold such matches, so
// there is an escape: the term `bare`, which makes every term of its list say itself
// only, and admits masks on all fields and the raw fields vlan, cvlan, ct_state and
// reserved.
//
// Invariant, tested and fuzzed: for every valid m, ParseMatch(FormatMatch(m)) is m.
// It holds because FormatMatch writes the ordinary form, reads it back, and falls
// back to `bare` if that is not m.

// Term is one `name=value` of a text, or of a document that says the same.
type Term struct {
	Name, Value string
	Offset      int // where it stands; comes back in [Fault.Offset]
}

// ParseMatch reads a match, as in `in_port=vf0,ip_proto=tcp,dst_port=80-443`. The
// empty text is the match of everything. The error is a *[Fault].
func ParseMatch(s string, ports *Ports) (Match, error) {
	terms, err := splitTerms(s, 0)
	if err != nil {
		return Match{}, err
	}
	return NewMatch(terms, ports)
}

// FormatMatch writes m so that [ParseMatch] reads exactly m again.
func FormatMatch(m *Match, ports *Ports) string { return joinTerms(MatchTerms(m, ports)) }

// NewMatch makes a match of terms in any order. The error is a *[Fault] with the
// Offset of the term at fault.
func NewMatch(terms []Term, ports *Ports) (Match, error) {
	r := reader{ports: ports}
	if err := r.readAll(terms); err != nil {
		return Match{}, err
	}
	return r.m, nil
}

// MatchTerms returns terms of which [NewMatch] makes exactly m.
func MatchTerms(m *Match, ports *Ports) []Term {
	terms := writeRows(m, ports, false)
	said, err := NewMatch(terms, ports)
	if err == nil {
		if rest := m.Mask.Get(Flags) &^ said.Mask.Get(Flags); rest != 0 {
			terms = append(terms, Term{Name: "flags", Value: writeFlags(m.Value.Get(Flags)&rest, rest)})
			said.Pin(Flags, m.Value.Get(Flags), rest)
		}
		if said == *m {
			return terms
		}
	}
	return append([]Term{{Name: "bare"}}, writeRows(m, ports, true)...)
}

// splitTerms cuts a text at its commas and blanks. base is the offset of s in the
// text that faults speak of.
func splitTerms(s string, base int) ([]Term, error) {
	var terms []Term
	for at := 0; at < len(s); {
		size := strings.IndexAny(s[at:], ", \t")
		if size < 0 {
			size = len(s) - at
		}
		if size > 0 {
			name, value, found := strings.Cut(s[at:at+size], "=")
			if name == "" || value == "" && found || !found && name != "bare" {
				return nil, &Fault{Code: "E_TERM", What: fmt.Sprintf("%q", s[at:at+size]), Why: "not a field with a value",
					Remedy: "write FIELD=VALUE", Offset: base + at}
			}
			terms = append(terms, Term{name, value, base + at})
		}
		at += size + 1
	}
	return terms, nil
}

func joinTerms(terms []Term) string {
	var b strings.Builder
	for i, t := range terms {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(t.Name)
		if t.Value != "" {
			b.WriteByte('=')
			b.WriteString(t.Value)
		}
	}
	return b.String()
}

// reader makes a Match of terms.
type reader struct {
	ports *Ports
	m     Match
	bare  bool
	exact bool // a packet: one value each; flags go to given instead of m
	given struct{ value, mask uint64 }
	terms []Term
	term  Term              // being read
	at    uint16            // its number, from 1
	owner [NumFields]uint16 // number of the term that first pinned a field, or 0
	flags [8]uint16         // the same of each bit of Flags, for several terms pin some of them
}

func (r *reader) readAll(terms []Term) error {
	if len(terms) > math.MaxUint16 {
		return &Fault{Code: "E_TERM", What: "match", Why: "too many terms", Remedy: "name each field once"}
	}
	r.terms = terms
	for _, t := range terms {
		if t.Name == "bare" {
			if t.Value != "" && t.Value != "true" {
				return &Fault{Code: "E_FIELD_VALUE", What: "field bare", Why: "it has no value", Remedy: "write bare alone", Offset: t.Offset}
			}
			r.bare = true
		}
	}
	var seen uint64 // rows, as bits
	// ICMP fields depend on ip_proto, wherever it stands.
	for _, late := range []bool{false, true} {
		for i, t := range terms {
			number := fieldNamed(t.Name, r.bare)
			var row *fieldRow
			if number >= 0 {
				row = &fieldRows[number]
			}
			if row == nil && t.Name != "bare" {
				return &Fault{Code: "E_FIELD_UNKNOWN", What: "field " + t.Name, Why: "there is no such field",
					Remedy: Suggest(t.Name, FieldNames()...), Offset: t.Offset}
			}
			if row == nil || row.late != late {
				continue
			}
			r.term, r.at = t, uint16(i+1)
			if seen>>number&1 == 1 {
				return r.fault("E_FIELD_TWICE", "it is there twice", "leave one out")
			}
			seen |= 1 << number
			if r.exact && !r.bare && inexact(row, t.Value) {
				return r.fault("E_PACKET", t.Value+" is not one value", "a packet has exactly one")
			}
			if err := row.read(r, t.Value); err != nil {
				if f, ok := err.(*Fault); ok {
					return f
				}
				return r.fault("E_FIELD_VALUE", err.Error(), "use "+row.values)
			}
		}
	}
	return nil
}

// inexact reports whether s is a value with a mask, a range or a class of values.
func inexact(row *fieldRow, s string) bool {
	switch row.name {
	case "in_port", "flags", "tcp_flags":
		return false
	case "src_port", "dst_port":
		return strings.ContainsAny(s, "/-")
	}
	return strings.Contains(s, "/") || s == "any"
}

func (r *reader) fault(code, why, remedy string) *Fault {
	return &Fault{Code: code, What: "field " + r.term.Name, Why: why, Remedy: remedy, Offset: r.term.Offset}
}

// pin makes field f be v under mask, unless another term said otherwise.
func (r *reader) pin(f Field, v, mask uint64) error {
	clash := (r.m.Value.Get(f) ^ v) & r.m.Mask.Get(f) & mask
	if clash != 0 || f == SrcPort && !r.m.SrcPort.Any() || f == DstPort && !r.m.DstPort.Any() {
		number := r.owner[f]
		if f == Flags {
			number = r.flags[bits.TrailingZeros64(clash)]
		}
		other := r.terms[number-1]
		return r.fault("E_FIELD_CONFLICT", "it contradicts "+other.Name+"="+other.Value, "leave one of them out")
	}
	if r.owner[f] == 0 {
		r.owner[f] = r.at
	}
	if f == Flags {
		for rest := mask; rest != 0; rest &= rest - 1 {
			if i := bits.TrailingZeros64(rest); r.flags[i] == 0 {
				r.flags[i] = r.at
			}
		}
	}
	r.m.Pin(f, v, mask)
	return nil
}

// imply is pin for what a term does not say itself; `bare` terms imply nothing.
func (r *reader) imply(f Field, v, mask uint64) error {
	if r.bare {
		return nil
	}
	return r.pin(f, v, mask)
}

// masked reads VALUE or VALUE/MASK, where parse reads each half. allowed says
// whether the contract lets the field have a mask; bare lets every field.
func (r *reader) masked(s string, f Field, allowed bool, parse func(string) (uint64, error)) (v, mask uint64, err error) {
	s, m, has := strings.Cut(s, "/")
	mask = f.Max()
	if has {
		if !allowed && !r.bare {
			return 0, 0, fmt.Errorf("this field has no mask")
		}
		if mask, err = parse(m); err != nil {
			return 0, 0, err
		}
	}
	v, err = parse(s)
	return v & mask, mask, err
}

// writeMasked writes what m says of field f; "" if nothing.
func writeMasked(m *Match, f Field, format func(uint64) string) string {
	v, mask := m.Value.Get(f), m.Mask.Get(f)
	switch mask {
	case 0:
		return ""
	case f.Max():
		return format(v)
	}
	width := (layout[f].bits + 3) / 4
	return fmt.Sprintf("0x%0*x/0x%0*x", width, v, width, mask)
}
