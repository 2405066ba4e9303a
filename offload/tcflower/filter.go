package tcflower

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Where filters of a device hang: on what comes in from it and on what goes out to it.
// Both are hooks of its clsact qdisc.
const (
	Ingress uint32 = 0xfffffff2
	Egress  uint32 = 0xfffffff3
)

// EthAll as a filter's protocol means that the frame may have any.
const EthAll = 3

// Flags say where a filter works (TCA_CLS_FLAGS_…).
type Flags uint32

// The flags. InHW and NotInHW are the kernel's answer, the rest is what was asked.
const (
	SkipHW  Flags = 1 << 0
	SkipSW  Flags = 1 << 1
	InHW    Flags = 1 << 2
	NotInHW Flags = 1 << 3
	Verbose Flags = 1 << 4 // the driver's words are wanted even if software takes the filter
)

// Filter is one rule of flower, as the kernel is told of it and tells of it. The zero
// value of a field is left out when a filter is written.
type Filter struct {
	Device   uint32 // index of the netdev
	Parent   uint32 // [Ingress] or [Egress]
	Chain    uint32
	Priority uint16 // lower is asked first; 0 lets the kernel choose
	Protocol uint16 // Ethernet type of the frame's outside, or EthAll
	Handle   uint32 // tells the filters of one priority apart; 0 lets the kernel choose
	ClassID  uint32
	Flags    Flags
	HWCount  uint32   // how many devices hold it; only the kernel says
	InDev    string   // name of the netdev a frame has to come from, in a shared block
	Keys     []Key    // ascending by ID
	Actions  []Action // in order

	// Other is the filter's kind if that is not flower: of keys and actions nothing is known.
	Other string

	// Unknown are the attributes among flower's options that the codec does not know. A
	// filter that has any matches less than its keys say.
	Unknown []Attribute
}

// The numbers of attributes (linux/rtnetlink.h, linux/pkt_cls.h).
const (
	tcaKind    = 1
	tcaOptions = 2
	tcaStats   = 3
	tcaStats2  = 7
	tcaHW      = 10
	tcaChain   = 11

	flowerClassID = 1
	flowerInDev   = 2
	flowerActions = 3
	flowerFlags   = 22
	flowerHWCount = 86

	tcmsgSize = 20
)

// Key returns the filter's key of that name; ok is false if it has none.
func (f *Filter) Key(id KeyID) (k Key, ok bool) {
	i, ok := slices.BinarySearchFunc(f.Keys, id, func(k Key, id KeyID) int { return int(k.ID) - int(id) })
	if !ok {
		return Key{}, false
	}
	return f.Keys[i], true
}

// put adds a key, or replaces it. A nil mask is all ones; one of zeros asks for nothing.
func (f *Filter) put(id KeyID, value, mask []byte) {
	if mask == nil {
		mask = ones(len(value))
	}
	if bytes.Count(mask, []byte{0}) == len(mask) {
		return
	}
	i, there := slices.BinarySearchFunc(f.Keys, id, func(k Key, id KeyID) int { return int(k.ID) - int(id) })
	if there {
		f.Keys[i] = Key{id, value, mask}
		return
	}
	f.Keys = slices.Insert(f.Keys, i, Key{id, value, mask})
}

// told returns the keys as the kernel tells them of a filter that it took: as the type of
// the frame it gives the one behind the tags, and none if only the tags' are known.
func (f *Filter) told() []Key {
	k, ok := f.Key(KeyEthType)
	if !ok || !isTag(k) {
		return f.Keys
	}
	g := Filter{Keys: slices.DeleteFunc(slices.Clone(f.Keys), func(k Key) bool { return k.ID == KeyEthType })}
	for _, id := range []KeyID{KeyVLANEthType, KeyCVLANEthType} {
		if k, ok := f.Key(id); ok && !isTag(k) {
			g.put(KeyEthType, k.Value, nil)
		}
	}
	return g.Keys
}

// isTag reports whether an Ethernet type is that of a VLAN tag.
func isTag(k Key) bool {
	return bytes.Equal(k.Value, []byte{0x81, 0}) || bytes.Equal(k.Value, []byte{0x88, 0xa8})
}

// appendHead appends the struct tcmsg: which filter of which device.
func (f *Filter) appendHead(b []byte) []byte {
	b = append(b, 0, 0, 0, 0)
	b = native.AppendUint32(b, f.Device)
	b = native.AppendUint32(b, f.Handle)
	b = native.AppendUint32(b, f.Parent)
	return native.AppendUint32(b, uint32(f.Priority)<<16|uint32(networkOrder(f.Protocol)))
}

// networkOrder swaps the bytes of v where the machine's order is not the network's.
func networkOrder(v uint16) uint16 { return native.Uint16([]byte{byte(v >> 8), byte(v)}) }

