package tcflower

import (
	"fmt"
)

// Verdict is what happens to a packet after an action (TC_ACT_…).
type Verdict int32

// The verdicts that entries use.
const (
	Pass   Verdict = 0 // go on behind tc, into the network stack
	Drop   Verdict = 2
	Pipe   Verdict = 3 // go on with the next action
	Stolen Verdict = 4 // the action has it
	Trap   Verdict = 8 // to the kernel of the card's host
)

// Action is one action of a filter. Kind says which of the parts below is valid; of a
// kind that the codec does not know, Options are kept as they came.
type Action struct {
	Kind    string  // gact, mirred, vlan, pedit, csum, police or another
	Verdict Verdict // of the kinds that the codec knows
	Index   uint32  // names the action in its kind; 0 lets the kernel choose
	Cookie  []byte  // at most CookieSize bytes of whoever put it in

	// Shared says that all CPUs count in one place: where a card counts, and none of them,
	// three counters for each CPU are room and time for nothing.
	Shared bool

	Mirred Mirred // valid iff Kind is mirred
	VLAN   VLAN   // valid iff Kind is vlan
	Edits  []Edit // valid iff Kind is pedit
	Csum   uint32 // valid iff Kind is csum: bits of what to compute again
	Police Police // valid iff Kind is police

	Options []byte      // valid iff the codec does not know Kind
	Unknown []Attribute // what the codec does not know of the options of a kind it knows

	Stats Stats // only the kernel says
}

// CookieSize is the most bytes a cookie may have.
const CookieSize = 16

// Mirred sends packets to a device: a copy, or the packet itself.
type Mirred struct {
	How    uint32 // one of the four below
	Device uint32 // index of the netdev
}

// What mirred does. The others than these work on what comes in from the device.
const (
	Redirect      uint32 = 1
	Mirror        uint32 = 2
	RedirectInner uint32 = 3
	MirrorInner   uint32 = 4
)

// VLAN changes tags.
type VLAN struct {
	How     uint32
	ID      uint16
	Proto   uint16
	Prio    uint8
	HasID   bool
	HasPrio bool
}

// What an action on VLAN tags does.
const (
	Pop    uint32 = 1
	Push   uint32 = 2
	Modify uint32 = 3
)

// Edit changes 32 bits of a header: new = old AND Mask XOR Value, at Offset bytes into
// the header. Value and Mask are as they lie in the packet.
type Edit struct {
	Header  uint16 // one of the headers below
	Command uint16 // 0 sets, 1 adds
	Offset  uint32
	Mask    [4]byte // ones stay
	Value   [4]byte
}

// The headers that can be changed.
const (
	HeaderEth  uint16 = 1
	HeaderIPv4 uint16 = 2
	HeaderIPv6 uint16 = 3
	HeaderTCP  uint16 = 4
	HeaderUDP  uint16 = 5
)

// Bits of Action.Csum.
const (
	CsumIPv4 = 1 << 0
	CsumICMP = 1 << 1
	CsumTCP  = 1 << 3
	CsumUDP  = 1 << 4
	CsumSCTP = 1 << 6
)

// Police drops what comes faster than a rate.
type Police struct {
	Rate  uint64 // bytes a second
	Burst uint32 // in ticks of the packet scheduler: the time that the burst takes at the rate
	MTU   uint32

	Conforms bool    // it is said what happens to the rest: by default, Pass
	Conform  Verdict // valid iff Conforms
}

// Stats is what an action has seen. The first two count packets wherever they met it.
type Stats struct {
	Packets, Bytes     uint64
	HWPackets, HWBytes uint64 // of these, what the device says
}

// The numbers of attributes and the sizes of structures, see linux/pkt_cls.h and linux/tc_act.
const (
	actKind     = 1
	actOptions  = 2
	actIndex    = 3
	actStats    = 4
	actPad      = 5
	actCookie   = 6
	actFlags    = 7
	actHWStats  = 8
	actUsedHW   = 9
	actHWCount  = 10
	sharedBit   = 1  // of actFlags
	genericSize = 20 // index, capab, action, refcnt, bindcnt

	policeTBF      = 1
	policeTable    = 2
	policeResult   = 5
	policeRate64   = 8
	policeSize     = 56
	editHeaders    = 5
	editHeader     = 6
	editParameters = 4
	editSize       = 24

	statsBasic   = 1
	statsBasicHW = 7
	statsPkt64   = 8
)

// parameters says which attribute of a kind's options has its structure, which its
// times, and how long the structure is at least.
var parameters = map[string]struct {
	parms, times, pad uint16
	size              int
}{
	"gact": {2, 1, 4, genericSize}, "mirred": {2, 1, 3, genericSize + 8}, "vlan": {2, 1, 5, genericSize + 4},
	"pedit": {editParameters, 1, 3, genericSize + 4}, "csum": {1, 2, 3, genericSize + 4}, "police": {policeTBF, 6, 7, policeSize},
}

