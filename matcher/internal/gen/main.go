// Command gen writes the assembly of package kernel and the declarations that go
// with it:
//
//	gen -out kernel_amd64.s -stubs kernel_amd64.go -pkg kernel
//
// The functions of purego.go in that package say what each of these computes.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	Constraint(buildtags.Term("amd64"))
	Constraint(buildtags.Not("purego"))
	lanes := GLOBL("lanes", RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(i))
	}
	spread512(lanes)
	probe512(lanes)
	scanner(512)
	classes512()
	and512()
	final512()
	masks512(lanes)
	pass512(lanes)
	try512()
	spread256(lanes)
	probe256(lanes)
	scanner(256)
	classes256(lanes)
	and256()
	final256()
	masks256(lanes)
	pass256(lanes)
	try256()
	Generate()
}

// Offsets of the fields of kernel.Table; the package's test compares them.
const (
	tHeads        = 0
	tArena        = 24
	tBest         = 48
	tShift        = 52
	tHashed       = 56
	tGuards       = 60
	tTernary      = 64
	tRanges       = 68
	tHashColumn   = 72
	tHashMask     = 136
	tGuardColumn  = 200
	tGuardMask    = 264
	tGuardValue   = 328
	tColumnOffset = 392
)

// Layout of kernel.Found and kernel.Best, and the constants of the package.
const (
	bestRule   = 4 * 256
	nonePlace  = 1<<31 - 1
	arenaBits  = 12
	foundHead  = 4 * (256 + 16)
	foundAt    = 8 * (256 + 16)
	columnSize = 4 * 256
	keySize    = 64
	portOffset = 16
	multiplier = 0x9e3779b1
	offsetMask = 1<<24 - 1
	chunk      = 16
)

// pragma marks a function that keeps none of its pointers.
func function(name, signature string) {
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
}

// broadcast returns a vector with v in every lane.
func broadcast512(v uint32) VecVirtual {
	t, z := GP32(), ZMM()
	MOVL(U32(v), t)
	VPBROADCASTD(t, z)
	return z
}

func broadcast256(v uint32) VecVirtual {
	t, x, y := GP32(), XMM(), YMM()
	MOVL(U32(v), t)
	VMOVD(t, x)
	VPBROADCASTD(x, y)
	return y
}
