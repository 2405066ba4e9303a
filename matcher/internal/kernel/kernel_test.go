package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// newTable returns a table of random rules that hashes words 8 and 12 and guards
// word 2, with the given numbers of columns and ranges.
func newTable(rng *rand.Rand, ternary, ranges int) *Table {
	t := &Table{Shift: 32 - 4, Heads: make([]uint32, 16), Ternary: uint32(ternary), Ranges: uint32(ranges),
		Best: int32(rng.IntN(20)), Hashed: 2, Guards: uint32(rng.IntN(2))}
	t.HashColumn, t.HashWord, t.HashMask = [Words]uint32{4 * Lanes, 8 * Lanes}, [Words]uint8{8, 12}, [Words]uint32{1, 3}
	t.GuardWord, t.GuardMask, t.GuardValue = [Words]uint8{2}, [Words]uint32{1}, [Words]uint32{1}
	for c := range ternary {
		w := rng.IntN(Words)
		t.ColumnWord[c], t.ColumnOffset[c] = uint8(w), uint32(4*w)
	}
	arena := make([]uint32, []int{Unit, ArenaUnits*Unit - 100*Unit}[rng.IntN(2)]) // some buckets in another part
	next := uint32(t.Best)
	for h := range t.Heads {
		if rng.IntN(4) == 0 {
			continue
		}
		for len(arena)%Unit != 0 {
			arena = append(arena, 0)
		}
		tags := []uint32{uint32(rng.IntN(2)), uint32(rng.IntN(2))}
		t.Heads[h] = Head(uint32(len(arena)/Unit), tags...)
		n := []int{1 + rng.IntN(20), 16, 17, 40}[rng.IntN(4)]
		arena = append(arena, uint32(n))
		for n > 0 {
			m := min(n, Chunk)
			n -= m
			for range m {
				next += uint32(rng.IntN(2)) + 1
				arena = append(arena, next)
			}
			for range m {
				arena = append(arena, rng.Uint32N(1000))
			}
			for range ternary {
				mask := make([]uint32, m)
				for i := range mask {
					mask[i] = rng.Uint32() & rng.Uint32() & rng.Uint32() & 7
					arena = append(arena, rng.Uint32()&mask[i])
				}
				arena = append(arena, mask...)
			}
			if ranges != 0 {
				for range 2 * m {
					arena = append(arena, rng.Uint32()|0xf000f000)
				}
			}
		}
	}
	setArena(t, append(arena, make([]uint32, Pad)...))
	return t
}

// setArena makes arena that of t.
func setArena(t *Table, arena []uint32) {
	t.Arena = nil
	for at := 0; at < len(arena); at += ArenaUnits * Unit {
		t.Arena = append(t.Arena, arena[at:])
	}
}

func randomKeys(rng *rand.Rand, keys []flow.Key) {
	for i := range keys {
		for w := range keys[i] {
			keys[i][w] = rng.Uint64() & 0xf00f0007_f00f0007
		}
	}
}

// lane is one version of the kernels.
type lane struct {
	spread func([]flow.Key, []uint8, []Column, *Best, int32)
	probe  func(*Table, []Column, *Best, int, *Found) int
	scan   func(*Table, []flow.Key, *Best, *Found, int)
}

// check runs one batch through a lane and through the definition, call by call.
func check(t *testing.T, l lane, tab *Table, keys []flow.Key, none int32) {
	t.Helper()
	words := []uint8{2, 8, 12}
	var want, got struct {
		columns [3]Column
		best    Best
		found   Found
	}
	l.spread(keys, words, got.columns[:], &got.best, none)
	SpreadGo(keys, words, want.columns[:], &want.best, none)
	if n := len(keys); got.columns != want.columns || got.best.Place != want.best.Place || !slices.Equal(got.best.Rule[:n], want.best.Rule[:n]) {
		t.Fatalf("spread of %d keys differs", len(keys))
	}
	n := l.probe(tab, got.columns[:], &got.best, len(keys), &got.found)
	m := ProbeGo(tab, want.columns[:], &want.best, len(keys), &want.found)
	if n != m || n > 0 && (!slices.Equal(got.found.Lane[:n], want.found.Lane[:n]) || !slices.Equal(got.found.Head[:n], want.found.Head[:n])) {
		t.Fatalf("probe of %d keys finds %d, the definition %d", len(keys), n, m)
	}
	l.scan(tab, keys, &got.best, &got.found, max(0, n))
	ScanGo(tab, keys, &want.best, &want.found, max(0, m))
	if n := len(keys); got.best.Place != want.best.Place || !slices.Equal(got.best.Rule[:n], want.best.Rule[:n]) {
		t.Fatalf("scan of %d keys with %d columns and %d ranges: %v, the definition says %v", len(keys), tab.Ternary, tab.Ranges, got.best, want.best)
	}
}

