//go:build amd64 && !purego

package kernel

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

var assembly = []struct {
	name string
	has  func() bool
	lane
}{
	{"avx512", HasAVX512, lane{func(keys []flow.Key, words []uint8, columns []Column, best *Best, none int32) {
		Spread512(keys, offsets(words), columns, best, none)
	}, Probe512, Scan512}},
	{"avx2", HasAVX2, lane{func(keys []flow.Key, words []uint8, columns []Column, best *Best, none int32) {
		Spread256(keys, offsets(words), columns, best, none)
	}, Probe256, Scan256}},
}

func offsets(words []uint8) (out []uint32) {
	for _, w := range words {
		out = append(out, 4*uint32(w))
	}
	return out
}

// eachLane runs f for the lanes in assembly that this machine has.
func eachLane(t *testing.T, f func(t *testing.T, l lane)) {
	for _, a := range assembly {
		t.Run(a.name, func(t *testing.T) {
			var err error
			if !a.has() {
				err = errors.New("the processor has no " + a.name)
			}
			must.Have(t, a.name, err)
			f(t, a.lane)
		})
	}
}

// TestSame compares the assembly with its definition on random tables of every
// shape.
func TestSame(t *testing.T) {
	eachLane(t, func(t *testing.T, l lane) {
		rng := rand.New(rand.NewPCG(1, 2))
		for range 400 {
			for ternary := 1; ternary <= 6; ternary++ {
				keys := make([]flow.Key, 1+rng.IntN(Lanes))
				randomKeys(rng, keys)
				check(t, l, newTable(rng, ternary, rng.IntN(2)), keys, int32(rng.IntN(200)))
			}
		}
	})
}

// TestGuardPages puts keys and arena right before a page that must not be touched:
// reading one byte beyond them ends the test program.
func TestGuardPages(t *testing.T) {
	eachLane(t, func(t *testing.T, l lane) {
		rng := rand.New(rand.NewPCG(3, 4))
		for n := 1; n <= Lanes; n++ {
			keys := guarded[flow.Key](t, n)
			randomKeys(rng, keys)
			tab := newTable(rng, 1+n%6, n/6%2)
			arena := guarded[uint32](t, len(tab.Arena[0]))
			copy(arena, tab.Arena[0])
			setArena(tab, arena)
			heads := guarded[uint32](t, len(tab.Heads))
			copy(heads, tab.Heads)
			tab.Heads = heads
			check(t, l, tab, keys, 200)
		}
	})
}

// guarded returns n values that end where a page without permissions starts.
func guarded[T any](t *testing.T, n int) []T {
	t.Helper()
	page := unix.Getpagesize()
	size := n * int(unsafe.Sizeof(*new(T)))
	whole := (size + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, whole+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mprotect(mem[whole:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[whole-size])), n)
}

