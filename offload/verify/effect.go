package verify

import (
	"encoding/binary"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Do two lists of actions do the same to every packet of a box? What a list does
// is defined on frames ([flow.Act]), and a box holds very many. But a list looks
// at little of a frame: whether tags are there, the id of the tag on top, for
// `normal` the destination MAC and the port it came in by, for `set` whether the
// packet has the field and what is in it, and each of these only
// to compare it with a few values that the two lists and the switch name. So the
// keys fall into classes, by which of these values they have or that they have
// none, and within a class both lists do the same, up to bytes that they only
// carry along. One packet of a class stands for all of it, once its frames
// ([variants]) hold something recognisable wherever the key does not say.
//
// The comparison itself is flow.Act on both sides; nothing here says what an
// action does, only what it can depend on. Where both lists set the same in the same
// places, which is nearly always so, what they set is no question.
//
// Checksums matter in one case only. Where the fields end up the same they have moved by
// the same, but a field that was changed and changed back leaves zero where all ones
// was. Frames with such sums are tried; and where a list sets a field twice, what says
// whether there is a sum is an axis, too.

// axis is one thing that lists of actions depend on: the bits of a field under
// mask, and the values that matter. All other values are alike.
type axis struct {
	field  flow.Field
	mask   uint64
	values []uint64
}

const groupMAC = 1 << 40

// axes returns what the effect of a and b on the packets of v can depend on.
func axes(v *box, sw *flow.Switch, a, b flow.Actions) []axis {
	var edits, pops, switched bool
	var ids, dsts []uint64
	var asked []flow.Setting
	if n := max(len(a), len(b)) - 1; len(a) != len(b) || n < 0 || !a[:n].Equal(b[:n]) {
		asked = settings(a, b)
	}
	for _, x := range slices.Concat(a, b) {
		switch x.Op {
		case flow.VLANPush:
			edits = true
		case flow.VLANPop:
			edits, pops = true, true
		case flow.VLANSet:
			edits = true
			ids = append(ids, uint64(x.Tag))
		case flow.Normal:
			switched = true
		}
	}
	var ports, macs []uint64
	if switched {
		dst, known := v.Value.Get(flow.DstMAC), v.Mask.Get(flow.DstMAC)
		group := known&groupMAC == 0 || dst&groupMAC != 0
		for _, s := range settings(a, b) {
			if s.Field == flow.DstMAC {
				dsts = append(dsts, s.Value)
				group = group || s.Value&groupMAC != 0
			}
		}
		ports = append(ports, uint64(sw.Uplink()))
		for _, st := range sw.Stations() {
			here := (st.MAC^dst)&known == 0 || slices.Contains(dsts, st.MAC)
			if here {
				macs = append(macs, st.MAC)
			}
			if here || group {
				ids = append(ids, uint64(st.VLAN))
				ports = append(ports, uint64(st.Port))
			}
		}
	}
	var out []axis
	add := func(f flow.Field, mask uint64, values []uint64) {
		slices.Sort(values)
		if values = slices.Compact(values); len(values) > 0 {
			out = append(out, axis{f, mask, values})
		}
	}
	if edits || switched {
		add(flow.VLAN, flow.TagPresent, []uint64{flow.TagPresent})
		add(flow.VLAN, flow.TagID, slices.Clone(ids))
	}
	if edits {
		add(flow.CVLAN, flow.TagPresent, []uint64{flow.TagPresent})
	}
	if pops {
		add(flow.CVLAN, flow.TagID, slices.Clone(ids))
		add(flow.EthType, flow.EthType.Max(), []uint64{flow.EthVLAN, flow.EthQinQ})
	}
	if switched {
		add(flow.InPort, flow.InPort.Max(), ports)
		add(flow.DstMAC, groupMAC, []uint64{groupMAC})
		add(flow.DstMAC, flow.DstMAC.Max(), macs)
	}
	return append(out, fieldAxes(asked)...)
}

// settings returns what a and b set, in any order.
func settings(a, b flow.Actions) []flow.Setting {
	var all []flow.Setting
	for _, x := range slices.Concat(a, b) {
		all = append(all, x.Settings...)
	}
	return all
}

// fieldAxes returns what the effect of settings can depend on: whether the packet has the
// fields, and of each field the parts that some settings set and others leave, compared
// with what they set.
func fieldAxes(all []flow.Setting) []axis {
	var out []axis
	var ip, l4, twice bool
	parts := map[flow.Field][]uint64{} // disjoint masks; each is in the mask of a setting or beside it
	var fields []flow.Field
	for _, s := range all {
		ip = ip || s.Field != flow.SrcMAC && s.Field != flow.DstMAC
		l4 = l4 || s.SetsPort()
		if parts[s.Field] == nil {
			fields = append(fields, s.Field)
		} else {
			twice = true // if by either list is not looked at
		}
		rest := s.Mask
		for i, p := range parts[s.Field] {
			if in, beside := p&s.Mask, p&^s.Mask; in != 0 && beside != 0 {
				parts[s.Field][i] = in
				parts[s.Field] = append(parts[s.Field], beside)
			}
			rest &^= p
		}
		if rest != 0 {
			parts[s.Field] = append(parts[s.Field], rest)
		}
	}
	twice = twice && ip
	if ip {
		out = append(out, axis{flow.Flags, flow.FlagIP, []uint64{flow.FlagIP}},
			axis{flow.EthType, flow.EthType.Max(), []uint64{flow.EthIPv4, flow.EthIPv6}})
	}
	if l4 || twice {
		out = append(out, axis{flow.Flags, flow.FlagL4, []uint64{flow.FlagL4}})
	}
	if twice {
		out = append(out, axis{flow.Flags, flow.FlagFragLater, []uint64{flow.FlagFragLater}}, axis{flow.Flags, flow.FlagOdd, []uint64{flow.FlagOdd}},
			axis{flow.Proto, flow.Proto.Max(), []uint64{flow.ProtoTCP, flow.ProtoICMPv6}})
	}
	for _, f := range fields {
		for _, mask := range parts[f] {
			x := axis{field: f, mask: mask}
			for _, s := range all {
				if s.Field == f && s.Mask&mask != 0 {
					x.values = append(x.values, s.Value&mask)
				}
			}
			slices.Sort(x.values)
			x.values = slices.Compact(x.values)
			out = append(out, x)
		}
	}
	return out
}

// differ searches the packets that are in v and in none of over for one to which
// e's actions do something else than those of w, which wins all of them. It looks at one packet of every class
// that the axes make.
func (c *checker) differ(e *entry, w *flow.Rule, v box, over []*box, axes []axis) *Mismatch {
	k, found := c.find(&v, over)
	if !found {
		return nil
	}
	if len(axes) == 0 {
		if m := c.mismatch(e, w, k); m.Differs() {
			return m
		}
		return nil
	}
	x := axes[0]
	rest := slices.Clip(over)
	for _, value := range x.values {
		p := pinned(x.field, value, x.mask)
		class, some := v.and(&p)
		if !some {
			continue
		}
		if m := c.differ(e, w, class, over, axes[1:]); m != nil || c.left < 0 {
			return m
		}
		if p.covers(&v) {
			return nil
		}
		rest = append(rest, &p)
	}
	return c.differ(e, w, v, rest, axes[1:])
}

// variants returns frames that all parse to k and differ in what lists of actions
// can see and k does not say. The first is flow.Frame's. In the others each tag is
// drop eligible, which no pushed tag is; and where k has a third tag, the last
// ones have more tags, below, with ids that a switch may know and with one that
// nobody names.
func variants(k flow.Key, sw *flow.Switch, a, b flow.Actions) [][]byte {
	frame, err := flow.Frame(k, nil)
	if err != nil {
		panic("verify: impossible packet: " + err.Error()) // find only returns possible ones
	}
	out := [][]byte{frame}
	if len(settings(a, b)) > 0 {
		h, ones := flow.Locate(&k, frame), slices.Clone(frame)
		if h.IP > 0 && k.Get(flow.EthType) == flow.EthIPv4 {
			ones[h.IP+10], ones[h.IP+11] = 0xff, 0xff
		}
		if h.Sum > 0 {
			ones[h.Sum], ones[h.Sum+1] = 0xff, 0xff
		}
		out = append(out, ones)
	}
	const first, size = 12, 4 // where the first tag is, and how long one is
	tags := 0
	for _, f := range []flow.Field{flow.VLAN, flow.CVLAN} {
		if k.Get(f)&flow.TagPresent != 0 {
			tags++
		}
	}
	if tags == 0 {
		return out
	}
	marked := slices.Clone(frame)
	for i := range tags {
		marked[first+size*i+2] |= flow.TagPresent >> 8 // the drop eligible bit
	}
	out = append(out, marked)
	third := k.Get(flow.EthType)
	if tags < flow.MaxTags || third != flow.EthVLAN && third != flow.EthQinQ {
		return out
	}
	pops := 0
	var named []uint16
	for _, x := range slices.Concat(a, b) {
		switch x.Op {
		case flow.VLANPop:
			pops++
		case flow.VLANSet:
			named = append(named, x.Tag)
		case flow.Normal:
			for _, st := range sw.Stations() {
				named = append(named, st.VLAN)
			}
		}
	}
	stranger := uint16(0)
	for slices.Contains(named, stranger) {
		stranger++
	}
	slices.Sort(named)
	named = append(slices.Compact(named), stranger)
	body := first + size*flow.MaxTags + 2
	out = append(out, marked[:body:body]) // the third tag is cut short: there are two
	for deep := range pops + 1 {
		for _, id := range named {
			f := marked[:body:body]
			for range deep {
				f = binary.BigEndian.AppendUint16(f, flow.TagPresent|id&flow.TagID)
				f = binary.BigEndian.AppendUint16(f, uint16(third))
			}
			f = binary.BigEndian.AppendUint16(f, flow.TagPresent|id&flow.TagID)
			out = append(out, binary.BigEndian.AppendUint16(f, flow.EthARP))
		}
	}
	return out
}
