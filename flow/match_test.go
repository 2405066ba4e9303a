package flow

import (
	"math/rand/v2"
	"testing"
)

// nibble is a constraint on a port that looks at the lowest four bits, beside upper
// bits that are all free or all pinned.
type nibble struct {
	m     Match
	holds uint16 // bit i is set iff base+i is in m
}

const nibbleBase = 0x5a30

// nibbles returns every range and every mask of four bits: with pinned, inside
// nibbleBase … nibbleBase+15; without, masks with free upper bits as well.
func nibbles(f Field, pinned bool) []nibble {
	var out []nibble
	for lo := range uint16(16) {
		for hi := lo; hi < 16; hi++ {
			var n nibble
			n.m.SetPorts(f, nibbleBase+lo, nibbleBase+hi)
			for i := lo; i <= hi; i++ {
				n.holds |= 1 << i
			}
			out = append(out, n)
		}
	}
	for mask := range uint16(16) {
		for value := range uint16(16) {
			if value&^mask != 0 {
				continue
			}
			var n nibble
			if pinned {
				n.m.SetPortMask(f, nibbleBase|value, 0xfff0|mask)
			} else {
				n.m.SetPortMask(f, value, mask)
			}
			for i := range uint16(16) {
				if i&mask == value {
					n.holds |= 1 << i
				}
			}
			out = append(out, n)
		}
	}
	return out
}

// TestPortAlgebra tries every pair of constraints on four bits of a port and every
// port: range and range, range and mask, mask and mask.
func TestPortAlgebra(t *testing.T) {
	for _, f := range []Field{SrcPort, DstPort} {
		all := append(nibbles(f, true), nibbles(f, false)[136:]...)
		for i := range all {
			a := &all[i]
			if err := a.m.Valid(); err != nil {
				t.Fatal(err)
			}
			var k Key
			for p := range uint16(16) {
				k.Set(f, uint64(nibbleBase+p))
				if a.m.Matches(&k) != (a.holds>>p&1 == 1) {
					t.Fatalf("%s: Matches is wrong for %d", FormatMatch(&a.m, nil), p)
				}
			}
			for j := range all {
				checkPair(t, f, a, &all[j])
			}
		}
	}
}

func checkPair(t *testing.T, f Field, a, b *nibble) {
	both := a.holds & b.holds
	// Two masks with free upper bits may also meet and cover outside the sixteen
	// ports; that they look at the low bits only makes it the same question.
	if a.m.Overlaps(&b.m) != (both != 0) {
		t.Fatalf("%s and %s: Overlaps is wrong", FormatMatch(&a.m, nil), FormatMatch(&b.m, nil))
	}
	aFree, bFree := free(f, a), free(f, b)
	if want := b.holds&^a.holds == 0 && (aFree || !bFree); a.m.Covers(&b.m) != want {
		t.Fatalf("%s and %s: Covers is %v", FormatMatch(&a.m, nil), FormatMatch(&b.m, nil), !want)
	}
	k, ok := Witness(&a.m, &b.m)
	if ok != (both != 0) {
		t.Fatalf("%s and %s: Witness is wrong", FormatMatch(&a.m, nil), FormatMatch(&b.m, nil))
	}
	if ok && (!a.m.Matches(&k) || !b.m.Matches(&k)) {
		t.Fatalf("%s and %s: witness %d is not in both", FormatMatch(&a.m, nil), FormatMatch(&b.m, nil), k.Get(f))
	}
	if ok && !aFree && !bFree { // the lowest
		if p := k.Get(f) - nibbleBase; both&(1<<p-1) != 0 {
			t.Fatalf("%s and %s: witness %d is not the lowest", FormatMatch(&a.m, nil), FormatMatch(&b.m, nil), k.Get(f))
		}
	}
}

// free reports whether n constrains no upper bit.
func free(f Field, n *nibble) bool {
	lo, hi := portBounds(f, &n.m)
	return lo < nibbleBase || hi > nibbleBase+15
}

