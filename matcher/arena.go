package matcher

import (
	"github.com/bladeflow/bladeflow/matcher/internal/epoch"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// arena is what the writer knows of the buckets of a table: where there is room for
// another one. Memory is never moved, so no update waits for a copy: it comes in parts of
// kernel.ArenaUnits, and a bucket that was replaced is kept until no reader can have
// it and then used for one of the same size.
type arena struct {
	epochs   *epoch.Domain
	parts    int              // that exist
	from, to int              // unused units of the last part
	free     map[int][]uint32 // offsets, by units
	retired  []bucketMemory
	passed   int // of retired, free again

	units int // of memory
	spare int // of these, not in a bucket
}

// bucketMemory is the memory of a bucket that was replaced in an epoch.
type bucketMemory struct {
	offset uint32
	units  int
	epoch  uint64
}

const (
	// advanceEvery is the number of replaced buckets after which the epoch is tried to
	// move on.
	advanceEvery = 16
	firstPart    = 64 // units
)

func newArena(epochs *epoch.Domain) *arena {
	return &arena{epochs: epochs, free: map[int][]uint32{}}
}

// full reports whether no more rules should be put in: what is left is for buckets that
// are replaced.
func (a *arena) full() bool { return a.parts > kernel.MaxUnits/kernel.ArenaUnits*3/4 }

// unitsFor returns the units of a bucket of that many words.
func unitsFor(words int) int { return (words + kernel.Unit - 1) / kernel.Unit }

// take returns an offset with that many units. part is the memory of the last part if it
// is new, else nil. Parts are small as long as there are few.
func (a *arena) take(units int) (offset uint32, part []uint32) {
	a.reuse()
	if list := a.free[units]; len(list) > 0 {
		offset = list[len(list)-1]
		a.free[units] = list[:len(list)-1]
		a.spare -= units
		return offset, nil
	}
	if a.to-a.from < units {
		size := max(units+1, min(a.units/4, kernel.ArenaUnits), firstPart)
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
	a.spare -= units
	return offset, part
}

// retire keeps the memory of a bucket until no reader has it.
func (a *arena) retire(offset uint32, units int) {
	a.retired = append(a.retired, bucketMemory{offset, units, a.epochs.Now()})
	a.spare += units
	if len(a.retired)%advanceEvery == 0 {
		a.epochs.Advance()
	}
}

// reuse makes memory free that no reader has any more.
func (a *arena) reuse() {
	now := a.epochs.Now()
	for a.passed < len(a.retired) && a.retired[a.passed].epoch+2 <= now {
		m := a.retired[a.passed]
		a.free[m.units] = append(a.free[m.units], m.offset)
		a.passed++
	}
	if a.passed > 1024 && 2*a.passed > len(a.retired) {
		a.retired = append(a.retired[:0], a.retired[a.passed:]...)
		a.passed = 0
	}
}
