package fallback

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/bladeflow/bladeflow/flow"
)

// Setting fields in place. The definition ([flow.Put]) keeps a copy of the frame and
// moves each checksum by the words that differ afterwards. Here nothing is copied and
// each word is looked at once: its difference goes into one sum for the IPv4 header and
// one for the transport, and at the end each moves its checksum once. Sums of one's
// complement may be added in any order, so the bytes are the same.
//
// Measured beside output alone at 45 ns a frame (BenchmarkJudge: all kinds of IPv4, one
// core of a shared 2-core virtual machine, load 2 to 4, medians of five): 65 ns with a MAC,
// 120 with a TTL, 125 with two addresses, and 65 with a police action.

// adjustment is by how much a checksum moves.
type adjustment struct {
	by      uint64
	changed bool
}

// add takes account of words, 16 bits each, that were and now are.
func (a *adjustment) add(was, now uint64) {
	if was == now {
		return
	}
	a.changed = true
	for ; was|now != 0; was, now = was>>16, now>>16 {
		a.by += ^was&0xffff + now&0xffff
	}
}

// apply moves the checksum at b. The sum of nothing, all ones, is never the result.
func (a *adjustment) apply(b []byte) {
	if !a.changed {
		return
	}
	sum := uint64(^binary.BigEndian.Uint16(b)) + a.by
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, ^uint16(sum))
}

// edits are the settings of one action.
type edits struct {
	settings  []flow.Setting
	ip, ports bool // some are of IP, and of these some of ports
}

func newEdits(settings []flow.Setting) edits {
	e := edits{settings: settings}
	for _, s := range settings {
		e.ip = e.ip || s.Field != flow.SrcMAC && s.Field != flow.DstMAC
		e.ports = e.ports || s.SetsPort()
	}
	return e
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put does what [flow.Put] does to the frame, whose headers are h; of edits to MACs alone
// they may be none.
func (e *editor) put(h flow.Headers, by *edits) {
	e.move()
	f, be := e.frame, binary.BigEndian
	var header, transport adjustment
	var crc uint32
	six := h.IP > 0 && f[h.IP]>>4 == 6
	if h.CRC > 0 && by.ports {
		crc = crc32.Checksum(f[h.Ports:h.End], castagnoli)
	}
	for i := range by.settings {
		s := &by.settings[i]
		if version := s.IPVersion(); version != 0 && (h.IP == 0 || (version == flow.EthIPv6) != six) {
			continue
		}
		switch s.Field {
		case flow.DstMAC:
			putMAC(f, s.Value)
			continue
		case flow.SrcMAC:
			putMAC(f[6:], s.Value)
			continue
		}
		if h.IP == 0 {
			continue
		}
		ip := f[h.IP:]
		switch s.Field {
		case flow.TOS:
			if six {
				be.PutUint16(ip, be.Uint16(ip)&^uint16(s.Mask<<4)|uint16(s.Value<<4))
				continue
			}
			now := ip[1]&^byte(s.Mask) | byte(s.Value)
			header.add(uint64(ip[1]), uint64(now))
			ip[1] = now
		case flow.TTL:
			if six {
				ip[7] = byte(s.Value)
				continue
			}
			header.add(uint64(ip[8])<<8, s.Value<<8)
			ip[8] = byte(s.Value)
		case flow.SrcHi, flow.SrcLo, flow.DstHi, flow.DstLo:
			if !six {
				at := ip[12:]
				if s.Field == flow.DstLo {
					at = ip[16:]
				}
				was := uint64(be.Uint32(at))
				header.add(was, s.Value)
				transport.add(was, s.Value)
				be.PutUint32(at, uint32(s.Value))
				continue
			}
			at := ip[8+8*int(s.Field-flow.SrcHi):]
			if s.Field < flow.DstHi || !h.Elsewhere {
				transport.add(be.Uint64(at), s.Value)
			}
			be.PutUint64(at, s.Value)
		case flow.SrcPort, flow.DstPort:
			if h.Ports == 0 {
				continue
			}
			at := f[h.Ports+2*int(s.Field-flow.SrcPort):]
			was := uint64(be.Uint16(at))
			transport.add(was, s.Value)
			be.PutUint16(at, uint16(s.Value))
		}
	}
	if h.IP > 0 && !six {
		header.apply(f[h.IP+10:])
	}
	switch {
	case h.CRC > 0 && !by.ports: // it is not over addresses
	case h.CRC > 0:
		sum := f[h.CRC:]
		crc ^= crc32.Checksum(f[h.Ports:h.End], castagnoli)
		binary.LittleEndian.PutUint32(sum, binary.LittleEndian.Uint32(sum)^crc)
	case h.Sum == 0:
	case h.Proto != flow.ProtoUDP:
		transport.apply(f[h.Sum:])
	case be.Uint16(f[h.Sum:]) != 0: // else it has none, and 0 would be none
		transport.apply(f[h.Sum:])
		if be.Uint16(f[h.Sum:]) == 0 {
			be.PutUint16(f[h.Sum:], 0xffff)
		}
	}
}

func putMAC(b []byte, mac uint64) {
	binary.BigEndian.PutUint16(b, uint16(mac>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(mac))
}
