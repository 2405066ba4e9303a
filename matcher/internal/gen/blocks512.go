package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets of the fields of kernel.Blocks and kernel.Candidates; the package's test
// compares them.
const (
	bRows   = 0
	bLines  = 24
	bPlaces = 48
	bGroups = 72
	bNone   = 76
	bFirst  = 80

	listBlock   = 4 * (256 + 16)
	blockPlaces = 512 + 80
)

// masks512 intersects the masks of 16 lanes at a time.
func masks512(lanes Mem) {
	function("masks512", "func(b *byte, chosen *uint32, n int, masks *uint32, best *int32)")
	b, chosen := Load(Param("b"), GP64()), Load(Param("chosen"), GP64())
	n, masks := Load(Param("n"), GP64()), Load(Param("masks"), GP64())
	best := Load(Param("best"), GP64())
	rows, lane, none, zero := GP64(), ZMM(), ZMM(), broadcast512(0)
	MOVQ(Mem{Base: b, Disp: bRows}, rows)
	VMOVDQU32(lanes, lane)
	VPBROADCASTD(Mem{Base: b, Disp: bNone}, none)
	Label("lanes")
	left, live, mask := ZMM(), K(), ZMM()
	VPBROADCASTD(n.(GPVirtual).As32(), left)
	VPCMPGTD(lane, left, live)
	VPTERNLOGD(Imm(0xff), mask, mask, mask)
	groups, at := GP32(), GP64()
	MOVL(Mem{Base: b, Disp: bGroups}, groups)
	MOVQ(chosen, at)
	Label("group")
	index, k, m := ZMM(), K(), ZMM()
	VMOVDQU32(Mem{Base: at}, index)
	KMOVW(live, k)
	VMOVDQA64(zero, m)
	VPGATHERDD(Mem{Base: rows, Index: index, Scale: 1}, k, m)
	VPANDD(m, mask, mask)
	ADDQ(U32(columnSize), at)
	DECL(groups)
	JNZ(LabelRef("group"))
	VMOVDQU32(mask, Mem{Base: masks})
	VMOVDQU32(none, Mem{Base: best})
	ADDQ(Imm(64), chosen)
	ADDQ(Imm(64), masks)
	ADDQ(Imm(64), best)
	SUBQ(Imm(16), n)
	JG(LabelRef("lanes"))
	VZEROUPPER()
	RET()
}

// pass512 takes the first block of 16 lanes at a time, and appends what is worth a try
// to the list. The best places of the blocks are in two registers. Nothing is gathered
// here: after the first pass few lanes are left, and try512 looks only at those.
func pass512(lanes Mem) {
	function("pass512", "func(b *byte, groups int, masks *uint32, best *int32, list *byte) int")
	b, left := Load(Param("b"), GP64()), Load(Param("groups"), GP64())
	masks, best := Load(Param("masks"), GP64()), Load(Param("best"), GP64())
	list, count, lane, step := Load(Param("list"), GP64()), GP64(), ZMM(), broadcast512(16)
	XORQ(count, count)
	VMOVDQU32(lanes, lane)
	first, second, zero, highest := ZMM(), ZMM(), broadcast512(0), broadcast512(31)
	VMOVDQU32(Mem{Base: b, Disp: bFirst}, first)
	VMOVDQU32(Mem{Base: b, Disp: bFirst + 64}, second)

	Label("lanes")
	mask, live, bit, block, place, bits := ZMM(), K(), ZMM(), ZMM(), ZMM(), GP64()
	VMOVDQU32(Mem{Base: masks}, mask)
	VPTESTMD(mask, mask, live)
	VPSUBD(mask, zero, bit)
	VPANDD(mask, bit, bit)
	VPLZCNTD(bit, block)
	VPSUBD(block, highest, block)
	VPXORD(bit, mask, mask)
	VMOVDQA64(block, place)
	VPERMI2D(second, first, place)
	VPCMPD(Imm(1), Mem{Base: best}, place, live, live) // place < best
	VMOVDQA32_Z(mask, live, mask)
	VMOVDQU32(mask, Mem{Base: masks})
	VPCOMPRESSD_Z(lane, live, bit)
	VMOVDQU32(bit, Mem{Base: list, Index: count, Scale: 4})
	VPCOMPRESSD_Z(block, live, block)
	VMOVDQU32(block, Mem{Base: list, Index: count, Scale: 4, Disp: listBlock})
	KMOVW(live, bits.As32())
	POPCNTL(bits.As32(), bits.As32())
	ADDQ(bits, count)
	VPADDD(step, lane, lane)
	ADDQ(Imm(64), masks)
	ADDQ(Imm(64), best)
	DECQ(left)
	JNZ(LabelRef("lanes"))
	VZEROUPPER()
	Store(count, ReturnIndex(0))
	RET()
}

