package device

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestNarrow narrows random matches around random keys for random devices: the
// result lies in the match, holds the key, is taken, and is the match itself if that
// is taken. It fails only where the match looks at what the device cannot match.
func TestNarrow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	narrowed, refused := 0, 0
	us := flowtest.Universes()
	for range 20_000 {
		u := us[rng.IntN(len(us))]
		m := randomModel(rng)
		if rng.IntN(4) == 0 && m.Fields[EthType] != No && m.Fields[Proto] != No {
			m.Needs, m.Protocols = []Part{EthType, Proto}, []uint8{flow.ProtoTCP, flow.ProtoUDP}
		}
		match, k := u.Match(rng), u.Key(rng)
		if !match.Matches(&k) {
			continue
		}
		n, ok := m.Narrow(&match, &k)
		taken := m.admitMatch(&match) == nil
		if !ok {
			refused++
			if taken {
				t.Fatalf("%s takes %+v, and it cannot be narrowed", m.Name, match)
			}
			continue
		}
		if err := n.Valid(); err != nil {
			t.Fatal(err)
		}
		if !n.Matches(&k) || !match.Covers(&n) || m.admitMatch(&n) != nil || taken && n != match {
			t.Fatalf("%+v narrowed for %+v around %v:\n%+v\n%v", match, m.Fields, k, n, m.admitMatch(&n))
		}
		if n != match {
			narrowed++
		}
	}
	if narrowed < 500 || refused < 500 {
		t.Errorf("%d narrowed, %d refused; the test shows little", narrowed, refused)
	}
}

// TestAlong pins one bit of a key with what the device needs along with it, and
// expects that the device takes that.
func TestAlong(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		m, k := randomModel(rng), flowtest.TCP()
		v4 := rng.IntN(2) == 0 && m.Fields[EthType] != No
		var match flow.Match
		if v4 {
			match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		}
		w, bit := rng.IntN(8), uint64(1)<<rng.IntN(64)
		mask := m.Along(w, bit, v4)
		if mask == 0 || w == 2 && bit < 1<<32 {
			continue // not matched, or a port, which is a range
		}
		if mask&bit == 0 {
			t.Fatalf("bit %x of word %d: %x", bit, w, mask)
		}
		match.Mask[w] |= mask
		match.Value[w] = k[w] & match.Mask[w]
		n, ok := m.Narrow(&match, &k)
		if p := partAt[w][0]; !ok && (p == NumParts || !parts[p].wide) {
			t.Fatalf("bit %x of word %d along with %x is not taken: %v", bit, w, mask, m.admitMatch(&n))
		}
	}
}