// Append appends the body of a message that adds the filter: the struct tcmsg and the
// attributes. Counters, HWCount and the flags that only the kernel sets are left out.
func (f *Filter) Append(b []byte) []byte {
	w := writer{f.appendHead(b)}
	w.text(tcaKind, "flower")
	f.appendChain(&w)
	w.nest(tcaOptions, func() {
		if f.ClassID != 0 {
			w.u32(flowerClassID, f.ClassID)
		}
		if f.InDev != "" {
			w.text(flowerInDev, f.InDev)
		}
		if flags := f.Flags &^ (InHW | NotInHW); flags != 0 {
			w.u32(flowerFlags, uint32(flags))
		}
		for _, k := range f.Keys {
			w.attribute(uint16(k.ID), k.Value...)
			if mask := keys[attributeOf[uint16(k.ID)].key].mask; mask != 0 {
				w.attribute(mask, k.Mask...)
			}
		}
		for _, a := range f.Unknown {
			w.attribute(a.Kind, a.Data...)
		}
		if len(f.Actions) > 0 {
			w.nest(flowerActions, func() {
				for i := range f.Actions {
					w.nest(uint16(i+1), func() { f.Actions[i].append(&w) })
				}
			})
		}
	})
	return w.b
}

// appendName appends the body of a message that takes the filter out.
func (f *Filter) appendName(b []byte) []byte {
	w := writer{f.appendHead(b)}
	w.text(tcaKind, "flower")
	f.appendChain(&w)
	return w.b
}

func (f *Filter) appendChain(w *writer) {
	if f.Chain != 0 {
		w.u32(tcaChain, f.Chain)
	}
}

// ErrOther says that a filter is not one of flower.
var ErrOther = errors.New("not a filter of flower")

// ParseFilter reads the body of a message that tells of one filter: struct tcmsg and
// attributes. It loses nothing: what it does not know is in Unknown of the filter or of
// an action. For a filter of another kind the error is [ErrOther], and the head is read,
// and where it is: in a card, unless the codec knows better.
func ParseFilter(b []byte) (Filter, error) {
	if len(b) < tcmsgSize {
		return Filter{}, fmt.Errorf("a filter of %d bytes", len(b))
	}
	info := native.Uint32(b[16:])
	f := Filter{Device: native.Uint32(b[4:]), Handle: native.Uint32(b[8:]), Parent: native.Uint32(b[12:]),
		Priority: uint16(info >> 16), Protocol: networkOrder(uint16(info))}
	var kind string
	var options []byte
	err := eachAttribute(b[tcmsgSize:], func(a Attribute) (err error) {
		switch a.Kind {
		case tcaKind:
			kind = text(a.Data)
		case tcaOptions:
			options = a.Data
		case tcaChain:
			f.Chain, err = word("chain", a.Data)
		}
		return err
	})
	if err == nil && kind != "flower" {
		f.Other, f.Flags = kind, whereOther(kind, options)
		return f, fmt.Errorf("%w: %q", ErrOther, kind)
	}
	if err == nil {
		err = f.parseOptions(options)
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", &f, err)
	}
	return f, nil
}

// flagsOf are the attributes of other kinds that have their [Flags].
var flagsOf = map[string]uint16{"matchall": 3, "u32": 11, "bpf": 9}

// whereOther returns the flags of a filter of another kind: InHW if they cannot be read.
func whereOther(kind string, options []byte) Flags {
	const divisor = 4 // of a table of u32, which matches nothing itself
	flags := InHW
	err := eachAttribute(options, func(a Attribute) (err error) {
		var n uint32
		switch {
		case kind == "u32" && a.Kind == divisor:
			flags = NotInHW
		case a.Kind == flagsOf[kind]:
			n, err = word("flags", a.Data)
			flags = Flags(n)
		}
		return err
	})
	if err != nil || flagsOf[kind] == 0 {
		return InHW
	}
	return flags
}

// parseOptions reads what flower itself says. A mask may come before its value.
func (f *Filter) parseOptions(b []byte) error {
	values, masks := make([][]byte, len(keys)), make([][]byte, len(keys))
	err := eachAttribute(b, func(a Attribute) (err error) {
		var n uint32
		switch a.Kind {
		case flowerClassID:
			f.ClassID, err = word("classid", a.Data)
		case flowerInDev:
			f.InDev = text(a.Data)
		case flowerFlags:
			n, err = word("flags", a.Data)
			f.Flags = Flags(n)
		case flowerHWCount:
			f.HWCount, err = word("in_hw_count", a.Data)
		case flowerActions:
			f.Actions, err = parseActions(a.Data)
		default:
			at, known := attributeOf[a.Kind]
			if !known {
				f.Unknown = append(f.Unknown, Attribute{a.Kind, append([]byte(nil), a.Data...)})
				break
			}
			if len(a.Data) != keys[at.key].size {
				return fmt.Errorf("%s of %d bytes", keys[at.key].name, len(a.Data))
			}
			into := values
			if at.mask {
				into = masks
			}
			into[at.key] = bytes.Clone(a.Data)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, k := range keys {
		switch {
		case values[i] != nil:
			f.put(k.id, values[i], masks[i])
		case masks[i] != nil:
			f.put(k.id, make([]byte, k.size), masks[i]) // the kernel leaves out no value, but a zero says the same
		}
	}
	return nil
}

// String names the filter as tc does.
func (f *Filter) String() string {
	return fmt.Sprintf("filter dev #%d chain %d pref %d handle %#x", f.Device, f.Chain, f.Priority, f.Handle)
}
