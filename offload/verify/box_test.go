package verify

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// small returns a random box over the lowest 4 bits of both ports and 2 bits of an
// address; port ranges and masks come together.
func small(rng *rand.Rand) (box, bool) {
	var m flow.Match
	m.Pin(flow.SrcLo, rng.Uint64(), rng.Uint64()&3)
	for _, f := range portFields {
		m.Pin(f, rng.Uint64(), rng.Uint64()&rng.Uint64()&15)
		if rng.IntN(2) == 0 {
			r := flow.PortRange{Lo: uint16(rng.IntN(16)), Hi: uint16(rng.IntN(18))}
			*(*box)(&m).ports(f) = r
		}
	}
	return newBox(&m)
}

// smallKeys are the keys that small boxes tell apart: no range ends above port 17,
// and from 18 to 33 there is one port for each value of the bits a mask looks at.
func smallKeys() (keys []flow.Key) {
	for a := range uint64(4) {
		for s := range uint64(34) {
			for d := range uint64(34) {
				var k flow.Key
				k.Set(flow.SrcLo, a)
				k.Set(flow.SrcPort, s)
				k.Set(flow.DstPort, d)
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// TestBoxAlgebra tries every key on meets, and, covers, minus, cost and packet's
// ground, flow.Witness, for random boxes.
func TestBoxAlgebra(t *testing.T) {
	keys := smallKeys()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 5_000 {
		a, someA := small(rng)
		b, someB := small(rng)
		if !someA || !someB {
			continue
		}
		both, meets := a.and(&b)
		if meets != a.meets(&b) || meets != b.meets(&a) {
			t.Fatalf("%d: %+v meets %+v: %v, %v, %v", n, a, b, meets, a.meets(&b), b.meets(&a))
		}
		covers, left := a.covers(&b), 0
		var rest []box
		if meets {
			for p := range b.minus(&a) {
				rest = append(rest, *p)
			}
			if len(rest) > a.cost(&b) {
				t.Fatalf("%d: %d pieces, said at most %d", n, len(rest), a.cost(&b))
			}
			if k, ok := flow.Witness(both.match()); !ok || !a.holds(&k) || !b.holds(&k) {
				t.Fatalf("%d: witness %x %v of %+v", n, k, ok, both)
			}
		}
		for _, p := range rest {
			if _, ok := flow.Witness(p.match()); !ok {
				t.Fatalf("%d: %+v is empty", n, p)
			}
		}
		for i := range keys {
			k := &keys[i]
			inA, inB := a.holds(k), b.holds(k)
			if meets && both.holds(k) != (inA && inB) {
				t.Fatalf("%d: %+v and %+v is not %+v", n, a, b, both)
			}
			if !meets && inA && inB {
				t.Fatalf("%d: %+v meets %+v", n, a, b)
			}
			in := 0
			for j := range rest {
				if rest[j].holds(k) {
					in++
				}
			}
			if want := inB && !inA; meets && (in > 1 || (in == 1) != want) {
				t.Fatalf("%d: %+v minus %+v holds %x %d times", n, b, a, k, in)
			}
			if inB && !inA {
				left++
			}
		}
		if covers != (left == 0) {
			t.Fatalf("%d: %+v covers %+v: %v, but %d keys are left", n, a, b, covers, left)
		}
	}
}

// TestLeast compares least with counting, for every bound, value and mask of 6 bits.
func TestLeast(t *testing.T) {
	for mask := range uint16(64) {
		for value := range uint16(64) {
			if value&^mask != 0 {
				continue
			}
			for lo := uint16(0xffff - 100); lo != 100; lo++ {
				want, ok := lo, false
				for v := uint32(lo); v <= 0xffff; v++ {
					if uint16(v)&mask == value {
						want, ok = uint16(v), true
						break
					}
				}
				if got, found := least(lo, value, mask); found != ok || ok && got != want {
					t.Fatalf("least(%d, %d, %d) = %d %v, want %d %v", lo, value, mask, got, found, want, ok)
				}
			}
		}
	}
}

// TestPorts tries all 65,536 ports on random pairs of ranges and masks of full width.
func TestPorts(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	some := func() box {
		for {
			var m flow.Match
			if rng.IntN(3) > 0 {
				m.SrcPort = flow.PortRange{Lo: uint16(rng.Uint32()), Hi: uint16(rng.Uint32())}
			}
			if rng.IntN(3) > 0 {
				m.Pin(flow.SrcPort, rng.Uint64(), rng.Uint64()&rng.Uint64()&rng.Uint64())
			}
			if b, ok := newBox(&m); ok {
				return b
			}
		}
	}
	for range 200 {
		a, b := some(), some()
		both, meets := a.and(&b)
		var rest []box
		if a.meets(&b) {
			for p := range a.minus(&b) {
				rest = append(rest, *p)
			}
		}
		shared, outside := 0, 0
		for p := range uint64(1 << 16) {
			var k flow.Key
			k.Set(flow.SrcPort, p)
			inA, inB := a.holds(&k), b.holds(&k)
			in := 0
			for j := range rest {
				if rest[j].holds(&k) {
					in++
				}
			}
			switch {
			case inA && inB:
				shared++
				if !meets || !both.holds(&k) {
					t.Fatalf("port %d of %+v and %+v is lost", p, a, b)
				}
			case inA:
				outside++
				if meets && in != 1 {
					t.Fatalf("port %d of %+v minus %+v is there %d times", p, a, b, in)
				}
			case in > 0:
				t.Fatalf("port %d is not in %+v", p, a)
			}
		}
		if meets != (shared > 0) || meets != a.meets(&b) || b.covers(&a) != (outside == 0) {
			t.Fatalf("%+v and %+v share %d, meets %v, covers %v", a, b, shared, meets, b.covers(&a))
		}
	}
}

// TestTight checks that what is left of a box has all of its packets.
func TestTight(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	smaller := 0
	for range 20_000 {
		frame := flowtest.Frame(rng)
		k, err := flow.Parse(frame, flow.Port(rng.IntN(3)))
		if err != nil {
			continue
		}
		m := flow.Match{}
		for f := range flow.NumFields {
			if rng.IntN(4) == 0 {
				m.Pin(f, k.Get(f), rng.Uint64()&rng.Uint64()&f.Max())
			}
		}
		for _, f := range portFields {
			if v := int(k.Get(f)); rng.IntN(3) == 0 { // beside the mask
				*(*box)(&m).ports(f) = flow.PortRange{Lo: uint16(v - rng.IntN(v+1)), Hi: uint16(v + 1 + rng.IntN(65535-v+1)/2)}
			}
		}
		b, some := newBox(&m)
		if !some || !b.holds(&k) {
			continue
		}
		c := tight(&b)
		if !c.holds(&k) {
			t.Fatalf("%+v of %+v loses %x", *c, b, k)
		}
		if *c != b {
			smaller++
		}
	}
	if smaller < 1000 {
		t.Errorf("only %d boxes became smaller", smaller)
	}
}
