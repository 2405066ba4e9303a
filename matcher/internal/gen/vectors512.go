package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets of the fields of kernel.Vectors; the package's test compares them.
const (
	vClasses     = 0
	vRows        = 24
	vGroups      = 48
	vLines       = 52
	vGuards      = 56
	vNone        = 60
	vRowShift    = 64
	vWords       = 68
	vOffset      = 72
	vGroup       = vOffset + 4*16
	vChunk       = vGroup + 4*groupSize
	vGuardColumn = vChunk + 12*chunkSize
	vGuardMask   = vGuardColumn + 16
	vGuardValue  = vGuardMask + 16

	groupSize = 12 // chunks, cross, row base
	chunkSize = 28 // column, upper shift and mask, lower shift and mask, table, factor
)

// classes512 finds the rows of 16 keys at a time: gather the words of the keys into
// columns, gather the class of every part, multiply it in, gather the class of the
// group. Gathers of the lanes that have no key are masked, so nothing behind the last
// key is read.
func classes512(lanes Mem) {
	function("classes512", "func(v *byte, keys *uint64, n int, columns *uint32, rows *uint32)")
	v := Load(Param("v"), GP64())
	keys := Load(Param("keys"), GP64())
	left := Load(Param("n"), GP64())
	columns := Load(Param("columns"), GP64())
	rows := Load(Param("rows"), GP64())
	lane := ZMM()
	VMOVDQU32(lanes, lane)
	VPSLLD(Imm(6), lane, lane)
	classes := GP64()
	MOVQ(Mem{Base: v, Disp: vClasses}, classes)
	low16, none, rowShift, all := broadcast512(0xffff), ZMM(), XMM(), K()
	VPBROADCASTD(Mem{Base: v, Disp: vNone}, none)
	VMOVD(Mem{Base: v, Disp: vRowShift}, rowShift)
	KXNORW(all, all, all)
	gather := func(index VecVirtual) VecVirtual {
		z, k := ZMM(), K()
		VPXORD(z, z, z)
		KMOVW(all, k)
		VPGATHERDD(Mem{Base: classes, Index: index, Scale: 2}, k, z)
		VPANDD(low16, z, z)
		return z
	}

	Label("keys")
	TESTQ(left, left)
	JLE(LabelRef("done"))
	live, ones, w, words, key := K(), GP64(), GP64(), GP64(), GP64()
	MOVQ(U32(16), w)
	CMPQ(left, w)
	CMOVQLT(left, w)
	MOVQ(I32(-1), ones)
	BZHIQ(w, ones, ones)
	KMOVW(ones.As32(), live)
	MOVL(Mem{Base: v, Disp: vWords}, words.As32())
	MOVQ(columns, ones)
	XORQ(w, w)
	Label("word")
	MOVL(Mem{Base: v, Index: w, Scale: 4, Disp: vOffset}, key.As32())
	ADDQ(keys, key)
	take, column := K(), ZMM()
	KMOVW(live, take)
	VPXORD(column, column, column)
	VPGATHERDD(Mem{Base: key, Index: lane, Scale: 1}, take, column)
	VMOVDQU32(column, Mem{Base: ones})
	ADDQ(Imm(64), ones)
	INCQ(w)
	CMPQ(w, words)
	JLT(LabelRef("word"))

	chunk, group, end, out := GP64(), GP64(), GP64(), GP64()
	LEAQ(Mem{Base: v, Disp: vChunk}, chunk)
	LEAQ(Mem{Base: v, Disp: vGroup}, group)
	MOVL(Mem{Base: v, Disp: vGroups}, end.As32())
	MOVQ(rows, out)
	Label("group")
	n, at := GP64(), GP64()
	MOVL(Mem{Base: group}, n.As32())
	index, class := ZMM(), ZMM()
	VPXORD(index, index, index)
	Label("chunk")
	MOVL(Mem{Base: chunk}, at.As32())
	word, shift, hi, lo := ZMM(), XMM(), ZMM(), ZMM()
	VMOVDQU32(Mem{Base: columns, Index: at, Scale: 1}, word)
	VMOVD(Mem{Base: chunk, Disp: 4}, shift)
	VPSRLD(shift, word, hi)
	VPANDD_BCST(Mem{Base: chunk, Disp: 8}, hi, hi)
	VMOVD(Mem{Base: chunk, Disp: 12}, shift)
	VPSRLD(shift, word, lo)
	VPANDD_BCST(Mem{Base: chunk, Disp: 16}, lo, lo)
	VPORD(lo, hi, hi)
	VPADDD_BCST(Mem{Base: chunk, Disp: 20}, hi, hi)
	c := gather(hi)
	VMOVDQA64(c, class)
	VPMULLD_BCST(Mem{Base: chunk, Disp: 24}, c, c)
	VPADDD(c, index, index)
	ADDQ(Imm(chunkSize), chunk)
	DECQ(n)
	JNZ(LabelRef("chunk"))
	CMPL(Mem{Base: group}, Imm(1))
	JE(LabelRef("single"))
	VPADDD_BCST(Mem{Base: group, Disp: 4}, index, index)
	VMOVDQA64(gather(index), class)
	Label("single")
	VPSLLD(rowShift, class, class)
	VPADDD_BCST(Mem{Base: group, Disp: 8}, class, class)
	VMOVDQU32(class, Mem{Base: out})
	ADDQ(U32(columnSize), out)
	ADDQ(Imm(groupSize), group)
	DECQ(end)
	JNZ(LabelRef("group"))

	i, m, mask, pass := GP64(), GP64(), ZMM(), K()
	MOVL(Mem{Base: v, Disp: vGuards}, m.As32())
	TESTQ(m, m)
	JZ(LabelRef("guarded"))
	KMOVW(all, pass)
	XORQ(i, i)
	Label("guard")
	MOVL(Mem{Base: v, Index: i, Scale: 4, Disp: vGuardColumn}, at.As32())
	VPBROADCASTD(Mem{Base: v, Index: i, Scale: 4, Disp: vGuardMask}, mask)
	VPANDD(Mem{Base: columns, Index: at, Scale: 1}, mask, mask)
	VPCMPEQD_BCST(Mem{Base: v, Index: i, Scale: 4, Disp: vGuardValue}, mask, pass, pass)
	INCQ(i)
	CMPQ(i, m)
	JLT(LabelRef("guard"))
	KNOTW(pass, pass)
	VMOVDQU32(none, pass, Mem{Base: rows})
	Label("guarded")
	ADDQ(U32(16*keySize), keys)
	ADDQ(Imm(64), rows)
	SUBQ(Imm(16), left)
	JMP(LabelRef("keys"))
	Label("done")
	VZEROUPPER()
	RET()
}

