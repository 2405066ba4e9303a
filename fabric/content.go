package fabric

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Content is all that one blade is told: one generation without its number. The same
// wanted state gives the same content, and its digest says so without comparing.
type Content struct {
	Blade  BladeID
	Table  flow.TableSpec // rules in the order they are asked; the number is the publisher's to give
	VNICs  []Bound        // by port
	Digest Digest         // what [Content.Sum] returns
}

// Bound is a vNIC on its VF.
type Bound struct {
	VNIC    VNICName
	VF      VFID
	Port    flow.Port
	Setting Setting
}

// Digest is SHA-256 over the canonical form of a content. The zero value is no content's.
type Digest [sha256.Size]byte

// String returns 64 hexadecimal digits, or nothing for the zero value.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// ParseDigest is the inverse of [Digest.String].
func ParseDigest(s string) (d Digest, err error) {
	if s == "" {
		return d, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, fmt.Errorf("digest %q: not 64 hexadecimal digits", s)
	}
	return Digest(b), nil
}

// Sum returns the digest of what c says now. Who got a content from elsewhere compares
// it with the digest it was promised.
//
// The canonical form has every field behind its length or in fixed width, lists behind
// their number, and ports by name: how a blade numbers its ports is its own affair. The
// order of rules, stations and vNICs in c does not matter; the generation is not in it.
func (c *Content) Sum() Digest {
	f := form{ports: c.Table.Ports, bytes: make([]byte, 0, 1024+320*len(c.Table.Rules))}
	f.text("bladeflow content 1")
	f.text(string(c.Blade))
	f.actions(c.Table.Default)
	f.number(uint64(len(c.Table.Rules)))
	rules, asked := c.Table.Rules, func(a, b flow.Rule) int { return a.Before(&b) }
	if !slices.IsSortedFunc(rules, asked) { // who got a change of many rules has them in order
		rules = slices.SortedFunc(slices.Values(rules), asked)
	}
	for i := range rules {
		f.rule(&rules[i])
	}
	sw := cmp.Or(c.Table.Switch, &flow.Switch{})
	f.port(sw.Uplink())
	f.number(uint64(len(sw.Stations())))
	for _, s := range slices.SortedFunc(slices.Values(sw.Stations()), func(a, b flow.Station) int {
		return cmp.Or(cmp.Compare(a.VLAN, b.VLAN), cmp.Compare(a.MAC, b.MAC))
	}) {
		f.number(uint64(s.VLAN))
		f.number(s.MAC)
		f.port(s.Port)
	}
	f.number(uint64(len(c.VNICs)))
	for _, v := range slices.SortedFunc(slices.Values(c.VNICs), func(a, b Bound) int { return a.VNIC.Compare(b.VNIC) }) {
		f.vnic(&v)
	}
	return sha256.Sum256(f.bytes)
}

// form is a canonical form as it is being written.
type form struct {
	bytes []byte
	ports *flow.Ports
}

func (f *form) number(v uint64) { f.bytes = binary.BigEndian.AppendUint64(f.bytes, v) }

func (f *form) text(s string) {
	f.number(uint64(len(s)))
	f.bytes = append(f.bytes, s...)
}

func (f *form) flag(b bool) {
	v := byte(0)
	if b {
		v = 1
	}
	f.bytes = append(f.bytes, v)
}

func (f *form) port(p flow.Port) {
	if p == 0 {
		f.text("")
		return
	}
	f.text(f.ports.Name(p))
}

func (f *form) rule(r *flow.Rule) {
	f.number(uint64(r.ID))
	f.text(r.Name)
	f.number(uint64(r.Tier))
	f.number(uint64(r.Priority))
	m := r.Match
	f.port(flow.Port(m.Value.Get(flow.InPort)))
	m.Value.Set(flow.InPort, 0)
	for i := range m.Value {
		f.number(m.Value[i])
		f.number(m.Mask[i])
	}
	for _, r := range []flow.PortRange{m.SrcPort, m.DstPort} {
		f.number(uint64(r.Lo)<<16 | uint64(r.Hi))
	}
	f.actions(r.Actions)
}

func (f *form) actions(actions flow.Actions) {
	f.number(uint64(len(actions)))
	for _, a := range actions {
		f.number(uint64(a.Op)<<32 | uint64(a.Tag)<<16 | uint64(a.Proto))
		f.number(uint64(len(a.Ports)))
		for _, p := range a.Ports {
			f.port(p)
		}
	}
}

func (f *form) vnic(v *Bound) {
	f.text(v.VNIC.Profile)
	f.text(v.VNIC.VNIC)
	f.port(v.Port)
	f.text(string(v.VF.Blade))
	f.text(v.VF.PF.PCI.String())
	f.text(v.VF.PF.Serial)
	f.number(uint64(v.VF.Index))
	s := v.Setting
	for _, n := range []uint64{s.MAC, uint64(s.VLAN), uint64(s.QoS.Guaranteed), uint64(s.QoS.Maximum)} {
		f.number(n)
	}
	for _, b := range []bool{s.Trust, s.Spoof, s.Traffic} {
		f.flag(b)
	}
}
