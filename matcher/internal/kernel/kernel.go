// Package kernel is the inner loops of a classifier: what is done for every batch
// of keys, in as many versions as there are lanes.
//
// A lookup is three steps. [Spread] copies the words of the keys that tables hash
// into columns, one lane for each key. [Probe] asks one hash table about all lanes
// and lists the buckets found. [Scan] compares each of those buckets with its key and
// keeps the best rule of each lane. Probe and Scan are repeated for every table, best
// table first, until no lane can improve.
//
// The functions in purego.go are the definition of the others: the assembly must
// give the same answers, and the test of this package compares them call by call. It
// is generated (see go:generate in amd64.go); read the generator, not its output.
//
// The package knows bits, not packets: which word is an address is none of its
// business. It never allocates and never keeps what it is given.
//
// A table may change while it is read, one head at a time: a bucket is complete
// before a head leads to it and does not change as long as somebody may read it.
package kernel

import (
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
)

const (
	// Lanes is the most keys that one call works on.
	Lanes = 256
	// Words is the number of 32-bit words in a key. Word 2i is the lower half of the
	// key's i-th 64 bits.
	Words = 2 * flow.Words
	// PortWord is the word that holds both ports, the only one with ranges.
	PortWord = 4
	// Chunk is the most rules that are compared in one step.
	Chunk = 16
	// Unit is the number of words that offsets of buckets count in.
	Unit = 4
	// Pad is the number of words that must follow the last bucket of a chunk of arena.
	Pad = 48
	// ArenaUnits is the number of units that one element of [Table.Arena] is for.
	ArenaUnits = 1 << 12
	// MaxUnits is the number of units that heads can tell apart.
	MaxUnits = 1 << 24
	// None is the place of the default: behind every rule.
	None = 1<<31 - 1

	offsetMask = MaxUnits - 1
	sharedTag  = 0xff
	multiplier = 0x9e3779b1
)

// Table is one hash table as the kernels read it. The assembly knows its layout.
type Table struct {
	// Heads is the buckets by the upper bits of the hash: 8 bits of tag, 24 bits of
	// offset in the arena, in units. Zero is no bucket. The tag is that of [Tag], or
	// sharedTag if different ones meet here.
	Heads []uint32
	// Arena is the buckets. That of offset o starts at word o%ArenaUnits*Unit of
	// Arena[o/ArenaUnits] and is whole there, however long it is. It is the number of its
	// rules and then chunks of m <= Chunk rules in their order, each chunk a column of m
	// places in the order of all rules, one of m rule numbers and, for each ternary
	// column, m values and m masks, and last, if there are ranges, m lowest ports and
	// m widths, both ports in one word.
	Arena [][]uint32

	Best    int32  // no rule in it has a lower place
	Shift   uint32 // a hash's head is hash >> Shift
	Hashed  uint32 // number of words hashed
	Guards  uint32 // number of words that are the same in all rules
	Ternary uint32 // number of columns with value and mask, at least 1
	Ranges  uint32 // 1 if there is a column of port ranges

	// Key words hashed and guarded, as byte offsets of their column in what Spread
	// writes, and as words of the key.
	HashColumn, HashMask               [Words]uint32
	GuardColumn, GuardMask, GuardValue [Words]uint32
	ColumnOffset                       [Words]uint32 // of ternary columns: byte offsets in a key
	HashWord, GuardWord, ColumnWord    [Words]uint8
}

// Found is the buckets that [Probe] found: the lane and the head of each.
type Found struct {
	Lane [Lanes + 16]uint32
	Head [Lanes + 16]uint32
	_    [Lanes]uintptr // where the assembly keeps the addresses it has worked out
}

// Best is what the lanes of a batch have found: for each the place of its rule, lower
// being better, and the rule's number.
type Best struct{ Place, Rule [Lanes]int32 }

// Column is one word of all keys of a batch.
type Column [Lanes]uint32