// try512 intersects the lines of four candidates at a time, without a branch on data,
// like and512.
func try512() {
	function("try512", "func(b *byte, chosen *uint32, list *byte, n int, best *int32)")
	b, chosen := Load(Param("b"), GP64()), Load(Param("chosen"), GP64())
	list, n, best := Load(Param("list"), GP64()), Load(Param("n"), GP64()), Load(Param("best"), GP64())
	rows, lines, places, shape := GP64(), GP64(), GP64(), GP32()
	MOVQ(Mem{Base: b, Disp: bRows}, rows)
	MOVQ(Mem{Base: b, Disp: bLines}, lines)
	MOVQ(Mem{Base: b, Disp: bPlaces}, places)
	MOVL(Mem{Base: b, Disp: bGroups}, shape)
	for groups := 1; groups <= 4; groups++ {
		name := fmt.Sprint("groups", groups)
		CMPL(shape, U32(uint32(groups)))
		JNE(LabelRef("not" + name))
		Label(name)
		for u := range 4 {
			lane, block, numbers, both := GP64(), GP64(), GP64(), ZMM()
			MOVL(Mem{Base: list, Disp: 4 * u}, lane.As32())
			MOVL(Mem{Base: list, Disp: listBlock + 4*u}, block.As32())
			LEAQ(Mem{Base: rows, Index: block, Scale: 2, Disp: 4}, numbers)
			for g := range groups {
				line := GP64()
				MOVL(Mem{Base: chosen, Index: lane, Scale: 4, Disp: columnSize * g}, line.As32())
				MOVWLZX(Mem{Base: numbers, Index: line, Scale: 1}, line.As32())
				SHLQ(Imm(6), line)
				if g == 0 {
					VMOVDQU64(Mem{Base: lines, Index: line, Scale: 1}, both)
				} else {
					VPANDQ(Mem{Base: lines, Index: line, Scale: 1}, both, both)
				}
			}
			some, at, word := K(), GP64(), GP64()
			VPTESTMQ(both, both, some)
			VPCOMPRESSQ_Z(both, some, both)
			VMOVQ(both.AsX(), word)
			KMOVB(some, at.As32())
			ORL(U32(256), at.As32())
			TZCNTL(at.As32(), at.As32())
			TZCNTQ(word, word)
			SHLQ(Imm(6), at)
			ADDQ(word, at)
			IMUL3Q(U32(blockPlaces), block, block)
			ADDQ(block, at)
			MOVL(Mem{Base: places, Index: at, Scale: 4}, at.As32())
			MOVL(Mem{Base: best, Index: lane, Scale: 4}, word.As32())
			CMPL(at.As32(), word.As32())
			CMOVLLT(at.As32(), word.As32())
			MOVL(word.As32(), Mem{Base: best, Index: lane, Scale: 4})
		}
		ADDQ(Imm(16), list)
		SUBQ(Imm(4), n)
		JG(LabelRef(name))
		VZEROUPPER()
		RET()
		Label("not" + name)
	}
	VZEROUPPER()
	RET()
}
