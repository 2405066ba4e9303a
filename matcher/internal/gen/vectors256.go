package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// firstWord intersects lines of 64 bytes at the given addresses, which take turns with
// each other for each vector, and returns the place of the first word that is not
// zero; there is none if the bit behind the last is what it finds.
func firstWord(lines int, at func(group, disp int) Mem, groups int) GPVirtual {
	place, zero := GP64(), YMM()
	VPXOR(zero, zero, zero)
	for v := range 2 * lines {
		both, bits := YMM(), GP64()
		VMOVDQU(at(0, 32*v), both)
		for g := 1; g < groups; g++ {
			VPAND(at(g, 32*v), both, both)
		}
		VPCMPEQQ(zero, both, both)
		if v == 0 {
			VMOVMSKPD(both, place.As32())
			continue
		}
		VMOVMSKPD(both, bits.As32())
		SHLL(Imm(uint64(4*v)), bits.As32())
		ORL(bits.As32(), place.As32())
	}
	NOTL(place.As32()) // bits behind those of the words are now set
	TZCNTL(place.As32(), place.As32())
	return place
}

// and256 is and512 key by key. The word found is intersected again, from what is in
// the first level of the cache by then: that is faster than taking it out of a vector.
func and256() {
	function("and256", "func(v *byte, rows *uint32, n int, best *int32)")
	eachShape(1, func(r rowsOf) {
		row := make([]Register, r.groups)
		for g := range row {
			row[g] = GP64()
			MOVL(Mem{Base: r.rows, Disp: columnSize * g}, row[g].(GPVirtual).As32())
			ADDQ(r.base, row[g])
		}
		place := firstWord(r.lines, func(g, disp int) Mem { return Mem{Base: row[g], Disp: disp} }, r.groups)
		word := GP64()
		MOVQ(Mem{Base: row[0], Index: place, Scale: 8}, word)
		for g := 1; g < r.groups; g++ {
			ANDQ(Mem{Base: row[g], Index: place, Scale: 8}, word)
		}
		TZCNTQ(word, word)
		SHLQ(Imm(6), place)
		ADDQ(word, place)
		MOVL(place.As32(), Mem{Base: r.best})
	})
}

// final256 is final512 with 8 lanes at a time.
func final256() {
	function("final256", "func(f *byte, chosen *uint32, groups int, best *int32)")
	f, chosen := Load(Param("f"), GP64()), Load(Param("chosen"), GP64())
	left, best := Load(Param("groups"), GP64()), Load(Param("best"), GP64())
	SHLQ(Imm(1), left)
	tables := GP64()
	MOVQ(Mem{Base: f, Disp: fTables}, tables)
	Label("keys")
	var found [unrolled]VecVirtual
	for u := range found {
		found[u] = YMM()
		VMOVDQU(Mem{Base: chosen, Disp: 32 * u}, found[u])
	}
	link, links, next := GP64(), GP32(), GP64()
	LEAQ(Mem{Base: f, Disp: fLink}, link)
	MOVL(Mem{Base: f, Disp: fLinks}, links)
	MOVQ(chosen, next)
	Label("link")
	ADDQ(U32(columnSize), next)
	start, factor := GP64(), YMM()
	MOVL(Mem{Base: link}, start.As32())
	LEAQ(Mem{Base: tables, Index: start, Scale: 2}, start)
	VPBROADCASTD(Mem{Base: link, Disp: 4}, factor)
	for u, x := range found {
		index, k := YMM(), YMM()
		VPMULLD(factor, x, index)
		VPADDD(Mem{Base: next, Disp: 32 * u}, index, index)
		VPCMPEQD(k, k, k)
		VPXOR(x, x, x)
		VPGATHERDD(k, Mem{Base: start, Index: index, Scale: 2}, x)
		VPSLLD(Imm(16), x, x)
		VPSRLD(Imm(16), x, x)
	}
	ADDQ(Imm(linkSize), link)
	DECL(links)
	JNZ(LabelRef("link"))
	for u, x := range found {
		VMOVDQU(x, Mem{Base: best, Disp: 32 * u})
	}
	ADDQ(U32(32*unrolled), chosen)
	ADDQ(U32(32*unrolled), best)
	SUBQ(Imm(unrolled), left)
	JG(LabelRef("keys"))
	VZEROUPPER()
	RET()
}

