package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets of the fields of kernel.Classes; the package's test compares them.
const (
	cTables     = 0
	cQuads      = 24
	cGroups     = 28
	cRow        = 32
	cNone       = 36
	cWord       = 40
	cPick       = cWord + 64
	cGuardMask  = cPick + 4*64
	cGuardValue = cGuardMask + 64
	cGroup      = cGuardValue + 64
	cPart       = cGroup + 4*groupSize

	groupSize  = 12
	groupParts = 0
	groupCross = 4
	groupBase  = 8

	partSize   = 48
	partColumn = 0
	partLevels = 4
	partBase   = 8
	partFactor = 12
	partRotate = 16
	partMask   = 32
	maxLevels  = 4

	unrolled = 4 // times sixteen keys that classes512 works on at a time
)

// classes512 chooses for 16 keys at a time, part by part: transpose the words that are
// looked at into columns, and for each part go through all keys.
//
// Gathers are most of a lookup. One takes seven cycles if what it waits for is there, but
// its sixteen loads wait in a queue that holds four gathers; so chains of gathers have to
// be interleaved by hand: 64 keys take a level of a tree before any takes the next.
// That is 0.5 ns a key faster than sixteen keys after each other, and going through
// all parts of sixteen keys before the next sixteen is slower still. Up to five other
// operations for each gather cost nothing.
//
// Words are taken out of whole keys by permutations, 16 of them for four words. Guards
// cost an operation for each key, and a loop where a key of the sixteen fails.
func classes512() {
	function("classes512", "func(c *byte, keys *uint64, groups int, columns *uint32, chosen *uint32)")
	c, keys := Load(Param("c"), GP64()), Load(Param("keys"), GP64())
	columns := Load(Param("columns"), GP64())
	left := Load(Param("groups"), GP64())
	pick, guard, mask, upper, half := ZMM(), ZMM(), ZMM(), K(), GP32()
	VMOVDQU32(Mem{Base: c, Disp: cGuardValue}, guard)
	VMOVDQU32(Mem{Base: c, Disp: cGuardMask}, mask)
	MOVL(U32(0xcccc), half)
	KMOVW(half, upper)
	failed := GP64()
	XORQ(failed, failed)

	Label("keys")
	differ, fails := ZMM(), K()
	VPXORD(differ, differ, differ)
	quad, quads, out := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: c, Disp: cPick}, quad)
	MOVL(Mem{Base: c, Disp: cQuads}, quads.As32())
	MOVQ(columns, out)
	VMOVDQU32(Mem{Base: quad}, pick)
	transpose(keys, out, pick, upper, func(key Register) {
		VPTERNLOGD(Imm(0xf6), guard, key, differ) // differ | (key ^ guard)
	})
	Label("quad")
	DECQ(quads)
	JZ(LabelRef("transposed"))
	ADDQ(Imm(64), quad)
	ADDQ(U32(4*columnSize), out)
	VMOVDQU32(Mem{Base: quad}, pick)
	transpose(keys, out, pick, upper, nil)
	JMP(LabelRef("quad"))
	Label("transposed")
	VPTESTMD(mask, differ, fails)
	bits := GP64()
	KMOVW(fails, bits.As32())
	ADDQ(bits, failed)
	ADDQ(U32(16*keySize), keys)
	ADDQ(Imm(64), columns)
	DECQ(left)
	JNZ(LabelRef("keys"))

	s := classifier512{c: c, tables: GP64(), columns: columns, chosen: GP64(), part: GP64(), end: NewParamAddr("groups", 16),
		low16: broadcast512(0xffff), row: ZMM(), zero: broadcast512(0), all: K()}
	KXNORW(s.all, s.all, s.all)
	Load(Param("columns"), s.columns)
	Load(Param("chosen"), s.chosen)
	SHLQ(Imm(6), s.end) // registers are scarce: the argument now holds the end
	MOVQ(Mem{Base: c, Disp: cTables}, s.tables)
	VPBROADCASTD(Mem{Base: c, Disp: cRow}, s.row)
	LEAQ(Mem{Base: c, Disp: cPart}, s.part)
	group, groups, parts := GP64(), GP64(), GP32()
	LEAQ(Mem{Base: c, Disp: cGroup}, group)
	MOVL(Mem{Base: c, Disp: cGroups}, groups.As32())

	Label("group")
	cross, base := GP64(), ZMM()
	MOVL(Mem{Base: group, Disp: groupCross}, cross.As32())
	ADDQ(s.tables, cross)
	VPBROADCASTD(Mem{Base: group, Disp: groupBase}, base)
	place := func(class VecVirtual, at Mem) {
		VPANDD(s.low16, class, class)
		VPMULLD(s.row, class, class)
		VPADDD(base, class, class)
		VMOVDQU32(class, at)
	}
	MOVL(Mem{Base: group, Disp: groupParts}, parts)
	DECL(parts)
	JZ(LabelRef("one"))
	i := GP64()
	XORQ(i, i)
	Label("clear")
	for u := range unrolled {
		VMOVDQU32(s.zero, Mem{Base: s.chosen, Index: i, Scale: 1, Disp: 64 * u})
	}
	ADDQ(U32(64*unrolled), i)
	CMPQ(i, s.end)
	JLT(LabelRef("clear"))
	Label("more")
	s.each("middle", func(class VecVirtual, at Mem) {
		VPMADDWD(s.factor, class, class)
		VPADDD(at, class, class)
		VMOVDQU32(class, at)
	})
	DECL(parts)
	JNZ(LabelRef("more"))
	s.each("last", func(class VecVirtual, at Mem) {
		VPMADDWD(s.factor, class, class)
		VPADDD(at, class, class)
		combined := s.gather(cross, class, 2)
		place(combined, at)
	})
	JMP(LabelRef("next"))
	Label("one")
	s.each("one", place)
	Label("next")
	ADDQ(U32(columnSize), s.chosen)
	ADDQ(Imm(groupSize), group)
	DECQ(groups)
	JNZ(LabelRef("group"))

	TESTQ(failed, failed)
	JZ(LabelRef("done"))
	n, chosen := GP64(), GP64()
	Load(Param("keys"), keys)
	Load(Param("chosen"), chosen)
	Load(Param("groups"), n)
	SHRQ(Imm(2), n)
	none := GP32()
	MOVL(Mem{Base: c, Disp: cNone}, none)
	Label("key")
	was := GP32()
	VPXORD(Mem{Base: keys}, guard, differ)
	VPTESTMD(mask, differ, fails)
	KMOVW(fails, bits.As32())
	MOVL(Mem{Base: chosen}, was)
	TESTL(bits.As32(), bits.As32())
	CMOVLNE(none, was)
	MOVL(was, Mem{Base: chosen})
	ADDQ(Imm(keySize), keys)
	ADDQ(Imm(4), chosen)
	DECQ(n)
	JNZ(LabelRef("key"))
	Label("done")
	VZEROUPPER()
	RET()
}