// newClasses returns random classes of a random shape; what they choose is at most
// limit.
func newClasses(rng *rand.Rand, limit int) *Classes {
	const values = 8 // of elements
	c := &Classes{Groups: uint32(1 + rng.IntN(MaxGroups)), Row: rng.Uint32N(100), None: rng.Uint32()}
	words := rng.Perm(Words)[:1+rng.IntN(Words)]
	c.Look(words)
	for range Block / 2 * (values + 4) {
		c.Tables = append(c.Tables, uint16(rng.IntN(values)))
	}
	parts := c.Part[:]
	for g := range c.Group[:c.Groups] {
		group := &c.Group[g]
		group.Parts = uint32(1 + rng.IntN(3))
		group.Base = rng.Uint32()
		factor := uint32(1)
		for i := range parts[:group.Parts] {
			p := &parts[i]
			*p = Part{Column: uint32(columnBytes * rng.IntN(len(words))), Levels: uint32(1 + rng.IntN(MaxLevels)), Base: uint32(2 * len(c.Tables)), Factor: factor}
			factor *= values
			for l := range p.Levels {
				p.Rotate[l], p.Mask[l] = rng.Uint32N(32), (1<<rng.Uint32N(7)-1)<<1
			}
			if p.Levels == 1 {
				p.Mask[0], p.Rotate[1], p.Mask[1] = 0x70, rng.Uint32N(32), 0xe
			}
			for range 64 {
				c.Tables = append(c.Tables, uint16(rng.IntN(values)))
			}
		}
		parts = parts[group.Parts:]
		if group.Parts > 1 {
			group.Cross = uint32(2 * len(c.Tables))
			for range factor {
				c.Tables = append(c.Tables, uint16(rng.IntN(limit)))
			}
		}
	}
	c.Tables = append(c.Tables, 0)
	if rng.IntN(2) == 0 {
		w := rng.IntN(Words)
		c.GuardMask[w], c.GuardValue[w] = 1, rng.Uint32()&1
	}
	return c
}

// checkClasses runs one batch through classes and through the definition.
func checkClasses(t *testing.T, c *Classes, keys []flow.Key, classes func(*Classes, []flow.Key, *Chosen)) {
	t.Helper()
	var want, got Chosen
	for g := range got {
		for i := range got[g] {
			got[g][i] = 0xdeadbeef // what was there does not matter
		}
	}
	classes(c, keys, &got)
	ClassesGo(c, keys, &want)
	for g := range c.Groups {
		if a, b := got[g][:len(keys)], want[g][:len(keys)]; !slices.Equal(a, b) {
			t.Fatalf("group %d of %d chooses %x for %d keys, the definition %x", g, c.Groups, a, len(keys), b)
		}
	}
}

// newVectors returns random vectors of a random shape, and random choices of rows.
func newVectors(rng *rand.Rand) (*Vectors, *Chosen) {
	v := &Vectors{Lines: uint32(1 + rng.IntN(2)), Groups: uint32(1 + rng.IntN(MaxGroups))}
	rows := uint32(1 + rng.IntN(20))
	v.Rows = AlignedWords(int(8 * v.Lines * rows))
	for i := range v.Rows {
		v.Rows[i] = rng.Uint64() & rng.Uint64() & rng.Uint64() & rng.Uint64()
		if uint32(i+1)%(8*v.Lines) == 0 {
			v.Rows[i] |= 1 << 63
		}
	}
	chosen := &Chosen{}
	for g := range chosen {
		for i := range chosen[g] {
			chosen[g][i] = 64 * v.Lines * rng.Uint32N(rows)
		}
	}
	return v, chosen
}