func (a *Action) append(w *writer) {
	w.text(actKind, a.Kind)
	if _, known := parameters[a.Kind]; known {
		w.nest(actOptions, func() { a.appendOptions(w) })
	} else {
		w.attribute(actOptions|nested, a.Options...)
	}
	if len(a.Cookie) > 0 {
		w.attribute(actCookie, a.Cookie...)
	}
	if a.Shared {
		w.attribute(actFlags, native.AppendUint32(native.AppendUint32(nil, sharedBit), sharedBit)...)
	}
}

// appendOptions appends the options of a kind that the codec knows.
func (a *Action) appendOptions(w *writer) {
	p := parameters[a.Kind]
	head := make([]byte, 0, p.size)
	if a.Kind == "police" {
		head = a.policeHead(head)
	} else {
		head = native.AppendUint32(head, a.Index)
		head = native.AppendUint32(head, 0)
		head = native.AppendUint32(head, uint32(a.Verdict))
		head = append(head, make([]byte, 8)...)
	}
	switch a.Kind {
	case "mirred":
		head = native.AppendUint32(head, a.Mirred.How)
		head = native.AppendUint32(head, a.Mirred.Device)
	case "vlan":
		head = native.AppendUint32(head, a.VLAN.How)
	case "csum":
		head = native.AppendUint32(head, a.Csum)
	case "pedit":
		head = append(head, byte(len(a.Edits)), 0, 0, 0)
		for _, e := range a.Edits {
			head = append(append(head, e.Mask[:]...), e.Value[:]...)
			head = native.AppendUint32(head, e.Offset)
			head = append(head, make([]byte, 12)...)
		}
	}
	w.attribute(p.parms, head...)
	switch a.Kind {
	case "vlan":
		if a.VLAN.HasID {
			w.attribute(3, native.AppendUint16(nil, a.VLAN.ID)...)
		}
		if a.VLAN.Proto != 0 {
			w.attribute(4, byte(a.VLAN.Proto>>8), byte(a.VLAN.Proto))
		}
		if a.VLAN.HasPrio {
			w.attribute(6, a.VLAN.Prio)
		}
	case "pedit":
		w.nest(editHeaders, func() {
			for _, e := range a.Edits {
				w.nest(editHeader, func() {
					w.attribute(1, native.AppendUint16(nil, e.Header)...)
					w.attribute(2, native.AppendUint16(nil, e.Command)...)
				})
			}
		})
	case "police":
		if a.Police.Rate > 0 {
			w.attribute(policeTable, rateTable(a.Police.Rate, a.Police.MTU)...)
		}
		if a.Police.Conforms {
			w.attribute(policeResult, native.AppendUint32(nil, uint32(a.Police.Conform))...)
		}
		if a.Police.Rate > 1<<32-1 {
			w.attribute(policeRate64, native.AppendUint64(nil, a.Police.Rate)...)
		}
	}
	for _, u := range a.Unknown {
		w.attribute(u.Kind, u.Data...)
	}
}

// policeHead appends struct tc_police. The rate in it is Ethernet's, without overhead.
func (a *Action) policeHead(b []byte) []byte {
	b = native.AppendUint32(b, a.Index)
	b = native.AppendUint32(b, uint32(a.Verdict))
	b = native.AppendUint32(b, 0)
	b = native.AppendUint32(b, a.Police.Burst)
	b = native.AppendUint32(b, a.Police.MTU)
	if a.Police.Rate > 0 {
		b = append(b, cellLog(a.Police.MTU), 1, 0, 0, 0xff, 0xff, 0, 0) // link layer Ethernet, and how the table of the rate is to be read
	} else {
		b = append(b, make([]byte, 8)...)
	}
	b = native.AppendUint32(b, uint32(min(a.Police.Rate, 1<<32-1)))
	return append(b, make([]byte, 12+12)...)
}