// transpose writes four words of sixteen keys as columns; each is called with every
// key.
func transpose(keys, out Register, pick VecVirtual, upper OpmaskVirtual, each func(key Register)) {
	var four [4]VecVirtual // each has the four words of four keys, word by word
	for i := range four {
		var pair [2]VecVirtual
		for j := range pair {
			pair[j] = ZMM()
			second := ZMM()
			VMOVDQU64(Mem{Base: keys, Disp: keySize * (4*i + 2*j)}, pair[j])
			VMOVDQU64(Mem{Base: keys, Disp: keySize * (4*i + 2*j + 1)}, second)
			if each != nil {
				each(pair[j])
				each(second)
			}
			VPERMT2D(second, pick, pair[j])
		}
		VMOVDQA32(pair[1], upper, pair[0])
		four[i] = pair[0]
	}
	var halves [4]VecVirtual
	for i := range 2 {
		halves[2*i], halves[2*i+1] = ZMM(), ZMM()
		VSHUFI32X4(Imm(0x44), four[2*i+1], four[2*i], halves[2*i])
		VSHUFI32X4(Imm(0xee), four[2*i+1], four[2*i], halves[2*i+1])
	}
	for i := range 4 {
		word := ZMM()
		VSHUFI32X4(Imm([]uint64{0x88, 0xdd}[i%2]), halves[2+i/2], halves[i/2], word)
		VMOVDQU32(word, Mem{Base: out, Disp: columnSize * i})
	}
}

