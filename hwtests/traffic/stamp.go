package traffic

import "encoding/binary"

// Trailer is how many bytes at the end of a frame a stamp takes: [Magic], then the
// sequence number as 8 bytes, big endian.
const Trailer = 16

// Magic marks a frame as ours.
const Magic = "bladeflw"

// Stamp writes a sequence number over the last 16 bytes of a frame, which are
// payload. Checksums that cover the payload do not follow. It panics if the frame
// is shorter than a Trailer.
func Stamp(frame []byte, sequence uint64) {
	end := frame[len(frame)-Trailer:]
	copy(end, Magic)
	binary.BigEndian.PutUint64(end[8:], sequence)
}

// Sequence returns the number that a frame is stamped with; ok is false if it is
// not one of ours.
func Sequence(frame []byte) (sequence uint64, ok bool) {
	if len(frame) < Trailer {
		return 0, false
	}
	end := frame[len(frame)-Trailer:]
	return binary.BigEndian.Uint64(end[8:]), string(end[:8]) == Magic
}
