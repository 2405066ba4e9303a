package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// scanner writes scan512 and scan256: compare the buckets found with their keys, up to
// 16 rules in one step, in one vector or in two. All
// that is decided by data is decided without branches, except for a bucket of more
// than one chunk: a branch that is missed costs as much as two buckets. Rows beyond
// the end of a chunk are computed and then masked; the arena's padding is there for
// them.
//
// Up to maxStraight ternary columns there is one straight piece of code for each
// number; tables with more have a loop.
const maxStraight = 4

func scanner(bits int) {
	function(fmt.Sprintf("scan%d", bits), "func(t *byte, keys *uint64, best *byte, found *byte, n int)")
	t := Load(Param("t"), GP64())
	found := Load(Param("found"), GP64())
	end := Load(Param("n"), GP64())
	LEAQ(Mem{Base: found, Index: end, Scale: 4}, end)
	at, out, arena := GP64(), GP64(), GP64()
	MOVQ(found, at)
	LEAQ(Mem{Base: found, Disp: foundAt}, out)
	MOVQ(Mem{Base: t, Disp: tArena}, arena)
	Label("prefetch")
	CMPQ(at, end)
	JGE(LabelRef("prefetched"))
	p, part := GP64(), GP64()
	MOVL(Mem{Base: at, Disp: foundHead}, p.As32())
	MOVL(p.As32(), part.As32())
	ANDL(U32(offsetMask), part.As32())
	SHRL(Imm(arenaBits), part.As32())
	LEAQ(Mem{Base: part, Index: part, Scale: 2}, part) // a slice has three words
	ANDL(U32(1<<arenaBits-1), p.As32())
	SHLQ(Imm(4), p)
	ADDQ(Mem{Base: arena, Index: part, Scale: 8}, p)
	MOVQ(p, Mem{Base: out})
	for line := range 3 {
		PREFETCHT0(Mem{Base: p, Disp: 64 * line})
	}
	ADDQ(Imm(4), at)
	ADDQ(Imm(8), out)
	JMP(LabelRef("prefetch"))
	Label("prefetched")
	MOVQ(end, NewParamAddr("n", 32)) // registers are scarce: the argument now holds the end

	ternary, ranges := GP32(), GP32()
	MOVL(Mem{Base: t, Disp: tTernary}, ternary)
	MOVL(Mem{Base: t, Disp: tRanges}, ranges)
	LEAQ(Mem{Base: found, Disp: foundAt}, out)
	s := scan{t, found, out, bits}
	for columns := 1; columns <= maxStraight; columns++ {
		name := string(rune('0' + columns))
		CMPL(ternary, U32(columns))
		JNE(LabelRef("not" + name))
		TESTL(ranges, ranges)
		JNZ(LabelRef("ranges" + name))
		s.loop("plain"+name, columns, false)
		Label("ranges" + name)
		s.loop("ranged"+name, columns, true)
		Label("not" + name)
	}
	TESTL(ranges, ranges)
	JNZ(LabelRef("rangesMany"))
	s.loop("plainMany", 0, false)
	Label("rangesMany")
	s.loop("rangedMany", 0, true)
}

type scan struct {
	t, found, at Register // at is where the address of the next bucket is
	bits         int
}

// loop is the scan for one shape of table; columns 0 is any number of them.
func (s scan) loop(name string, columns int, ranges bool) {
	Label(name)
	CMPQ(s.found, NewParamAddr("n", 32))
	JGE(LabelRef(name + "Done"))
	at, p, left, key, best, rule := GP64(), GP64(), GP64(), GP64(), GP64(), GP64()
	MOVL(Mem{Base: s.found}, key.As32())
	MOVQ(Mem{Base: s.at}, p)
	ADDQ(Imm(4), s.found)
	ADDQ(Imm(8), s.at)
	MOVQ(NewParamAddr("best", 16), at)
	LEAQ(Mem{Base: at, Index: key, Scale: 4}, at)
	SHLQ(Imm(6), key)
	ADDQ(NewParamAddr("keys", 8), key)
	MOVL(Mem{Base: at}, best.As32())
	MOVL(Mem{Base: at, Disp: bestRule}, rule.As32())
	MOVL(Mem{Base: p}, left.As32())
	ADDQ(Imm(4), p)

	Label(name + "Chunk")
	m, m4, q := GP64(), GP64(), GP64()
	MOVL(U32(chunk), m.As32())
	CMPQ(left, m)
	CMOVQLT(left, m)
	LEAQ(Mem{Base: p, Index: m, Scale: 8}, q)
	MOVQ(m, m4)
	SHLQ(Imm(2), m4)

	// Every row that differs in some column gets a bit in diff.
	c := newComparison(s.bits, key, q, m4)
	c.start()
	if columns == 0 {
		i, n, off := GP64(), GP64(), GP64()
		XORQ(i, i)
		MOVL(Mem{Base: s.t, Disp: tTernary}, n.As32())
		Label(name + "Column")
		MOVL(Mem{Base: s.t, Index: i, Scale: 4, Disp: tColumnOffset}, off.As32())
		c.ternary(off)
		INCQ(i)
		CMPQ(i, n)
		JLT(LabelRef(name + "Column"))
	}
	for i := range columns {
		off := GP64()
		MOVL(Mem{Base: s.t, Disp: tColumnOffset + 4*i}, off.As32())
		c.ternary(off)
	}
	if ranges {
		c.ranges()
	}
	hits, none, place := c.same(), GP64(), GP64()
	BZHIL(m.As32(), hits.As32(), hits.As32())
	MOVL(hits.As32(), none.As32())
	ORL(U32(1<<chunk), none.As32())
	TZCNTL(none.As32(), none.As32())
	LEAQ(Mem{Base: p, Index: none, Scale: 4}, none)
	MOVL(Mem{Base: none}, place.As32())
	TESTL(hits.As32(), hits.As32())
	CMOVLEQ(best.As32(), place.As32())
	CMPL(place.As32(), best.As32())
	CMOVLLT(place.As32(), best.As32())
	CMOVLLT(Mem{Base: none, Index: m4, Scale: 1}, rule.As32())
	MOVQ(q, p)
	SUBQ(m, left)
	JNZ(LabelRef(name + "More"))
	Label(name + "Store")
	MOVL(best.As32(), Mem{Base: at})
	MOVL(rule.As32(), Mem{Base: at, Disp: bestRule})
	JMP(LabelRef(name))
	Label(name + "More")
	CMPL(best.As32(), Mem{Base: p})
	JGT(LabelRef(name + "Chunk"))
	JMP(LabelRef(name + "Store"))
	Label(name + "Done")
	VZEROUPPER()
	RET()
}

