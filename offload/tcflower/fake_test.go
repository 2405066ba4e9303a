package tcflower

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// fake is a kernel in memory: netlink, cls_flower and a card with a bounded table. It
// checks what the kernel checks and answers as the kernel does.
type fake struct {
	size      int // of the card's table; 0 is without end
	failEvery int // the card fails every n-th filter
	refuses   func(f *Filter) (unix.Errno, string)
	interrupt int                             // so many dumps say that they were cut into
	lose      func(seq uint32, b []byte) bool // whether an answer gets lost

	mu      sync.Mutex
	filters []Filter
	answers [][]byte
	added   int
}

func (k *fake) Send(b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return eachMessage(b, func(m message) error {
		switch m.kind {
		case unix.RTM_NEWQDISC:
			k.say(m, 0, "")
		case unix.RTM_GETTFILTER:
			k.dump(m)
		case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
			f, err := ParseFilter(m.body)
			if err != nil {
				k.say(m, unix.EINVAL, err.Error())
				return nil
			}
			if m.kind == unix.RTM_NEWTFILTER {
				errno, words := k.add(f)
				k.say(m, errno, words)
			} else {
				k.remove(m, f)
			}
		}
		return nil
	})
}

func (k *fake) Receive() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.answers) > 0 {
		b := k.answers[0]
		k.answers = k.answers[1:]
		if k.lose == nil || !k.lose(native.Uint32(b[8:]), b) {
			return b, nil
		}
	}
	return nil, unix.EAGAIN
}

// say answers a message: failures always, success if asked for.
func (k *fake) say(m message, errno unix.Errno, words string) {
	if errno == 0 && m.flags&unix.NLM_F_ACK == 0 {
		return
	}
	w := writer{native.AppendUint32(nil, uint32(-int32(errno)))}
	w.b = append(w.b, make([]byte, messageHeader)...)
	a := message{kind: unix.NLMSG_ERROR, flags: unix.NLM_F_CAPPED, seq: m.seq}
	if words != "" {
		w.text(1, words)
		a.flags |= unix.NLM_F_ACK_TLVS
	}
	a.body = w.b
	k.answers = append(k.answers, a.append(nil))
}

func samePlace(a, b *Filter) bool {
	return a.Device == b.Device && a.Parent == b.Parent && a.Chain == b.Chain && a.Priority == b.Priority
}

// add does what tc_new_tfilter, fl_change and the driver do.
func (k *fake) add(f Filter) (unix.Errno, string) {
	var high uint32
	for i := range k.filters {
		o := &k.filters[i]
		if !samePlace(o, &f) {
			continue
		}
		switch {
		case o.Protocol != f.Protocol:
			return unix.EINVAL, "Specified priority has different protocol"
		case o.Handle == f.Handle, slices.EqualFunc(o.Keys, f.Keys, equalKeys):
			return unix.EEXIST, ""
		}
		high = max(high, o.Handle)
	}
	if f.Handle == 0 {
		f.Handle = high + 1
	}
	if errno, words := checkKeys(&f); errno != 0 {
		return errno, words
	}
	f.Flags &^= InHW | NotInHW
	if f.Flags&SkipHW != 0 {
		f.Flags |= NotInHW
	} else if errno, words := k.card(&f); errno == 0 {
		f.Flags |= InHW
		f.HWCount = 1
	} else if f.Flags&SkipSW != 0 {
		return errno, words
	} else {
		f.Flags |= NotInHW
	}
	k.filters = append(k.filters, f)
	slices.SortStableFunc(k.filters, func(a, b Filter) int {
		return cmp.Or(cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Priority, b.Priority))
	})
	return 0, ""
}

// card is the driver's part.
func (k *fake) card(f *Filter) (unix.Errno, string) {
	k.added++
	used := 0
	for i := range k.filters {
		if k.filters[i].Flags&InHW != 0 {
			used++
		}
	}
	if k.refuses != nil {
		if errno, words := k.refuses(f); errno != 0 {
			return errno, words
		}
	}
	switch {
	case f.Chain != 0:
		return unix.EOPNOTSUPP, "Driver supports only offload of chain 0"
	case k.failEvery > 0 && k.added%k.failEvery == 0:
		return unix.EIO, "fake: injected firmware failure"
	case k.size > 0 && used >= k.size:
		return unix.ENOSPC, "fake: TCAM full"
	}
	return 0, ""
}

