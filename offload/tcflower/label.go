package tcflower

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// What tc cannot carry of an entry.
//
// A filter has 16 bytes of cookie, which hold the entry's ID and rule, and a priority of
// 16 bits. The entry's own priority has 64 bits, and its kind and the rest of its match
// (translate.go) have to be read back too. So entries that agree in these share a tc
// priority, a label, and the label is written down in the kernel, beside the filters:
// a filter that software alone has, in a chain of the egress hook that nothing jumps to,
// so that no packet ever meets it. It vanishes with the qdisc, as the filters do, and
// whoever opens the device later reads both.
//
// A higher priority has to get a smaller number. New labels are spread evenly over the
// gap that they fall into; one that finds no gap is refused, which costs speed and never
// correctness. Moving labels would double entries in a full table and lose counters.

// book is the chain that labels are written down in.
const book = 0x0b1adb00 // numbers of chains have 28 bits

// label is what all filters of one tc priority have in common.
type label struct {
	priority uint64
	kind     flow.EntryKind
	protocol uint16
	anyPort  bool       // the entries leave in_port open: they are on every port
	typeOpen bool       // and eth_type
	protOpen bool       // and ip_proto
	tagsOpen bool       // and whether there is a second tag
	rest     flow.Match // what the filters do not say
}

const labelVersion = 1

// record returns the filter that writes a label down.
func (l *label) record(device uint32, prio uint16) Filter {
	f := Filter{Device: device, Parent: Egress, Chain: book, Priority: prio, Protocol: EthAll, Handle: 1, Flags: SkipHW}
	for chunk := range slices.Chunk(l.encode(), CookieSize) {
		f.Actions = append(f.Actions, Action{Kind: "gact", Verdict: Pipe, Cookie: chunk})
	}
	f.Actions[len(f.Actions)-1].Verdict = Pass
	return f
}

// encode writes a label as bytes: a length, what every label has, and those words of the
// rest that say something.
func (l *label) encode() []byte {
	open := byte(0)
	for i, b := range []bool{l.anyPort, l.typeOpen, l.protOpen, l.tagsOpen} {
		if b {
			open |= 1 << i
		}
	}
	b := []byte{0, labelVersion, byte(l.kind), open}
	b = be.AppendUint16(b, l.protocol)
	b = be.AppendUint64(b, l.priority)
	for _, r := range []flow.PortRange{l.rest.SrcPort, l.rest.DstPort} {
		b = be.AppendUint16(be.AppendUint16(b, r.Lo), r.Hi)
	}
	for i, mask := range l.rest.Mask {
		if mask != 0 {
			b = be.AppendUint64(be.AppendUint64(append(b, byte(i)), mask), l.rest.Value[i])
		}
	}
	b[0] = byte(len(b))
	return b
}

const labelHead = 4 + 2 + 8 + 8

// parseLabel reads a record. ok is false for what no driver wrote.
func parseLabel(f *Filter) (l label, ok bool) {
	var b []byte
	for _, a := range f.Actions {
		b = append(b, a.Cookie...)
	}
	if len(b) < labelHead || int(b[0]) != len(b) || b[1] != labelVersion || b[2] > byte(flow.PieceEntry) || (len(b)-labelHead)%17 != 0 {
		return l, false
	}
	l.kind = flow.EntryKind(b[2])
	for i, open := range []*bool{&l.anyPort, &l.typeOpen, &l.protOpen, &l.tagsOpen} {
		*open = b[3]>>i&1 != 0
	}
	l.protocol, l.priority = be.Uint16(b[4:]), be.Uint64(b[6:])
	l.rest.SrcPort = flow.PortRange{Lo: be.Uint16(b[14:]), Hi: be.Uint16(b[16:])}
	l.rest.DstPort = flow.PortRange{Lo: be.Uint16(b[18:]), Hi: be.Uint16(b[20:])}
	for w := b[labelHead:]; len(w) > 0; w = w[17:] {
		if int(w[0]) >= flow.Words {
			return l, false
		}
		l.rest.Mask[w[0]], l.rest.Value[w[0]] = be.Uint64(w[1:]), be.Uint64(w[9:])
	}
	return l, true
}

// order sorts labels as they have to be asked. Among equal priorities any order is right.
func (l *label) order(o *label) int { return cmp.Compare(o.priority, l.priority) }

// numbers are the tc priorities of one port: which are taken, and by which label.
type numbers struct {
	of     map[label]uint16
	at     map[uint16]label
	others map[uint16]bool // taken by filters that are not the driver's
}

func newNumbers() numbers {
	return numbers{map[label]uint16{}, map[uint16]label{}, map[uint16]bool{}}
}

func (n *numbers) take(l label, prio uint16) {
	n.of[l], n.at[prio] = prio, l
}

func (n *numbers) free(l label) {
	delete(n.at, n.of[l])
	delete(n.of, l)
}

// assign gives numbers to the labels that have none. It returns those it gave; a label
// for which there is no room stays without.
func (n *numbers) assign(want []label) []label {
	fresh := slices.DeleteFunc(slices.Clone(want), func(l label) bool { return n.of[l] != 0 })
	slices.SortStableFunc(fresh, func(a, b label) int { return a.order(&b) })
	var given []label
	taken := make([]uint16, 0, len(n.at))
	for p := range n.at {
		taken = append(taken, p)
	}
	slices.Sort(taken)
	for len(fresh) > 0 {
		// fresh[0] comes behind all that are asked first, and before the first that is not.
		i := slices.IndexFunc(taken, func(p uint16) bool { l := n.at[p]; return l.order(&fresh[0]) > 0 })
		low, high := 0, 1<<16
		if i < 0 {
			i = len(taken)
		} else {
			high = int(taken[i])
		}
		if i > 0 {
			low = int(taken[i-1])
		}
		run := 1
		for run < len(fresh) && (i == len(taken) || func() bool { l := n.at[taken[i]]; return l.order(&fresh[run]) > 0 }()) {
			run++
		}
		var room []uint16
		for p := low + 1; p < high; p++ {
			if !n.others[uint16(p)] {
				room = append(room, uint16(p))
			}
		}
		fits := min(run, len(room))
		for k, l := range fresh[:fits] {
			n.take(l, room[(2*k+1)*len(room)/(2*fits)])
			given = append(given, l)
		}
		fresh = fresh[run:]
		taken = taken[i:]
	}
	return given
}

// String names the label for people.
func (l *label) String() string {
	return fmt.Sprintf("%s entries of priority %016x", l.kind, l.priority)
}