// masks256 is masks512 with 8 lanes at a time, an even number of times.
func masks256(lanes Mem) {
	function("masks256", "func(b *byte, chosen *uint32, n int, masks *uint32, best *int32)")
	b, chosen := Load(Param("b"), GP64()), Load(Param("chosen"), GP64())
	n, masks := Load(Param("n"), GP64()), Load(Param("masks"), GP64())
	best := Load(Param("best"), GP64())
	rows, lane, none, eights := GP64(), YMM(), YMM(), GP64()
	MOVQ(Mem{Base: b, Disp: bRows}, rows)
	VMOVDQU(lanes, lane)
	VPBROADCASTD(Mem{Base: b, Disp: bNone}, none)
	LEAQ(Mem{Base: n, Disp: 15}, eights)
	SHRQ(Imm(4), eights)
	SHLQ(Imm(1), eights)
	Label("lanes")
	count, live, mask := XMM(), YMM(), YMM()
	VMOVD(n.(GPVirtual).As32(), count)
	VPBROADCASTD(count, live)
	VPCMPGTD(lane, live, live)
	VMOVDQA(live, mask)
	groups, at := GP32(), GP64()
	MOVL(Mem{Base: b, Disp: bGroups}, groups)
	MOVQ(chosen, at)
	Label("group")
	index, k, m := YMM(), YMM(), YMM()
	VMOVDQU(Mem{Base: at}, index)
	VMOVDQA(live, k)
	VPXOR(m, m, m)
	VPGATHERDD(k, Mem{Base: rows, Index: index, Scale: 1}, m)
	VPAND(m, mask, mask)
	ADDQ(U32(columnSize), at)
	DECL(groups)
	JNZ(LabelRef("group"))
	VMOVDQU(mask, Mem{Base: masks})
	VMOVDQU(none, Mem{Base: best})
	ADDQ(Imm(32), chosen)
	ADDQ(Imm(32), masks)
	ADDQ(Imm(32), best)
	SUBQ(Imm(8), n)
	DECQ(eights)
	JNZ(LabelRef("lanes"))
	VZEROUPPER()
	RET()
}

// pass256 is pass512 with 8 lanes at a time. The place of a bit is the exponent of it
// as a floating-point number.
func pass256(lanes Mem) {
	function("pass256", "func(b *byte, groups int, masks *uint32, best *int32, list *byte) int")
	b, left := Load(Param("b"), GP64()), Load(Param("groups"), GP64())
	masks, best := Load(Param("masks"), GP64()), Load(Param("best"), GP64())
	list, count, lane, step := Load(Param("list"), GP64()), GP64(), YMM(), broadcast256(8)
	SHLQ(Imm(1), left)
	XORQ(count, count)
	VMOVDQU(lanes, lane)
	zero, bias, highest := YMM(), broadcast256(127), broadcast256(31)
	VPXOR(zero, zero, zero)

	Label("lanes")
	mask, empty, bit, block, place, bits := YMM(), YMM(), YMM(), YMM(), YMM(), GP64()
	VMOVDQU(Mem{Base: masks}, mask)
	VPCMPEQD(zero, mask, empty)
	VPSUBD(mask, zero, bit)
	VPAND(mask, bit, bit)
	VCVTDQ2PS(bit, block)
	VPSLLD(Imm(1), block, block) // the highest bit is negative
	VPSRLD(Imm(24), block, block)
	VPSUBD(bias, block, block)
	VPAND(highest, block, block) // no bit counts as one, any will do
	VPXOR(bit, mask, mask)
	k := YMM()
	VPCMPEQD(k, k, k)
	VPXOR(place, place, place)
	VPGATHERDD(k, Mem{Base: b, Index: block, Scale: 4, Disp: bFirst}, place)
	live := YMM()
	VMOVDQU(Mem{Base: best}, live)
	VPCMPGTD(place, live, live)
	VPANDN(live, empty, live)
	VPAND(live, mask, mask)
	VMOVDQU(mask, Mem{Base: masks})
	VMOVMSKPS(live, bits.As32())
	order := compress(bits)
	VPERMD(lane, order, bit)
	VMOVDQU(bit, Mem{Base: list, Index: count, Scale: 4})
	VPERMD(block, order, block)
	VMOVDQU(block, Mem{Base: list, Index: count, Scale: 4, Disp: listBlock})
	POPCNTL(bits.As32(), bits.As32())
	ADDQ(bits, count)
	VPADDD(step, lane, lane)
	ADDQ(Imm(32), masks)
	ADDQ(Imm(32), best)
	DECQ(left)
	JNZ(LabelRef("lanes"))
	VZEROUPPER()
	Store(count, ReturnIndex(0))
	RET()
}