// comparison compares the rows of a chunk with a key, column by column.
type comparison struct {
	key, q, m4 Register // q is the next column, m4 the size of half a column
	v, w       []VecVirtual
	diff       []VecVirtual
}

func newComparison(bits int, key, q, m4 Register) *comparison {
	c := &comparison{key: key, q: q, m4: m4}
	for range 512 / bits {
		vector := ZMM
		if bits == 256 {
			vector = YMM
		}
		c.v, c.w, c.diff = append(c.v, vector()), append(c.w, vector()), append(c.diff, vector())
	}
	return c
}

func (c *comparison) wide() bool { return len(c.diff) == 1 }

func (c *comparison) start() {
	for _, d := range c.diff {
		if c.wide() {
			VPXORD(d, d, d)
		} else {
			VPXOR(d, d, d)
		}
	}
}

// ternary compares the word at off in the key under masks.
func (c *comparison) ternary(off Register) {
	for i, d := range c.diff {
		value, mask := Mem{Base: c.q, Disp: 32 * i}, Mem{Base: c.q, Index: c.m4, Scale: 1, Disp: 32 * i}
		VPBROADCASTD(Mem{Base: c.key, Index: off, Scale: 1}, c.v[i])
		if c.wide() {
			VPXORD(value, c.v[i], c.v[i])
			VPTERNLOGD(Imm(0xf8), mask, c.v[i], d) // d | v&mask
		} else {
			VPXOR(value, c.v[i], c.v[i])
			VPAND(mask, c.v[i], c.v[i])
			VPOR(c.v[i], d, d)
		}
	}
	LEAQ(Mem{Base: c.q, Index: c.m4, Scale: 2}, c.q)
}

// ranges compares both ports: what lies above the lowest by more than the width is
// not the smaller of the two.
func (c *comparison) ranges() {
	for i, d := range c.diff {
		low, width := Mem{Base: c.q, Disp: 32 * i}, Mem{Base: c.q, Index: c.m4, Scale: 1, Disp: 32 * i}
		VPBROADCASTD(Mem{Base: c.key, Disp: portOffset}, c.v[i])
		VPSUBW(low, c.v[i], c.v[i])
		VPMINUW(width, c.v[i], c.w[i])
		if c.wide() {
			VPTERNLOGD(Imm(0xf6), c.w[i], c.v[i], d) // d | v^w
		} else {
			VPXOR(c.w[i], c.v[i], c.v[i])
			VPOR(c.v[i], d, d)
		}
	}
	LEAQ(Mem{Base: c.q, Index: c.m4, Scale: 2}, c.q)
}

// same returns a bit for each row without a difference.
func (c *comparison) same() GPVirtual {
	hits := GP64()
	if c.wide() {
		k := K()
		VPTESTNMD(c.diff[0], c.diff[0], k)
		KMOVW(k, hits.As32())
		return hits
	}
	zero, upper := YMM(), GP64()
	VPXOR(zero, zero, zero)
	VPCMPEQD(zero, c.diff[0], c.diff[0])
	VPCMPEQD(zero, c.diff[1], c.diff[1])
	VMOVMSKPS(c.diff[0], hits.As32())
	VMOVMSKPS(c.diff[1], upper.As32())
	SHLL(Imm(8), upper.As32())
	ORL(upper.As32(), hits.As32())
	return hits
}
