package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Offsets of the fields of kernel.Vectors; the package's test compares them.
const (
	vRows   = 0
	vGroups = 24
	vLines  = 28
)

// rowsOf is where the inside of a loop over keys finds what it works on.
type rowsOf struct {
	groups, lines int // of a row, known when the code is made
	base          reg.GPVirtual
	rows, best    reg.Register // of the keys
}

// eachShape makes a loop over keys for each number of groups and lines that vectors can
// have; inside answers as many keys as a step has. A kernel takes the one for its v.
func eachShape(step int, inside func(r rowsOf)) {
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
			inside(rowsOf{groups, w, base, rows, best})
			ADDQ(Imm(uint64(4*step)), rows)
			ADDQ(Imm(uint64(4*step)), best)
			if step == 1 {
				DECQ(n)
			} else {
				SUBQ(Imm(uint64(step)), n)
			}
			JG(LabelRef(name))
			VZEROUPPER()
			RET()
			Label("not" + name)
		}
	}
	VZEROUPPER()
	RET()
}

// and512 intersects the rows of each key and finds the first bit, four keys at a
// time, without a branch on data. A word of a vector is taken out by a permutation:
// storing the vector and loading the word stalls on the store.
func and512() {
	function("and512", "func(v *byte, rows *uint32, n int, best *int32)")
	eachShape(4, func(r rowsOf) {
		for u := range 4 {
			z := []reg.VecVirtual{ZMM(), ZMM()}
			for g := range r.groups {
				row := GP64()
				MOVL(Mem{Base: r.rows, Disp: columnSize*g + 4*u}, row.As32())
				for line := range r.lines {
					m := Mem{Base: r.base, Index: row, Scale: 1, Disp: 64 * line}
					if g == 0 {
						VMOVDQU64(m, z[line])
					} else {
						VPANDQ(m, z[line], z[line])
					}
				}
			}
			k, bits, index, word := K(), GP64(), XMM(), GP64()
			VPTESTMQ(z[0], z[0], k)
			if r.lines == 1 {
				KMOVB(k, bits.As32())
			} else {
				upper := K()
				VPTESTMQ(z[1], z[1], upper)
				KUNPCKBW(k, upper, k)
				KMOVW(k, bits.As32())
			}
			TZCNTL(bits.As32(), bits.As32())
			VMOVD(bits.As32(), index)
			if r.lines == 1 {
				VPERMQ(z[0], index.AsZ(), z[0])
			} else {
				VPERMT2Q(z[1], index.AsZ(), z[0])
			}
			VMOVQ(z[0].AsX(), word)
			TZCNTQ(word, word)
			SHLQ(Imm(6), bits)
			ADDQ(word, bits)
			MOVL(bits.As32(), Mem{Base: r.best, Disp: 4 * u})
		}
	})
}