// compress returns the permutation that puts the lanes whose bits are set first. AVX2
// cannot compress a vector: the bits are turned into bytes, those into the bytes of
// the lanes' numbers, and these into lanes.
func compress(bits GPVirtual) VecVirtual {
	spread, numbers, packed, order := GP64(), GP64(), XMM(), YMM()
	MOVQ(U64(0x0101010101010101), spread)
	PDEPQ(spread, bits, spread)
	IMUL3Q(U32(0xff), spread, spread)
	MOVQ(U64(0x0706050403020100), numbers)
	PEXTQ(spread, numbers, numbers)
	VMOVQ(numbers, packed)
	VPMOVZXBD(packed, order)
	return order
}

// try256 is try512 candidate by candidate; see and256.
func try256() {
	function("try256", "func(b *byte, chosen *uint32, list *byte, n int, best *int32)")
	b, chosen := Load(Param("b"), GP64()), Load(Param("chosen"), GP64())
	list, n, best := Load(Param("list"), GP64()), Load(Param("n"), GP64()), Load(Param("best"), GP64())
	for groups := 1; groups <= 4; groups++ {
		name := fmt.Sprint("groups", groups)
		CMPL(Mem{Base: b, Disp: bGroups}, U32(uint32(groups)))
		JNE(LabelRef("not" + name))
		Label(name)
		lane, block, numbers := GP64(), GP64(), GP64()
		MOVL(Mem{Base: list}, lane.As32())
		MOVL(Mem{Base: list, Disp: listBlock}, block.As32())
		MOVQ(Mem{Base: b, Disp: bRows}, numbers)
		LEAQ(Mem{Base: numbers, Index: block, Scale: 2, Disp: 4}, numbers)
		line := make([]Register, groups)
		for g := range line {
			line[g] = GP64()
			MOVL(Mem{Base: chosen, Index: lane, Scale: 4, Disp: columnSize * g}, line[g].(GPVirtual).As32())
			MOVWLZX(Mem{Base: numbers, Index: line[g], Scale: 1}, line[g].(GPVirtual).As32())
			SHLQ(Imm(6), line[g])
			ADDQ(Mem{Base: b, Disp: bLines}, line[g])
		}
		at := firstWord(1, func(g, disp int) Mem { return Mem{Base: line[g], Disp: disp} }, groups)
		inside, word := GP64(), GP64()
		MOVQ(at, inside)
		ANDQ(Imm(7), inside)
		MOVQ(Mem{Base: line[0], Index: inside, Scale: 8}, word)
		for g := 1; g < groups; g++ {
			ANDQ(Mem{Base: line[g], Index: inside, Scale: 8}, word)
		}
		TZCNTQ(word, word)
		SHLQ(Imm(6), at)
		ADDQ(word, at)
		IMUL3Q(U32(blockPlaces), block, block)
		ADDQ(block, at)
		MOVQ(Mem{Base: b, Disp: bPlaces}, word)
		MOVL(Mem{Base: word, Index: at, Scale: 4}, at.As32())
		MOVL(Mem{Base: best, Index: lane, Scale: 4}, word.As32())
		CMPL(at.As32(), word.As32())
		CMOVLLT(at.As32(), word.As32())
		MOVL(word.As32(), Mem{Base: best, Index: lane, Scale: 4})
		ADDQ(Imm(4), list)
		DECQ(n)
		JG(LabelRef(name))
		VZEROUPPER()
		RET()
		Label("not" + name)
	}
	VZEROUPPER()
	RET()
}
