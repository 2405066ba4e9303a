package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// classes256 is classes512 with 8 keys at a time, 32 of which take a level together.
// Words of keys are gathered: AVX2 has no permutation that takes words out of two
// keys.
func classes256(lanes Mem) {
	function("classes256", "func(c *byte, keys *uint64, groups int, columns *uint32, chosen *uint32)")
	c, keys := Load(Param("c"), GP64()), Load(Param("keys"), GP64())
	columns := Load(Param("columns"), GP64())
	eights := Load(Param("groups"), GP64())
	SHLQ(Imm(1), eights)
	lane, failed := YMM(), GP64()
	VMOVDQU(lanes, lane)
	VPSLLD(Imm(6), lane, lane)
	XORQ(failed, failed)

	Label("keys")
	differ := [2]VecVirtual{YMM(), YMM()}
	for h := range differ {
		VPXOR(differ[h], differ[h], differ[h])
	}
	for key := range 8 {
		for h := range differ {
			d := YMM()
			VMOVDQU(Mem{Base: keys, Disp: keySize*key + 32*h}, d)
			VPXOR(Mem{Base: c, Disp: cGuardValue + 32*h}, d, d)
			VPOR(d, differ[h], differ[h])
		}
	}
	for h := range differ {
		VPAND(Mem{Base: c, Disp: cGuardMask + 32*h}, differ[h], differ[h])
	}
	VPOR(differ[0], differ[1], differ[1])
	bits := GP64()
	VPMOVMSKB(nonzero(differ[1]), bits.As32())
	ORQ(bits, failed)
	word, words, at, out := GP64(), GP64(), GP64(), GP64()
	LEAQ(Mem{Base: c, Disp: cWord}, word)
	MOVL(Mem{Base: c, Disp: cQuads}, words.As32())
	SHLQ(Imm(2), words)
	MOVQ(columns, out)
	Label("word")
	MOVL(Mem{Base: word}, at.As32())
	LEAQ(Mem{Base: keys, Index: at, Scale: 4}, at)
	v, k := YMM(), YMM()
	VPCMPEQD(k, k, k)
	VPXOR(v, v, v)
	VPGATHERDD(k, Mem{Base: at, Index: lane, Scale: 1}, v)
	VMOVDQU(v, Mem{Base: out})
	ADDQ(Imm(4), word)
	ADDQ(U32(columnSize), out)
	DECQ(words)
	JNZ(LabelRef("word"))
	ADDQ(U32(8*keySize), keys)
	ADDQ(Imm(32), columns)
	DECQ(eights)
	JNZ(LabelRef("keys"))

	s := classifier256{c: c, tables: GP64(), columns: columns, chosen: GP64(), part: GP64(), end: NewParamAddr("groups", 16)}
	Load(Param("columns"), s.columns)
	Load(Param("chosen"), s.chosen)
	SHLQ(Imm(6), s.end) // registers are scarce: the argument now holds the end
	MOVQ(Mem{Base: c, Disp: cTables}, s.tables)
	LEAQ(Mem{Base: c, Disp: cPart}, s.part)
	group, groups, parts := GP64(), GP64(), GP32()
	LEAQ(Mem{Base: c, Disp: cGroup}, group)
	MOVL(Mem{Base: c, Disp: cGroups}, groups.As32())

	Label("group")
	cross := GP64()
	MOVL(Mem{Base: group, Disp: groupCross}, cross.As32())
	ADDQ(s.tables, cross)
	place := func(class VecVirtual, at Mem) {
		t := YMM()
		VPSLLD(Imm(16), class, class)
		VPSRLD(Imm(16), class, class)
		VPBROADCASTD(Mem{Base: c, Disp: cRow}, t)
		VPMULLD(t, class, class)
		VPBROADCASTD(Mem{Base: group, Disp: groupBase}, t)
		VPADDD(t, class, class)
		VMOVDQU(class, at)
	}
	add := func(class VecVirtual, at Mem) {
		t := YMM()
		VPBROADCASTD(Mem{Base: s.part, Disp: partFactor}, t)
		VPMADDWD(t, class, class)
		VPADDD(at, class, class)
	}
	MOVL(Mem{Base: group, Disp: groupParts}, parts)
	DECL(parts)
	JZ(LabelRef("one"))
	i, zero := GP64(), YMM()
	XORQ(i, i)
	VPXOR(zero, zero, zero)
	Label("clear")
	for u := range unrolled {
		VMOVDQU(zero, Mem{Base: s.chosen, Index: i, Scale: 1, Disp: 32 * u})
	}
	ADDQ(U32(32*unrolled), i)
	CMPQ(i, s.end)
	JLT(LabelRef("clear"))
	Label("more")
	s.each("middle", func(class VecVirtual, at Mem) {
		add(class, at)
		VMOVDQU(class, at)
	})
	DECL(parts)
	JNZ(LabelRef("more"))
	s.each("last", func(class VecVirtual, at Mem) {
		add(class, at)
		place(s.gather(cross, class, 2), at)
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
	var half [2]VecVirtual
	for h := range half {
		half[h] = YMM()
		VMOVDQU(Mem{Base: keys, Disp: 32 * h}, half[h])
		VPXOR(Mem{Base: c, Disp: cGuardValue + 32*h}, half[h], half[h])
		VPAND(Mem{Base: c, Disp: cGuardMask + 32*h}, half[h], half[h])
	}
	VPOR(half[0], half[1], half[1])
	was := GP32()
	MOVL(Mem{Base: chosen}, was)
	VPTEST(half[1], half[1])
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

// nonzero returns a vector with all bits set where the 32 bits of v are not zero.
func nonzero(v VecVirtual) VecVirtual {
	zero, ones := YMM(), YMM()
	VPXOR(zero, zero, zero)
	VPCMPEQD(zero, v, v)
	VPCMPEQD(ones, ones, ones)
	VPXOR(ones, v, v)
	return v
}

// classifier256 is the registers of classes256.
type classifier256 struct {
	c, tables, columns, chosen, part Register
	end                              Mem // where the bytes of a column that is used are
}

// gather reads an element, and what is behind it, for each lane.
func (s *classifier256) gather(from Register, index VecVirtual, scale uint8) VecVirtual {
	k, to := YMM(), YMM()
	VPCMPEQD(k, k, k)
	VPXOR(to, to, to)
	VPGATHERDD(k, Mem{Base: from, Index: index, Scale: scale}, to)
	return to
}

// each finds the classes of a part of all keys, and then calls f with eight of them,
// with more bits above them, and where the choices of their keys are.
func (s *classifier256) each(name string, f func(class VecVirtual, at Mem)) {
	column, first, i := GP64(), GP64(), GP64()
	MOVL(Mem{Base: s.part, Disp: partColumn}, column.As32())
	ADDQ(s.columns, column)
	MOVL(Mem{Base: s.part, Disp: partBase}, first.As32())
	ADDQ(s.tables, first)
	// offset returns how to find the offsets of a level in words.
	offset := func(level int) func(word VecVirtual) VecVirtual {
		right, left, mask := YMM(), YMM(), YMM()
		VPBROADCASTD(Mem{Base: s.part, Disp: partRotate + 4*level}, right)
		VPCMPEQD(left, left, left)
		VPSRLD(Imm(31), left, left)
		VPSLLD(Imm(5), left, left)
		VPSUBD(right, left, left) // 32 less
		VPBROADCASTD(Mem{Base: s.part, Disp: partMask + 4*level}, mask)
		return func(word VecVirtual) VecVirtual {
			out, other := YMM(), YMM()
			VPSRLVD(right, word, out)
			VPSLLVD(left, word, other)
			VPOR(other, out, out)
			VPAND(mask, out, out)
			return out
		}
	}
	for levels := 1; levels <= maxLevels; levels++ {
		loop, next := fmt.Sprint(name, levels), fmt.Sprint(name, "Not", levels)
		CMPL(Mem{Base: s.part, Disp: partLevels}, Imm(uint64(levels)))
		JNE(LabelRef(next))
		XORQ(i, i)
		Label(loop)
		var classes [unrolled]VecVirtual
		load := func(u int) VecVirtual {
			word := YMM()
			VMOVDQU(Mem{Base: column, Index: i, Scale: 1, Disp: 32 * u}, word)
			return word
		}
		top := offset(0)
		for u := range unrolled {
			classes[u] = top(load(u))
		}
		if levels == 1 {
			low := offset(1)
			for u := range unrolled {
				VPOR(low(load(u)), classes[u], classes[u])
			}
		}
		for u := range unrolled {
			classes[u] = s.gather(first, classes[u], 1)
		}
		for level := 1; level < levels; level++ {
			next := offset(level)
			for u := range unrolled {
				VPSLLD(Imm(16), classes[u], classes[u])
				VPSRLD(Imm(10), classes[u], classes[u]) // 64 times the lower half
				VPADDD(next(load(u)), classes[u], classes[u])
				classes[u] = s.gather(s.tables, classes[u], 1)
			}
		}
		for u, class := range classes {
			f(class, Mem{Base: s.chosen, Index: i, Scale: 1, Disp: 32 * u})
		}
		ADDQ(U32(32*unrolled), i)
		CMPQ(i, s.end)
		JLT(LabelRef(loop))
		Label(next)
	}
	ADDQ(Imm(partSize), s.part)
}
