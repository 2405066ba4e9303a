//go:build amd64 && !purego

package kernel

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/bladeflow/bladeflow/flow"
)

//go:generate go run -C ../gen . -out ../kernel/kernel_amd64.s -stubs ../kernel/kernel_amd64.go -pkg kernel

// HasAVX512 reports whether the machine can run the functions that end in 512.
func HasAVX512() bool {
	return cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL &&
		cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
}

// HasAVX2 reports whether the machine can run the functions that end in 256.
func HasAVX2() bool {
	return cpu.X86.HasAVX2 && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
}

// The conversions below hand the assembly pointers to whole objects of the types it
// was generated for; it keeps none of them. Empty slices have no first element and
// never get that far.

// Spread512 is [SpreadGo]; offsets are those of the words in a key.
func Spread512(keys []flow.Key, offsets []uint32, columns []Column, best *Best, none int32) {
	spread512(&keys[0][0], len(keys), unsafe.SliceData(offsets), len(offsets), firstWord(columns), (*byte)(unsafe.Pointer(best)), int64(none))
}

// Probe512 is [ProbeGo].
func Probe512(t *Table, columns []Column, best *Best, n int, found *Found) int {
	return probe512((*byte)(unsafe.Pointer(t)), firstWord(columns), (*byte)(unsafe.Pointer(best)), (n+15)/16, (*byte)(unsafe.Pointer(found)))
}

// Scan512 is [ScanGo].
func Scan512(t *Table, keys []flow.Key, best *Best, found *Found, n int) {
	scan512((*byte)(unsafe.Pointer(t)), &keys[0][0], (*byte)(unsafe.Pointer(best)), (*byte)(unsafe.Pointer(found)), n)
}

func firstWord(columns []Column) *uint32 { return (*uint32)(unsafe.Pointer(unsafe.SliceData(columns))) }

// Classes512 is [ClassesGo].
func Classes512(c *Classes, keys []flow.Key, chosen *Chosen) {
	if c.Quads == 1 { // Go clears arrays before use, so it pays to have no more than needed
		var columns [4]Column
		choose(true, c, keys, columns[:], chosen)
		return
	}
	var columns [Words]Column
	choose(true, c, keys, columns[:], chosen)
}

// choose calls classes512 or, if it is not wide, classes256. Both work on whole groups of
// 16 keys.
func choose(wide bool, c *Classes, keys []flow.Key, columns []Column, chosen *Chosen) {
	whole := len(keys) / 16
	if whole > 0 {
		chooseWhole(wide, c, &keys[0], whole, columns, chosen)
	}
	if 16*whole == len(keys) {
		return
	}
	var some [16]flow.Key
	var rest Chosen
	n := copy(some[:], keys[16*whole:])
	chooseWhole(wide, c, &some[0], 1, columns, &rest)
	for g := range c.Groups {
		copy(chosen[g][16*whole:], rest[g][:n])
	}
}

func chooseWhole(wide bool, c *Classes, keys *flow.Key, groups int, columns []Column, chosen *Chosen) {
	if wide {
		classes512((*byte)(unsafe.Pointer(c)), &keys[0], groups, firstWord(columns), &chosen[0][0])
		return
	}
	classes256((*byte)(unsafe.Pointer(c)), &keys[0], groups, firstWord(columns), &chosen[0][0])
}

// And512 is [AndGo]; it works on up to three lanes more.
func And512(v *Vectors, chosen *Chosen, n int, best *[Lanes]int32) {
	and512((*byte)(unsafe.Pointer(v)), &chosen[0][0], n, &best[0])
}

// Final512 is [FinalGo]; it works on up to 63 lanes more, whose choices have to be of classes
// that there are.
func Final512(f *Finals, chosen *Chosen, n int, best *[Lanes]int32) {
	final512((*byte)(unsafe.Pointer(f)), &chosen[0][0], (n+15)/16, &best[0])
}

// Masks512 is [MasksGo].
func Masks512(b *Blocks, chosen *Chosen, n int, masks *Column, best *[Lanes]int32) {
	masks512((*byte)(unsafe.Pointer(b)), &chosen[0][0], n, &masks[0], &best[0])
}

// Pass512 is [PassGo].
func Pass512(b *Blocks, n int, masks *Column, best *[Lanes]int32, list *Candidates) int {
	return pass512((*byte)(unsafe.Pointer(b)), (n+15)/16, &masks[0], &best[0], (*byte)(unsafe.Pointer(list)))
}

// Try512 is [TryGo]; it tries up to three candidates more, which have to be ones that
// were listed before for the same keys, or zero.
func Try512(b *Blocks, chosen *Chosen, list *Candidates, n int, best *[Lanes]int32) {
	try512((*byte)(unsafe.Pointer(b)), &chosen[0][0], (*byte)(unsafe.Pointer(list)), n, &best[0])
}

// Spread256 is [SpreadGo] like Spread512.
func Spread256(keys []flow.Key, offsets []uint32, columns []Column, best *Best, none int32) {
	spread256(&keys[0][0], len(keys), unsafe.SliceData(offsets), len(offsets), firstWord(columns), (*byte)(unsafe.Pointer(best)), int64(none))
}

// Probe256 is [ProbeGo].
func Probe256(t *Table, columns []Column, best *Best, n int, found *Found) int {
	return probe256((*byte)(unsafe.Pointer(t)), firstWord(columns), (*byte)(unsafe.Pointer(best)), (n+15)/16*2, (*byte)(unsafe.Pointer(found)))
}

// Scan256 is [ScanGo].
func Scan256(t *Table, keys []flow.Key, best *Best, found *Found, n int) {
	scan256((*byte)(unsafe.Pointer(t)), &keys[0][0], (*byte)(unsafe.Pointer(best)), (*byte)(unsafe.Pointer(found)), n)
}

// Classes256 is [ClassesGo].
func Classes256(c *Classes, keys []flow.Key, chosen *Chosen) {
	if c.Quads == 1 {
		var columns [4]Column
		choose(false, c, keys, columns[:], chosen)
		return
	}
	var columns [Words]Column
	choose(false, c, keys, columns[:], chosen)
}

// And256 is [AndGo].
func And256(v *Vectors, chosen *Chosen, n int, best *[Lanes]int32) {
	and256((*byte)(unsafe.Pointer(v)), &chosen[0][0], n, &best[0])
}

// Final256 is [FinalGo] like Final512.
func Final256(f *Finals, chosen *Chosen, n int, best *[Lanes]int32) {
	final256((*byte)(unsafe.Pointer(f)), &chosen[0][0], (n+15)/16, &best[0])
}

// Masks256 is [MasksGo].
func Masks256(b *Blocks, chosen *Chosen, n int, masks *Column, best *[Lanes]int32) {
	masks256((*byte)(unsafe.Pointer(b)), &chosen[0][0], n, &masks[0], &best[0])
}

// Pass256 is [PassGo].
func Pass256(b *Blocks, n int, masks *Column, best *[Lanes]int32, list *Candidates) int {
	return pass256((*byte)(unsafe.Pointer(b)), (n+15)/16, &masks[0], &best[0], (*byte)(unsafe.Pointer(list)))
}

// Try256 is [TryGo].
func Try256(b *Blocks, chosen *Chosen, list *Candidates, n int, best *[Lanes]int32) {
	try256((*byte)(unsafe.Pointer(b)), &chosen[0][0], (*byte)(unsafe.Pointer(list)), n, &best[0])
}