// newFinals returns random answers, and random choices.
func newFinals(rng *rand.Rand) (*Finals, *Chosen) {
	f := &Finals{Links: uint32(1 + rng.IntN(MaxGroups-1))}
	chosen := &Chosen{}
	found := uint32(1 + rng.IntN(300)) // numbers before a link
	for i := range chosen[0] {
		chosen[0][i] = rng.Uint32N(found)
	}
	for l := range f.Links {
		factor, numbers := uint32(1+rng.IntN(300)), uint32(1+rng.IntN(300))
		for i := range chosen[l+1] {
			chosen[l+1][i] = rng.Uint32N(factor)
		}
		f.Link[l] = Link{Start: uint32(len(f.Tables)), Factor: factor}
		for range found * factor {
			f.Tables = append(f.Tables, uint16(rng.Uint32N(numbers)))
		}
		found = numbers
	}
	f.Tables = append(f.Tables, 0)
	return f, chosen
}

// newBlocks returns random blocks, and random choices of rows.
func newBlocks(rng *rand.Rand) (*Blocks, *Chosen) {
	b := &Blocks{Groups: uint32(1 + rng.IntN(MaxGroups)), None: 1 << 20}
	blocks, rows, lines := 1+rng.IntN(MaxBlocks), 1+rng.IntN(20), 2+rng.IntN(50)
	b.Lines = AlignedWords(8 * lines)
	for i := range b.Lines[8:] {
		b.Lines[8+i] = rng.Uint64() & rng.Uint64() & rng.Uint64() & rng.Uint64() & rng.Uint64()
	}
	for range rows {
		mask := rng.Uint32() & (1<<blocks - 1)
		b.Rows = append(b.Rows, uint16(mask), uint16(mask>>16))
		for i := range blocks {
			line := 0
			if mask>>i&1 != 0 {
				line = rng.IntN(lines)
			}
			b.Rows = append(b.Rows, uint16(line))
		}
	}
	for i := range b.First {
		b.First[i] = uint32(rng.IntN(1000))
	}
	slices.Sort(b.First[:])
	for range blocks {
		for range BlockRules {
			b.Places = append(b.Places, rng.Int32N(1000))
		}
		for range PlacesPad {
			b.Places = append(b.Places, 1<<30)
		}
	}
	chosen := &Chosen{}
	for g := range chosen {
		for i := range chosen[g] {
			chosen[g][i] = uint32(2 * (MaskElements + blocks) * rng.IntN(rows))
		}
	}
	return b, chosen
}

// blocksLane is one version of the kernels for blocks.
type blocksLane struct {
	masks func(*Blocks, *Chosen, int, *Column, *[Lanes]int32)
	pass  func(*Blocks, int, *Column, *[Lanes]int32, *Candidates) int
	try   func(*Blocks, *Chosen, *Candidates, int, *[Lanes]int32)
}

// checkBlocks runs one batch through a lane and through the definition, call by call.
func checkBlocks(t *testing.T, l blocksLane, b *Blocks, chosen *Chosen, n int) {
	t.Helper()
	var want, got struct {
		masks Column
		best  [Lanes]int32
		list  Candidates
	}
	l.masks(b, chosen, n, &got.masks, &got.best)
	MasksGo(b, chosen, n, &want.masks, &want.best)
	if got.masks != want.masks || got.best != want.best {
		t.Fatalf("masks of %d lanes differ: %x and %x", n, got.masks, want.masks)
	}
	for {
		found, wanted := l.pass(b, n, &got.masks, &got.best, &got.list), PassGo(b, n, &want.masks, &want.best, &want.list)
		if found != wanted || got.masks != want.masks || !slices.Equal(got.list.Lane[:found], want.list.Lane[:found]) ||
			!slices.Equal(got.list.Block[:found], want.list.Block[:found]) {
			t.Fatalf("a pass over %d lanes finds %d, the definition %d", n, found, wanted)
		}
		if found == 0 {
			return
		}
		l.try(b, chosen, &got.list, found, &got.best)
		TryGo(b, chosen, &want.list, found, &want.best)
		if got.best != want.best {
			t.Fatalf("of %d candidates %v are best, the definition says %v", found, got.best, want.best)
		}
	}
}

// TestAlignedWords checks what vectors rely on to be fast.
func TestAlignedWords(t *testing.T) {
	for n := range 100 {
		if words := AlignedWords(n); len(words) != n || cap(words) != n {
			t.Errorf("%d words, wants %d", len(words), n)
		}
	}
}