// classifier512 is the registers of classes512.
type classifier512 struct {
	c, tables, columns, chosen, part Register
	end                              Mem // where the bytes of a column that is used are
	low16, row, zero, factor         VecVirtual
	all                              OpmaskVirtual
}

// gather reads an element, and what is behind it, for each lane.
func (s *classifier512) gather(from Register, index VecVirtual, scale uint8) VecVirtual {
	k, to := K(), ZMM()
	KMOVW(s.all, k)
	VMOVDQA64(s.zero, to)
	VPGATHERDD(Mem{Base: from, Index: index, Scale: scale}, k, to)
	return to
}

// each finds the classes of a part of all keys, and then calls f with sixteen of them,
// with more bits above them, and where the choices of their keys are.
func (s *classifier512) each(name string, f func(class VecVirtual, at Mem)) {
	column, first, i := GP64(), GP64(), GP64()
	MOVL(Mem{Base: s.part, Disp: partColumn}, column.As32())
	ADDQ(s.columns, column)
	MOVL(Mem{Base: s.part, Disp: partBase}, first.As32())
	ADDQ(s.tables, first)
	load := func(disp int) VecVirtual {
		z := ZMM()
		VPBROADCASTD(Mem{Base: s.part, Disp: disp}, z)
		return z
	}
	var rotate, mask [maxLevels]VecVirtual
	for level := range maxLevels {
		rotate[level], mask[level] = load(partRotate+4*level), load(partMask+4*level)
	}
	s.factor = load(partFactor)
	for levels := 1; levels <= maxLevels; levels++ {
		loop, next := fmt.Sprint(name, levels), fmt.Sprint(name, "Not", levels)
		CMPL(Mem{Base: s.part, Disp: partLevels}, Imm(uint64(levels)))
		JNE(LabelRef(next))
		XORQ(i, i)
		Label(loop)
		var words, classes [unrolled]VecVirtual
		for u := range unrolled {
			word, at := ZMM(), ZMM()
			VMOVDQU32(Mem{Base: column, Index: i, Scale: 1, Disp: 64 * u}, word)
			VPRORVD(rotate[0], word, at)
			VPANDD(mask[0], at, at)
			if levels == 1 {
				VPRORVD(rotate[1], word, word)
				VPTERNLOGD(Imm(0xf8), mask[1], word, at) // at | (word & mask)
			}
			words[u], classes[u] = word, s.gather(first, at, 1)
		}
		for level := 1; level < levels; level++ {
			for u, word := range words {
				offset := ZMM()
				VPRORVD(rotate[level], word, offset)
				VPANDD(mask[level], offset, offset)
				VPANDD(s.low16, classes[u], classes[u])
				VPSLLD(Imm(6), classes[u], classes[u])
				VPADDD(offset, classes[u], classes[u])
				classes[u] = s.gather(s.tables, classes[u], 1)
			}
		}
		for u, class := range classes {
			f(class, Mem{Base: s.chosen, Index: i, Scale: 1, Disp: 64 * u})
		}
		ADDQ(U32(64*unrolled), i)
		CMPQ(i, s.end)
		JLT(LabelRef(loop))
		Label(next)
	}
	ADDQ(Imm(partSize), s.part)
}