// TestPortsWhole compares random constraints of 16 bits over all ports, three at a time.
func TestPortsWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(17, 18))
	random := func() Match {
		var m Match
		a, b := uint16(rng.Uint32()), uint16(rng.Uint32())
		switch rng.IntN(3) {
		case 0:
			m.SetPorts(DstPort, min(a, b), max(a, b))
		case 1:
			m.SetPortMask(DstPort, a, b&uint16(rng.Uint32())) // few bits: overlaps are common
		default:
			a &= 0xfff0
			m.SetPorts(DstPort, a, a|b&15)
		}
		return m
	}
	for range 400 {
		ms := [3]Match{random(), random(), random()}
		var common [3]int // ports in all three, in the first two, in the first but not the second
		lowest := -1
		var k Key
		for p := range 1 << 16 {
			k.Set(DstPort, uint64(p))
			in0, in1, in2 := ms[0].Matches(&k), ms[1].Matches(&k), ms[2].Matches(&k)
			if in0 && in1 && in2 {
				if common[0]++; lowest < 0 {
					lowest = p
				}
			}
			if in0 && in1 {
				common[1]++
			}
			if in1 && !in0 {
				common[2]++
			}
		}
		w, ok := Witness(&ms[0], &ms[1], &ms[2])
		if ok != (lowest >= 0) || ok && w.Get(DstPort) != uint64(lowest) {
			t.Fatalf("witness of %v is %d %v, want %d", ms, w.Get(DstPort), ok, lowest)
		}
		if ms[0].Overlaps(&ms[1]) != (common[1] > 0) || ms[0].Covers(&ms[1]) != (common[2] == 0) {
			t.Fatalf("Overlaps or Covers is wrong for %v", ms[:2])
		}
	}
}

// TestMatchAlgebra checks the three relations on whole keys, where sampling can
// only refute them: a key in both refutes disjoint, a key in one only refutes covers.
func TestMatchAlgebra(t *testing.T) {
	rng := rand.New(rand.NewPCG(19, 20))
	met, covered := 0, 0
	for range 20_000 {
		a := anyMatch(rng)
		b := a
		for range rng.IntN(3) { // b is a with some bits more or less
			f := Field(rng.IntN(int(NumFields)))
			if f == SrcPort || f == DstPort {
				b.SetPortMask(f, uint16(rng.Uint32()), uint16(rng.Uint32()))
				continue
			}
			bit := uint64(1) << rng.IntN(int(layout[f].bits))
			b.Mask.Set(f, b.Mask.Get(f)^bit)
			b.Value.Set(f, (b.Value.Get(f)^rng.Uint64()&bit)&b.Mask.Get(f))
		}
		k, ok := Witness(&a, &b)
		if ok != a.Overlaps(&b) || ok != b.Overlaps(&a) {
			t.Fatalf("Overlaps and Witness differ for %x and %x", a, b)
		}
		if ok {
			met++
			if !a.Matches(&k) || !b.Matches(&k) {
				t.Fatalf("witness %x is not in %x and %x", k, a, b)
			}
		}
		covers := a.Covers(&b)
		if covers {
			covered++
		}
		for range 20 { // keys of b, near each other
			k, _ := Witness(&b)
			for w := range k {
				k[w] ^= rng.Uint64() & rng.Uint64() &^ b.Mask[w]
			}
			if covers && b.Matches(&k) && !a.Matches(&k) {
				t.Fatalf("%x covers %x but not its key %x", a, b, k)
			}
		}
		if covers && !ok {
			t.Fatalf("%x covers %x and does not overlap it", a, b)
		}
	}
	if met < 2000 || covered < 2000 {
		t.Errorf("%d pairs overlap, %d cover; the test shows little", met, covered)
	}
}

// smallUniverse is packets that all values in randomMatch's texts tell apart.
func smallUniverse() []Key {
	rng := rand.New(rand.NewPCG(21, 22))
	pick := func(vs ...uint64) uint64 { return vs[rng.IntN(len(vs))] }
	var out []Key
	for len(out) < 30_000 {
		k := possible[rng.IntN(len(possible))].m.Value
		k.Set(InPort, pick(1, 2))
		for _, f := range []Field{VLAN, CVLAN} {
			if k.Get(f) != 0 {
				k.Set(f, TagPresent|pick(5, 7, 3<<13|5, 3<<13|7))
			}
		}
		flags := k.Get(Flags)
		if flags&FlagIP == 0 && flags&FlagOdd == 0 {
			k.Set(EthType, pick(EthARP, 0))
		}
		if flags&FlagIP != 0 {
			if k.Get(Proto) == 0 {
				k.Set(Proto, pick(0, ProtoICMP, ProtoICMPv6, ProtoTCP, ProtoUDP, 47))
			}
			k.Set(TTL, pick(0, 1))
			if k.Get(EthType) == EthIPv4 {
				k.Set(SrcLo, pick(1, 10<<24, 10<<24|1<<16))
				k.Set(DstLo, pick(1, 10<<24|1<<16|2<<8|3))
			} else {
				k.Set(DstHi, pick(0, 0xfe80<<48))
			}
			k.Set(Flags, flags|pick(0, FlagOdd, FlagFragFirst, FlagFragFirst|FlagOdd))
		}
		if flags&FlagL4 != 0 {
			k.Set(SrcPort, pick(5, 0x100, 0x101, 7, 0))
			k.Set(DstPort, pick(80, 81, 85, 1024, 7, 0))
			if k.Get(Proto) == ProtoTCP {
				k.Set(TCPFlags, pick(0, 2, 0x12))
			}
		} else if flags&FlagFragLater == 0 {
			k.Set(SrcPort, pick(0, 0, 128, 5))
		}
		if Possible(&k) {
			out = append(out, k)
		}
	}
	return out
}

