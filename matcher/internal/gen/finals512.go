package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets of the fields of kernel.Finals; the package's test compares them.
const (
	fTables = 0
	fLinks  = 24
	fLink   = 28

	linkSize = 8
)

// final512 goes from link to link with 64 keys at a time, for the reason that
// classes512 does.
func final512() {
	function("final512", "func(f *byte, chosen *uint32, groups int, best *int32)")
	f, chosen := Load(Param("f"), GP64()), Load(Param("chosen"), GP64())
	left, best := Load(Param("groups"), GP64()), Load(Param("best"), GP64())
	tables, low16, zero, all := GP64(), broadcast512(0xffff), broadcast512(0), K()
	MOVQ(Mem{Base: f, Disp: fTables}, tables)
	KXNORW(all, all, all)
	Label("keys")
	var found [unrolled]VecVirtual
	for u := range found {
		found[u] = ZMM()
		VMOVDQU32(Mem{Base: chosen, Disp: 64 * u}, found[u])
	}
	link, links, next := GP64(), GP32(), GP64()
	LEAQ(Mem{Base: f, Disp: fLink}, link)
	MOVL(Mem{Base: f, Disp: fLinks}, links)
	MOVQ(chosen, next)
	Label("link")
	ADDQ(U32(columnSize), next)
	start, factor := GP64(), ZMM()
	MOVL(Mem{Base: link}, start.As32())
	LEAQ(Mem{Base: tables, Index: start, Scale: 2}, start)
	VPBROADCASTD(Mem{Base: link, Disp: 4}, factor)
	for u, x := range found {
		index, k := ZMM(), K()
		VPMULLD(factor, x, index)
		VPADDD(Mem{Base: next, Disp: 64 * u}, index, index)
		KMOVW(all, k)
		VMOVDQA64(zero, x)
		VPGATHERDD(Mem{Base: start, Index: index, Scale: 2}, k, x)
		VPANDD(low16, x, x)
	}
	ADDQ(Imm(linkSize), link)
	DECL(links)
	JNZ(LabelRef("link"))
	for u, x := range found {
		VMOVDQU32(x, Mem{Base: best, Disp: 64 * u})
	}
	ADDQ(U32(64*unrolled), chosen)
	ADDQ(U32(64*unrolled), best)
	SUBQ(Imm(unrolled), left)
	JG(LabelRef("keys"))
	VZEROUPPER()
	RET()
}
