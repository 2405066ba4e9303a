package ruleset

import (
	"encoding/binary"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// The numbers of a classic pcap file (draft-ietf-opsawg-pcap).
const (
	pcapMicro    = 0xa1b2c3d4
	pcapNano     = 0xa1b23c4d
	pcapNG       = 0x0a0d0d0a
	pcapHeader   = 24
	pcapRecord   = 16
	linkEthernet = 1
)

// ReadPcap returns the frames of a classic pcap file, which share data's memory. A
// frame that was cut when it was captured is a fault: it would be judged as a
// truncated packet, which it was not.
func ReadPcap(file string, data []byte) ([][]byte, error) {
	fault := func(why, remedy string) error {
		return &flow.Fault{Code: "E_PCAP", What: file, Why: why, Remedy: remedy}
	}
	if len(data) < pcapHeader {
		return nil, fault("too short for a pcap file", "write it with tcpdump -s 0 -w FILE.pcap")
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch magic := order.Uint32(data); {
	case magic == pcapMicro || magic == pcapNano:
	case magic == pcapNG:
		return nil, fault("this is pcapng", "convert it with editcap -F pcap")
	default:
		order = binary.BigEndian
		if magic := order.Uint32(data); magic != pcapMicro && magic != pcapNano {
			return nil, fault("not a pcap file", "write it with tcpdump -s 0 -w FILE.pcap")
		}
	}
	if link := order.Uint32(data[20:]) & 0xffff; link != linkEthernet {
		return nil, fault(fmt.Sprintf("link type %d is not Ethernet", link), "capture on an Ethernet interface")
	}
	var frames [][]byte
	for at := pcapHeader; at < len(data); {
		if len(data)-at < pcapRecord {
			return nil, fault(fmt.Sprintf("the file ends within the header of packet %d", len(frames)+1), "capture it again")
		}
		captured, original := order.Uint32(data[at+8:]), order.Uint32(data[at+12:])
		at += pcapRecord
		if uint64(captured) > uint64(len(data)-at) {
			return nil, fault(fmt.Sprintf("the file ends within packet %d", len(frames)+1), "capture it again")
		}
		if captured < original {
			return nil, fault(fmt.Sprintf("packet %d was cut to %d of %d bytes", len(frames)+1, captured, original), "capture with tcpdump -s 0")
		}
		frames = append(frames, data[at:at+int(captured):at+int(captured)])
		at += int(captured)
	}
	return frames, nil
}
