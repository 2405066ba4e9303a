package flow

import (
	"math/rand/v2"
	"testing"
)

// TestFrameParse turns random possible keys into frames and back.
func TestFrameParse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		s := possible[rng.IntN(len(possible))]
		var k Key
		for w := range k {
			k[w] = rng.Uint64()&^s.m.Mask[w] | s.m.Value[w]
		}
		if !Possible(&k) {
			continue
		}
		f, err := Frame(k, make([]byte, rng.IntN(9)))
		if err != nil {
			t.Fatal(i, err)
		}
		got, err := Parse(f, Port(k.Get(InPort)))
		if err != nil || got != k {
			t.Fatalf("%d: shape %v\nframe %x\nwant %x\n got %x %v", i, s, f, k, got, err)
		}
	}
}

// TestParsePossible checks that whatever the parser returns is a possible key.
func TestParsePossible(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	types := []uint16{EthIPv4, EthIPv6, EthVLAN, EthQinQ, EthARP, 0}
	protos := []byte{0, 1, 6, 17, 58, 132, 43, 44, 51, 60, 135, 253, 59, 99}
	for i := range 2_000_000 {
		f := make([]byte, rng.IntN(120))
		for j := range f {
			f[j] = byte(rng.Uint32())
			if rng.IntN(4) == 0 {
				f[j] = protos[rng.IntN(len(protos))]
			}
		}
		off := 12
		for off+2 < len(f) {
			e := types[rng.IntN(len(types))]
			f[off], f[off+1] = byte(e>>8), byte(e)
			off += 4
			if e == EthIPv4 && off < len(f) {
				f[off-2] = 0x45 + byte(rng.IntN(8)/7)
				f[off], f[off+1-1] = 0, byte(rng.IntN(120))
			}
			if e == EthIPv6 && off+4 < len(f) {
				f[off-2] = 0x60
				f[off+2], f[off+3] = 0, byte(rng.IntN(120))
				f[off+4] = protos[rng.IntN(len(protos))]
			}
			if e != EthVLAN && e != EthQinQ {
				break
			}
		}
		k, err := Parse(f, 7)
		if err == nil && !Possible(&k) {
			t.Fatalf("%d: frame %x has impossible key %x", i, f, k)
		}
	}
}
