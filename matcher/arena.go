package matcher

import (
	"github.com/bladeflow/bladeflow/matcher/internal/epoch"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// arena is what the writer knows of the buckets of a table: where there is room for
// another one. Memory is never moved, so no update waits for a copy: it comes in parts of
// kernel.ArenaUnits, and a bucket that was replaced is kept until no reader can have
// it and then used for one of the same size, or cut for a smaller one.
//
// As long as no batch takes longer than a few updates, at most 3/waitShare of the memory waits for
// readers, so that replacing half of the rules leaves an arena less than half as large again.
type arena struct {
	epochs   *epoch.Domain
	parts    int              // that exist
	from, to int              // unused units of the last part
	free     map[int][]uint32 // offsets, by units
	some     set              // the units, below cutUnits, that free has offsets of
	retired  []bucketMemory
	passed   int // of retired, free again
	waiting  int // units of retired since the epoch was tried to move on
	count    int // of retired since then
	taken    int // buckets, since the arena was made

	units int // of memory
	spare int // of these, not in a bucket
}

// bucketMemory is the memory of a bucket that was replaced in an epoch.
type bucketMemory struct {
	offset uint32
	units  int32
	epoch  uint64
}

const (
	// advanceEvery is the number of replaced buckets after which the epoch is tried to
	// move on, if they do not have 1/waitShare of the memory before.
	advanceEvery = 16
	waitShare    = 32
	partShare    = 32 // of the memory so far is a new part at most
	firstPart    = 32 // units

	cutUnits   = 512 // memory of so many units and more is not cut
	leastUnits = 2   // of a bucket of one rule

	// An arena of at most tidyUnits, some 256 KiB, is copied when tidyShare of it is spare,
	// which takes some 30 µs, but not before tidyAfter buckets were put in.
	tidyUnits = 16 << 10
	tidyShare = 4
	tidyAfter = 64
)

func newArena(epochs *epoch.Domain) *arena {
	return &arena{epochs: epochs, free: map[int][]uint32{}, some: make(set, cutUnits/64)}
}

// bytes returns the memory of a, without what it remembers for as long as readers are
// in a batch.
func (a *arena) bytes() int {
	n := 4*kernel.Unit*a.units + 8*len(a.some) + 16*cap(a.retired)
	for _, list := range a.free {
		n += 32 + 4*cap(list)
	}
	return n
}

// full reports whether no more rules should be put in: what is left is for buckets that
// are replaced.
func (a *arena) full() bool { return a.parts > kernel.MaxUnits/kernel.ArenaUnits*3/4 }

// untidy reports whether a is so small, and has so much spare memory, that it is better copied.
func (a *arena) untidy() bool {
	return a.units <= tidyUnits && a.spare*tidyShare > a.units && a.taken >= tidyAfter
}

// unitsFor returns the units of a bucket of that many words.
func unitsFor(words int) int { return (words + kernel.Unit - 1) / kernel.Unit }

// take returns an offset with that many units. part is the memory of the last part if it
// is new, else nil. Parts are small as long as there are few.
func (a *arena) take(units int) (offset uint32, part []uint32) {
	a.reuse()
	a.taken++
	a.spare -= units
	if a.some.has(units) || units >= cutUnits && len(a.free[units]) > 0 {
		return a.pop(units), nil
	}
	if a.to-a.from < units {
		if most := a.some.next(units + leastUnits); most > 0 {
			offset = a.pop(most)
			a.push(offset+uint32(units), most-units)
			return offset, nil
		}
		if rest := a.to - a.from; rest > 0 {
			a.push(uint32((a.parts-1)*kernel.ArenaUnits+a.from), rest)
		}
		size := max(units+1, min(a.units/partShare, kernel.ArenaUnits), firstPart)
		part = make([]uint32, size*kernel.Unit+kernel.Pad)
		a.spare += size
		a.units += size
		a.from, a.to = 0, size
		if a.parts == 0 {
			a.from = 1 // offset 0 is that of no bucket
		}
		a.parts++
	}
	offset = uint32((a.parts-1)*kernel.ArenaUnits + a.from)
	a.from += units
	return offset, part
}

// push makes memory free.
func (a *arena) push(offset uint32, units int) {
	a.free[units] = append(a.free[units], offset)
	if units < cutUnits {
		a.some.add(units)
	}
}

// pop takes free memory of that many units, of which there is some.
func (a *arena) pop(units int) (offset uint32) {
	list := a.free[units]
	offset = list[len(list)-1]
	a.free[units] = list[:len(list)-1]
	if len(list) == 1 && units < cutUnits {
		a.some.flip(units)
	}
	return offset
}

// retire keeps the memory of a bucket until no reader has it.
func (a *arena) retire(offset uint32, units int) {
	a.retired = append(a.retired, bucketMemory{offset, int32(units), a.epochs.Now()})
	a.spare += units
	a.waiting += units
	a.count++
	if a.count >= advanceEvery || a.waiting > a.units/waitShare {
		a.waiting, a.count = 0, 0
		a.epochs.Advance()
	}
}

// reuse makes memory free that no reader has any more.
func (a *arena) reuse() {
	now := a.epochs.Now()
	for a.passed < len(a.retired) && a.retired[a.passed].epoch+2 <= now {
		m := a.retired[a.passed]
		a.push(m.offset, int(m.units))
		a.passed++
	}
	if a.passed >= advanceEvery && 2*a.passed > len(a.retired) {
		a.retired = append(a.retired[:0], a.retired[a.passed:]...)
		a.passed = 0
	}
}
