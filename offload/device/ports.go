package device

import (
	"math/bits"

	"github.com/bladeflow/bladeflow/flow"
)

// prefix reports whether r is a power of two of ports on its own boundary: what a
// mask of leading bits holds. Such a mask is written as a range in a flow.Match.
func prefix(r flow.PortRange) bool {
	low := r.Hi - r.Lo
	return low&(low+1) == 0 && r.Lo&low == 0
}

// portPart returns the part of a port field and the range that m has on it.
func portPart(f flow.Field, m *flow.Match) (Part, flow.PortRange) {
	if f == flow.SrcPort {
		return SrcPort, m.SrcPort
	}
	return DstPort, m.DstPort
}

// takesRange reports whether the device can match range r on p in one entry.
func (m *Model) takesRange(p Part, r flow.PortRange) bool {
	return r.Any() || m.Fields[p] != No && m.Ranges || m.Fields[p] >= Prefix && prefix(r)
}

// Split returns matches that the device takes and whose union is exactly match, as
// far as port ranges are what stands in the way, or that nothing is said of tags: each
// range becomes the fewest prefixes, at most 30 of 16 bits. Of two ranges it returns every
// pair. What the device cannot match otherwise stays as it is, for [Model.Admit] to refuse.
func (m *Model) Split(match *flow.Match) []flow.Match {
	out := m.tagged(match)
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		p, r := portPart(f, match)
		if m.takesRange(p, r) || m.Fields[p] < Prefix {
			continue
		}
		whole := out
		out = nil
		for _, w := range whole {
			for lo := uint32(r.Lo); lo <= uint32(r.Hi); {
				size := blockAt(lo, uint32(r.Hi)-lo+1)
				piece := w
				piece.SetPorts(f, uint16(lo), uint16(lo+size-1))
				out = append(out, piece)
				lo += size
			}
		}
	}
	return out
}

// blockAt returns the size of the largest prefix that begins at lo and holds at
// most n ports.
func blockAt(lo, n uint32) uint32 {
	size := uint32(1) << (bits.Len32(n) - 1)
	if lo != 0 {
		size = min(size, lo&-lo)
	}
	return size
}
