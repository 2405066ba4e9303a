package observe

import "encoding/binary"

// MaxFrame is the longest frame an observer looks at, in bytes. Longer ones, which
// the lab's MTU does not let through, would count as foreign.
const MaxFrame = 2048

// Hash is the 64-bit hash that observers add up: over the length and every byte.
// It reads words in the machine's byte order, so it is for comparing on one
// machine, not for keeping. It is not secret: who wants a collision gets one.
func Hash(frame []byte) uint64 {
	h := mix(0, uint64(len(frame)))
	for ; len(frame) >= 8; frame = frame[8:] {
		h = mix(h, binary.NativeEndian.Uint64(frame))
	}
	if len(frame) > 0 {
		var last [8]byte
		copy(last[:], frame)
		h = mix(h, binary.NativeEndian.Uint64(last[:]))
	}
	return h
}

// mix takes one word in. The multiplier is odd, so that both steps can be undone:
// two frames of one length that differ in one word never collide.
func mix(h, word uint64) uint64 {
	h = (h ^ word) * 0x9e3779b97f4a7c15
	return h ^ h>>32
}