// and512 intersects the rows of each key and finds the first bit, four keys at a
// time, without a branch on data. A word of a vector is taken out by a permutation:
// storing the vector and loading the word stalls on the store.
func and512() {
	function("and512", "func(v *byte, rows *uint32, n int, best *int32)")
	v := Load(Param("v"), GP64())
	rows := Load(Param("rows"), GP64())
	n := Load(Param("n"), GP64())
	best := Load(Param("best"), GP64())
	base, shape, lines := GP64(), GP32(), GP32()
	MOVQ(Mem{Base: v, Disp: vRows}, base)
	MOVL(Mem{Base: v, Disp: vGroups}, shape)
	MOVL(Mem{Base: v, Disp: vLines}, lines)
	for _, w := range []int{1, 2} {
		for groups := 1; groups <= 4; groups++ {
			name := fmt.Sprintf("lines%dgroups%d", w, groups)
			CMPL(lines, U32(uint32(w)))
			JNE(LabelRef("not" + name))
			CMPL(shape, U32(uint32(groups)))
			JNE(LabelRef("not" + name))
			Label(name)
			for u := range 4 {
				z := []VecVirtual{ZMM(), ZMM()}
				for g := range groups {
					row := GP64()
					MOVL(Mem{Base: rows, Disp: columnSize*g + 4*u}, row.As32())
					for line := range w {
						m := Mem{Base: base, Index: row, Scale: 1, Disp: 64 * line}
						if g == 0 {
							VMOVDQU64(m, z[line])
						} else {
							VPANDQ(m, z[line], z[line])
						}
					}
				}
				k, bits, index, word := K(), GP64(), XMM(), GP64()
				VPTESTMQ(z[0], z[0], k)
				if w == 1 {
					KMOVB(k, bits.As32())
				} else {
					upper := K()
					VPTESTMQ(z[1], z[1], upper)
					KUNPCKBW(k, upper, k)
					KMOVW(k, bits.As32())
				}
				TZCNTL(bits.As32(), bits.As32())
				VMOVD(bits.As32(), index)
				if w == 1 {
					VPERMQ(z[0], index.AsZ(), z[0])
				} else {
					VPERMT2Q(z[1], index.AsZ(), z[0])
				}
				VMOVQ(z[0].AsX(), word)
				TZCNTQ(word, word)
				SHLQ(Imm(6), bits)
				ADDQ(word, bits)
				MOVL(bits.As32(), Mem{Base: best, Disp: 4 * u})
			}
			ADDQ(Imm(16), rows)
			ADDQ(Imm(16), best)
			SUBQ(Imm(4), n)
			JG(LabelRef(name))
			VZEROUPPER()
			RET()
			Label("not" + name)
		}
	}
	VZEROUPPER()
	RET()
}