// TestShared compares Shared with a search in a universe of packets.
func TestShared(t *testing.T) {
	universe := smallUniverse()
	rng := rand.New(rand.NewPCG(23, 24))
	found, impossible := 0, 0
	for range 2_000 {
		a, b := randomMatch(rng), randomMatch(rng)
		k, ok := Shared(&a, &b)
		if ok && (!a.Matches(&k) || !b.Matches(&k) || !Possible(&k)) {
			t.Fatalf("%s and %s: %s is no packet of both", FormatMatch(&a, nil), FormatMatch(&b, nil), FormatKey(k, nil))
		}
		if ok {
			found++
			continue
		}
		if a.Overlaps(&b) {
			impossible++
		}
		for i := range universe {
			if a.Matches(&universe[i]) && b.Matches(&universe[i]) {
				t.Fatalf("%s and %s share %s", FormatMatch(&a, nil), FormatMatch(&b, nil), FormatKey(universe[i], nil))
			}
		}
	}
	if found < 200 || impossible < 50 {
		t.Errorf("%d pairs share a packet, %d only an impossible key; the test shows little", found, impossible)
	}
}

// TestKinds compares what kinds say of a pair of matches with Shared.
func TestKinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(29, 30))
	plain := 0
	for range 100_000 {
		a, b := randomMatch(rng), randomMatch(rng)
		if rng.IntN(3) == 0 {
			a, b = anyMatch(rng), anyMatch(rng)
		}
		inA, plainA := a.Kinds()
		inB, plainB := b.Kinds()
		if !plainA || !plainB {
			continue
		}
		_, want := Shared(&a, &b)
		if got := a.Overlaps(&b) && inA&inB != 0; got != want {
			t.Fatalf("%s and %s share a packet: %v, kinds %x and %x say %v", FormatMatch(&a, nil), FormatMatch(&b, nil), want, inA, inB, got)
		}
		if want {
			plain++
		}
	}
	if plain < 2_000 {
		t.Errorf("%d pairs share a packet; the test shows little", plain)
	}
}

// TestHull checks that a hull loses no packet.
func TestHull(t *testing.T) {
	universe := smallUniverse()
	rng := rand.New(rand.NewPCG(25, 26))
	for range 500 {
		m := randomMatch(rng)
		h, ok := Hull(&m)
		for i := range universe {
			if k := &universe[i]; m.Matches(k) && (!ok || !h.Matches(k)) {
				t.Fatalf("the hull %s of %s loses %s", FormatMatch(&h, nil), FormatMatch(&m, nil), FormatKey(*k, nil))
			}
		}
	}
}

func TestMatchValid(t *testing.T) {
	bad := func(m Match) {
		t.Helper()
		if err := m.Valid(); err == nil {
			t.Errorf("%x is valid", m)
		}
	}
	bad(Match{Value: Key{0: 1}})
	bad(Match{SrcPort: PortRange{80, 80}})
	bad(Match{DstPort: PortRange{90, 80}})
	bad(Match{DstPort: PortRange{0, 0xffff}})
	m := Match{DstPort: PortRange{80, 90}}
	m.Mask.Set(DstPort, 1)
	bad(m)
	var contiguous Match
	contiguous.Pin(SrcPort, 0x100, 0xff00)
	bad(contiguous)
	rng := rand.New(rand.NewPCG(27, 28))
	for range 1000 {
		if m := anyMatch(rng); m.Valid() != nil {
			t.Errorf("%x is not valid: %v", m, m.Valid())
		}
	}
}