// Word returns a word of a key.
func Word(k *flow.Key, w uint8) uint32 { return uint32(k[w/2%flow.Words] >> (w % 2 * 32)) }

// mix hashes one more word.
func mix(h, word uint32) uint32 { return (h ^ h>>15 ^ word) * multiplier }

// Hash returns the hash of a key in t.
func (t *Table) Hash(k *flow.Key) uint32 {
	h := uint32(0)
	for i := range t.Hashed {
		h = mix(h, Word(k, t.HashWord[i%Words])&t.HashMask[i%Words])
	}
	return h ^ h>>15
}

// Tag returns the part of a hash that heads remember.
func Tag(hash uint32) uint32 { return min(hash&0xff, sharedTag-1) }

// Head makes a head. A tag that is not the tag of all keys is sharedTag.
func Head(offset uint32, tags ...uint32) uint32 {
	tag := tags[0]
	for _, t := range tags {
		if t != tag {
			tag = sharedTag
		}
	}
	return tag<<24 | offset&offsetMask
}

// Offset returns the offset of a head's bucket.
func Offset(head uint32) uint32 { return head & offsetMask }

// Find returns the head of the bucket that k falls into, or 0.
func (t *Table) Find(k *flow.Key) uint32 {
	for i := range t.Guards {
		if Word(k, t.GuardWord[i%Words])&t.GuardMask[i%Words] != t.GuardValue[i%Words] {
			return 0
		}
	}
	hash := t.Hash(k)
	head := atomic.LoadUint32(&t.Heads[hash>>t.Shift])
	if tag := head >> 24; tag == Tag(hash) || tag == sharedTag {
		return head
	}
	return 0
}

// Bucket returns the bucket of head and what follows it.
func (t *Table) Bucket(head uint32) []uint32 {
	at := head & offsetMask
	return t.Arena[at/ArenaUnits][at%ArenaUnits*Unit:]
}

// Search returns place and number of the best rule in the bucket of head that k
// matches, or what it is given if none has a lower place.
func (t *Table) Search(head uint32, k *flow.Key, place, rule int32) (int32, int32) {
	bucket := t.Bucket(head)
	left := int(bucket[0])
	chunk := bucket[1:]
	columns := t.ColumnWord[:t.Ternary]
	for left > 0 {
		m := min(left, Chunk)
		left -= m
	rules:
		for i, p := range chunk[:m] {
			if int32(p) >= place {
				return place, rule
			}
			row := chunk[2*m+i:]
			for _, w := range columns {
				if (Word(k, w)^row[0])&row[m] != 0 {
					continue rules
				}
				row = row[2*m:]
			}
			if t.Ranges != 0 && !within(Word(k, PortWord), row[0], row[m]) {
				continue
			}
			return int32(p), int32(chunk[m+i])
		}
		chunk = chunk[m*t.RuleWords():]
	}
	return place, rule
}

// within reports whether both halves of ports are in their ranges.
func within(ports, low, width uint32) bool {
	return uint16(ports)-uint16(low) <= uint16(width) && uint16(ports>>16)-uint16(low>>16) <= uint16(width>>16)
}

// RuleWords returns the number of arena words for each rule.
func (t *Table) RuleWords() int { return 2 + 2*int(t.Ternary+t.Ranges) }

// Rules calls f for place and number of the rules of the bucket of head, best first,
// until it returns false.
func (t *Table) Rules(head uint32, f func(place, rule int32) bool) {
	bucket := t.Bucket(head)
	left := int(bucket[0])
	chunk := bucket[1:]
	for left > 0 {
		m := min(left, Chunk)
		for i, place := range chunk[:m] {
			if !f(int32(place), int32(chunk[m+i])) {
				return
			}
		}
		left -= m
		chunk = chunk[m*t.RuleWords():]
	}
}

// Size returns the number of rules in the bucket of head.
func (t *Table) Size(head uint32) int { return int(t.Bucket(head)[0]) }