// parseActions reads a list of actions. The kernel numbers them from 1 in order.
func parseActions(b []byte) ([]Action, error) {
	var out []Action
	err := eachAttribute(b, func(at Attribute) error {
		a, err := parseAction(at.Data)
		if err != nil {
			return fmt.Errorf("action %d: %w", at.Kind, err)
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

func parseAction(b []byte) (Action, error) {
	var a Action
	var options []byte
	err := eachAttribute(b, func(at Attribute) (err error) {
		switch at.Kind {
		case actKind:
			a.Kind = text(at.Data)
		case actOptions:
			options = at.Data
		case actCookie:
			a.Cookie = append([]byte(nil), at.Data...)
		case actIndex:
			a.Index, err = word("index of an action", at.Data)
		case actStats:
			a.Stats, err = parseStats(at.Data)
		case actFlags: // a value and which bits of it hold
			var v uint32
			v, err = word("flags of an action", at.Data)
			a.Shared = v&sharedBit != 0
		case actPad, actHWStats, actUsedHW, actHWCount: // how it is counted, and where it is
		default:
			return fmt.Errorf("attribute %d, which is not known", at.Kind)
		}
		return err
	})
	if err == nil {
		err = a.parseOptions(options)
	}
	if err != nil {
		return a, fmt.Errorf("%s: %w", a.Kind, err)
	}
	return a, nil
}

func (a *Action) parseOptions(b []byte) error {
	p, known := parameters[a.Kind]
	if !known {
		a.Options = append([]byte(nil), b...)
		return nil
	}
	var parms []byte
	var headers []Edit
	err := eachAttribute(b, func(at Attribute) (err error) {
		switch {
		case at.Kind == p.parms:
			parms = at.Data
		case at.Kind == p.times || at.Kind == p.pad:
		case a.Kind == "vlan" && at.Kind == 3 && len(at.Data) == 2:
			a.VLAN.ID, a.VLAN.HasID = native.Uint16(at.Data), true
		case a.Kind == "vlan" && at.Kind == 4 && len(at.Data) == 2:
			a.VLAN.Proto = uint16(at.Data[0])<<8 | uint16(at.Data[1])
		case a.Kind == "vlan" && at.Kind == 6 && len(at.Data) == 1:
			a.VLAN.Prio, a.VLAN.HasPrio = at.Data[0], true
		case a.Kind == "pedit" && at.Kind == editHeaders:
			headers, err = parseHeaders(at.Data)
		case a.Kind == "police" && at.Kind == policeRate64 && len(at.Data) == 8:
			a.Police.Rate = native.Uint64(at.Data)
		case a.Kind == "police" && at.Kind == policeTable: // follows from the rate
		case a.Kind == "police" && at.Kind == policeResult && len(at.Data) == 4:
			a.Police.Conform, a.Police.Conforms = Verdict(native.Uint32(at.Data)), true
		default:
			a.Unknown = append(a.Unknown, Attribute{at.Kind, append([]byte(nil), at.Data...)})
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(parms) < p.size {
		return fmt.Errorf("parameters of %d bytes", len(parms))
	}
	return a.parseParameters(parms, headers)
}

// parseParameters reads the structure that every kind has.
func (a *Action) parseParameters(b []byte, headers []Edit) error {
	a.Index = native.Uint32(b)
	if a.Kind == "police" {
		a.Verdict = Verdict(native.Uint32(b[4:]))
		a.Police.Burst, a.Police.MTU = native.Uint32(b[12:]), native.Uint32(b[16:])
		if a.Police.Rate == 0 {
			a.Police.Rate = uint64(native.Uint32(b[28:]))
		}
		return nil
	}
	a.Verdict = Verdict(native.Uint32(b[8:]))
	own := b[genericSize:]
	switch a.Kind {
	case "mirred":
		a.Mirred = Mirred{native.Uint32(own), native.Uint32(own[4:])}
	case "vlan":
		a.VLAN.How = native.Uint32(own)
	case "csum":
		a.Csum = native.Uint32(own)
	case "pedit":
		n := int(own[0])
		if len(own) < 4+n*editSize || len(headers) > n {
			return fmt.Errorf("%d edits in %d bytes, with headers for %d", n, len(own), len(headers))
		}
		for i := range n {
			at := own[4+i*editSize:]
			e := Edit{Offset: native.Uint32(at[8:]), Mask: [4]byte(at), Value: [4]byte(at[4:])}
			if i < len(headers) {
				e.Header, e.Command = headers[i].Header, headers[i].Command
			}
			a.Edits = append(a.Edits, e)
		}
	}
	return nil
}

// parseHeaders reads to which header each edit belongs.
func parseHeaders(b []byte) ([]Edit, error) {
	var out []Edit
	err := eachAttribute(b, func(at Attribute) error {
		var e Edit
		err := eachAttribute(at.Data, func(at Attribute) error {
			switch {
			case len(at.Data) != 2:
				return fmt.Errorf("edit attribute %d of %d bytes", at.Kind, len(at.Data))
			case at.Kind == 1:
				e.Header = native.Uint16(at.Data)
			case at.Kind == 2:
				e.Command = native.Uint16(at.Data)
			}
			return nil
		})
		out = append(out, e)
		return err
	})
	return out, err
}

// parseStats reads the counters of an action: the 64-bit packets where the kernel has
// them (since 5.5), those of 32 bits otherwise.
func parseStats(b []byte) (Stats, error) {
	var s Stats
	var wide []uint64
	err := eachAttribute(b, func(at Attribute) error {
		switch {
		case (at.Kind == statsBasic || at.Kind == statsBasicHW) && len(at.Data) < 12:
			return fmt.Errorf("counters of %d bytes", len(at.Data))
		case at.Kind == statsBasic:
			s.Bytes, s.Packets = native.Uint64(at.Data), uint64(native.Uint32(at.Data[8:]))
		case at.Kind == statsBasicHW:
			s.HWBytes, s.HWPackets = native.Uint64(at.Data), uint64(native.Uint32(at.Data[8:]))
		case at.Kind == statsPkt64 && len(at.Data) == 8:
			wide = append(wide, native.Uint64(at.Data)) // follows the counter it belongs to
		}
		return nil
	})
	if len(wide) > 0 {
		s.Packets = wide[0]
	}
	if len(wide) > 1 {
		s.HWPackets = wide[1]
	}
	return s, err
}