// checkKeys refuses what flower would ignore or not take: keys of a header whose type
// is not matched.
func checkKeys(f *Filter) (unix.Errno, string) {
	_, s, err := hear(f)
	if err != nil {
		return 0, ""
	}
	ip := s.typed && (s.ethType == 0x0800 || s.ethType == 0x86dd)
	for _, k := range f.Keys {
		_, icmp := s.icmpKeys()
		tag := k.ID == KeyVLANID || k.ID == KeyVLANPrio || k.ID == KeyVLANEthType
		switch {
		case tag && f.Protocol != 0x8100, k.ID == KeyCVLANID && f.Protocol != 0x8100:
			return unix.EINVAL, "a VLAN key without a tag"
		case (k.ID == KeyProto || k.ID == KeyTOS || k.ID == KeyTTL) && !ip:
			return unix.EINVAL, "an IP key without its type"
		case (k.ID == KeySrcIPv4 || k.ID == KeyDstIPv4) && s.ethType != 0x0800, (k.ID == KeySrcIPv6 || k.ID == KeyDstIPv6) && s.ethType != 0x86dd:
			return unix.EINVAL, "an address of another version"
		case (k.ID == KeyTCPSrc || k.ID == KeyTCPDst || k.ID == KeyTCPFlags) && s.proto != 6:
			return unix.EINVAL, "a TCP key without TCP"
		case (k.ID == KeyUDPSrc || k.ID == KeyUDPDst) && s.proto != 17:
			return unix.EINVAL, "a UDP key without UDP"
		case k.ID >= KeyICMPv4Code && k.ID <= KeyICMPv6Type && !icmp:
			return unix.EINVAL, "an ICMP key without ICMP"
		case bytes.Count(k.Mask, []byte{0}) == len(k.Mask):
			return unix.EINVAL, "a key that asks for nothing"
		}
	}
	return 0, ""
}

func (k *fake) remove(m message, f Filter) {
	i := slices.IndexFunc(k.filters, func(o Filter) bool { return samePlace(&o, &f) && o.Handle == f.Handle })
	if i < 0 {
		k.say(m, unix.ENOENT, "Specified filter handle not found")
		return
	}
	if m.flags&unix.NLM_F_ECHO != 0 {
		told := message{kind: unix.RTM_DELTFILTER, seq: m.seq, body: k.tell(&k.filters[i])}
		k.answers = append(k.answers, told.append(nil))
	}
	k.filters = slices.Delete(k.filters, i, i+1)
	k.say(m, 0, "")
}

// tell is the body of a message that tells of a filter, with what only the kernel says.
func (k *fake) tell(f *Filter) []byte {
	w := writer{f.appendHead(nil)}
	if f.Other == "matchall" {
		w.text(tcaKind, f.Other)
		w.nest(tcaOptions, func() { w.u32(flagsOf[f.Other], uint32(f.Flags)) })
		return w.b
	}
	w.text(tcaKind, "flower")
	w.u32(tcaChain, f.Chain)
	w.nest(tcaOptions, func() {
		for _, key := range f.told() {
			w.attribute(uint16(key.ID), key.Value...)
			if mask := keys[attributeOf[uint16(key.ID)].key].mask; mask != 0 {
				w.attribute(mask, key.Mask...)
			}
		}
		w.u32(flowerFlags, uint32(f.Flags))
		w.nest(flowerActions, func() {
			for i := range f.Actions {
				a := &f.Actions[i]
				w.nest(uint16(i+1), func() {
					a.append(&w)
					w.nest(actStats, func() {
						w.attribute(statsBasic, append(native.AppendUint64(nil, a.Stats.Bytes), native.AppendUint64(nil, a.Stats.Packets)...)...)
					})
				})
			}
		})
		w.u32(flowerHWCount, f.HWCount)
		for _, a := range f.Unknown {
			w.attribute(a.Kind, a.Data...)
		}
	})
	return w.b
}

// dump answers in datagrams of several messages, as the kernel does.
func (k *fake) dump(m message) {
	flags := uint16(unix.NLM_F_MULTI)
	if k.interrupt > 0 {
		k.interrupt--
		flags |= unix.NLM_F_DUMP_INTR
	}
	var b []byte
	var last Filter
	tell := func(f *Filter) {
		body := f.appendName(nil)
		if f.Handle != 0 {
			body = k.tell(f)
		}
		a := message{kind: unix.RTM_NEWTFILTER, flags: flags, seq: m.seq, body: body}
		if b = a.append(b); len(b) > 3000 {
			k.answers, b = append(k.answers, b), nil
		}
	}
	for i := range k.filters {
		f := &k.filters[i]
		if f.Device != native.Uint32(m.body[4:]) || f.Parent != native.Uint32(m.body[12:]) {
			continue
		}
		if !samePlace(f, &last) {
			last = *f
			tell(&Filter{Device: f.Device, Parent: f.Parent, Chain: f.Chain, Priority: f.Priority, Protocol: f.Protocol})
		}
		tell(f)
	}
	end := message{kind: unix.NLMSG_DONE, flags: flags, seq: m.seq, body: make([]byte, 4)}
	k.answers = append(k.answers, end.append(b))
}