// TestLayout checks the offsets that the generator knows.
func TestLayout(t *testing.T) {
	var tab Table
	var v Vectors
	var c Classes
	var f Finals
	var b Blocks
	for name, at := range map[string][2]uintptr{
		"Heads": {unsafe.Offsetof(tab.Heads), 0}, "Arena": {unsafe.Offsetof(tab.Arena), 24}, "Best": {unsafe.Offsetof(tab.Best), 48},
		"Shift": {unsafe.Offsetof(tab.Shift), 52}, "Hashed": {unsafe.Offsetof(tab.Hashed), 56}, "Guards": {unsafe.Offsetof(tab.Guards), 60},
		"Ternary": {unsafe.Offsetof(tab.Ternary), 64}, "Ranges": {unsafe.Offsetof(tab.Ranges), 68},
		"HashColumn": {unsafe.Offsetof(tab.HashColumn), 72}, "HashMask": {unsafe.Offsetof(tab.HashMask), 136},
		"GuardColumn": {unsafe.Offsetof(tab.GuardColumn), 200}, "GuardMask": {unsafe.Offsetof(tab.GuardMask), 264},
		"GuardValue": {unsafe.Offsetof(tab.GuardValue), 328}, "ColumnOffset": {unsafe.Offsetof(tab.ColumnOffset), 392},
		"Vectors.Rows": {unsafe.Offsetof(v.Rows), 0}, "Vectors.Groups": {unsafe.Offsetof(v.Groups), 24}, "Lines": {unsafe.Offsetof(v.Lines), 28},
		"Blocks.Rows": {unsafe.Offsetof(b.Rows), 0}, "Blocks.Lines": {unsafe.Offsetof(b.Lines), 24}, "Places": {unsafe.Offsetof(b.Places), 48},
		"Blocks.Groups": {unsafe.Offsetof(b.Groups), 72}, "Blocks.None": {unsafe.Offsetof(b.None), 76}, "First": {unsafe.Offsetof(b.First), 80},
		"Candidates.Block": {unsafe.Offsetof(Candidates{}.Block), 1088},
		"Links":            {unsafe.Offsetof(f.Links), 24}, "Link": {unsafe.Offsetof(f.Link), 28}, "Link.Factor": {unsafe.Offsetof(Link{}.Factor), 4},
		"Tables": {unsafe.Offsetof(c.Tables), 0}, "Quads": {unsafe.Offsetof(c.Quads), 24}, "Groups": {unsafe.Offsetof(c.Groups), 28},
		"Row": {unsafe.Offsetof(c.Row), 32}, "None": {unsafe.Offsetof(c.None), 36}, "Word": {unsafe.Offsetof(c.Word), 40},
		"Pick": {unsafe.Offsetof(c.Pick), 104}, "Classes.GuardMask": {unsafe.Offsetof(c.GuardMask), 360},
		"Classes.GuardValue": {unsafe.Offsetof(c.GuardValue), 424}, "Group": {unsafe.Offsetof(c.Group), 488},
		"Part": {unsafe.Offsetof(c.Part), 488 + MaxGroups*12}, "sizes": {unsafe.Sizeof(Group{}) + unsafe.Sizeof(Part{}), 12 + 48},
		"Part.Rotate": {unsafe.Offsetof(Part{}.Rotate), 16}, "Part.Mask": {unsafe.Offsetof(Part{}.Mask), 32},
		"Found.Head": {unsafe.Offsetof(Found{}.Head), 1088},
		"Best.Rule":  {unsafe.Offsetof(Best{}.Rule), 1024},
	} {
		if at[0] != at[1] {
			t.Errorf("%s is at %d, the generator has it at %d", name, at[0], at[1])
		}
	}
}

// TestSameVectors compares the assembly for classes and what follows with its definition,
// keys, tables and rows ending before a page that must not be touched.
func TestSameVectors(t *testing.T) {
	for _, a := range []struct {
		name    string
		has     func() bool
		classes func(*Classes, []flow.Key, *Chosen)
		and     func(*Vectors, *Chosen, int, *[Lanes]int32)
		final   func(*Finals, *Chosen, int, *[Lanes]int32)
		blocks  blocksLane
	}{
		{"avx512", HasAVX512, Classes512, And512, Final512, blocksLane{Masks512, Pass512, Try512}},
		{"avx2", HasAVX2, Classes256, And256, Final256, blocksLane{Masks256, Pass256, Try256}},
	} {
		t.Run(a.name, func(t *testing.T) {
			var err error
			if !a.has() {
				err = errors.New("the processor has no " + a.name)
			}
			must.Have(t, a.name, err)
			rng := rand.New(rand.NewPCG(5, 6))
			for n := 1; n <= Lanes; n++ {
				keys := guarded[flow.Key](t, n)
				randomKeys(rng, keys)
				c := newClasses(rng, 300)
				tables := guarded[uint16](t, len(c.Tables))
				copy(tables, c.Tables)
				c.Tables = tables
				checkClasses(t, c, keys, a.classes)

				v, chosen := newVectors(rng)
				rows := guarded[uint64](t, len(v.Rows))
				copy(rows, v.Rows)
				v.Rows = rows
				var got, want [Lanes]int32
				a.and(v, chosen, n, &got)
				AndGo(v, chosen, n, &want)
				if !slices.Equal(got[:n], want[:n]) {
					t.Fatalf("%d groups of %d lines give %v, the definition %v", v.Groups, v.Lines, got[:n], want[:n])
				}

				f, chosen := newFinals(rng)
				numbers := guarded[uint16](t, len(f.Tables))
				copy(numbers, f.Tables)
				f.Tables = numbers
				a.final(f, chosen, n, &got)
				FinalGo(f, chosen, n, &want)
				if !slices.Equal(got[:n], want[:n]) {
					t.Fatalf("%d links give %v, the definition %v", f.Links, got[:n], want[:n])
				}

				b, chosen := newBlocks(rng)
				blockRows, lines, places := guarded[uint16](t, len(b.Rows)), guarded[uint64](t, len(b.Lines)), guarded[int32](t, len(b.Places))
				copy(blockRows, b.Rows)
				copy(lines, b.Lines)
				copy(places, b.Places)
				b.Rows, b.Lines, b.Places = blockRows, lines, places
				checkBlocks(t, a.blocks, b, chosen, n)
			}
		})
	}
}
