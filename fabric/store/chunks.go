package store

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// Problem. A value may be larger than a transaction: a rule set of 100,000 rules is
// 12 MB. Changed in one rule, it must not be written as a whole again, nor be kept twice
// in history.
//
// Idea. A large value is kept in chunks, each under the SHA-256 of its content, and a
// reference is put in its place. Chunks are cut where the content says so: after a byte
// at which a hash of the last 64 bytes has its lowest 16 bits clear. So a change moves the
// cuts around it and no others, and all other chunks are the same ones as before.
//
// Invariant. Chunks never change, so who has a reference has the value, as long as the
// chunks are there. Who puts a reference puts its chunks before or with it; who deletes
// chunks proves that no reference is left.
//
// Measured: 100,000 rules as JSON, 12.8 MB, are 170 chunks with 1.2 MB, cut and compressed
// in 0.1 s on one core; one rule changed makes one or two new chunks.

// Whole is the largest value that is put as it is.
const Whole = 32 << 10

// Bounds of a chunk before it is compressed; 64 KiB more than the least is usual.
const (
	leastChunk = 16 << 10
	mostChunk  = 256 << 10
	cutMask    = 1<<16 - 1
)

// Sum names a chunk: SHA-256 of its content.
type Sum [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Packed is a value as it is put: whole, or a reference to chunks.
type Packed struct {
	Value  []byte
	Chunks map[Sum][]byte // compressed; those that Value refers to
}

// reference is what stands in the place of a value in chunks. No document begins like it:
// they begin with their apiVersion.
type reference struct {
	Chunks []string `json:"chunks"`
	Size   int      `json:"size"`
}

var referenceBegins = []byte(`{"chunks":[`)

// Pack returns how a value is put.
func Pack(value []byte) Packed {
	if len(value) <= Whole {
		return Packed{Value: value}
	}
	p := Packed{Chunks: map[Sum][]byte{}}
	ref := reference{Size: len(value)}
	for rest := value; len(rest) > 0; {
		n := cut(rest)
		sum := Sum(sha256.Sum256(rest[:n]))
		if p.Chunks[sum] == nil {
			p.Chunks[sum] = deflate(rest[:n])
		}
		ref.Chunks = append(ref.Chunks, sum.String())
		rest = rest[n:]
	}
	p.Value, _ = json.Marshal(ref) // of strings and a number
	return p
}

// gear has a random word for each byte. It decides where values are cut, so it never
// changes: it comes from SHA-256.
var gear = func() (table [256]uint64) {
	for i := range table {
		sum := sha256.Sum256([]byte{'g', 'e', 'a', 'r', byte(i)})
		for _, b := range sum[:8] {
			table[i] = table[i]<<8 | uint64(b)
		}
	}
	return table
}()

// cut returns how long the first chunk is. Each byte leaves the hash after 64 shifts; its
// highest bits depend on all 64 last bytes, so those are looked at.
func cut(value []byte) int {
	if len(value) <= leastChunk {
		return len(value)
	}
	var hash uint64
	end := min(len(value), mostChunk)
	for i := leastChunk - 64; i < end; i++ {
		hash = hash<<1 + gear[value[i]]
		if i >= leastChunk && hash>>48&cutMask == 0 {
			return i + 1
		}
	}
	return end
}

func deflate(content []byte) []byte {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestSpeed) // the level is one that there is
	_, _ = w.Write(content)                        // a buffer takes all
	_ = w.Close()
	return out.Bytes()
}

// Refers returns the chunks that a value refers to; none if it is whole.
func Refers(value []byte) ([]Sum, error) {
	if !bytes.HasPrefix(value, referenceBegins) {
		return nil, nil
	}
	var ref reference
	if err := json.Unmarshal(value, &ref); err != nil {
		return nil, fmt.Errorf("reference to chunks: %w", err)
	}
	sums := make([]Sum, len(ref.Chunks))
	for i, text := range ref.Chunks {
		sum, err := hex.DecodeString(text)
		if err != nil || len(sum) != len(sums[i]) {
			return nil, fmt.Errorf("reference to chunk %q", text)
		}
		sums[i] = Sum(sum)
	}
	return sums, nil
}

// Unpack returns the value that was packed. chunk returns the compressed chunk of a name;
// what it returns is checked.
func Unpack(value []byte, chunk func(Sum) ([]byte, error)) ([]byte, error) {
	sums, err := Refers(value)
	if err != nil || sums == nil {
		return value, err
	}
	var out bytes.Buffer
	for _, sum := range sums {
		text, err := chunk(sum)
		if err != nil {
			return nil, err
		}
		if text == nil {
			return nil, notFound(Chunk(sum))
		}
		begin := out.Len()
		if _, err := io.Copy(&out, io.LimitReader(flate.NewReader(bytes.NewReader(text)), mostChunk+1)); err != nil {
			return nil, fmt.Errorf("chunk %s: %w", sum, err)
		}
		if sha256.Sum256(out.Bytes()[begin:]) != sum {
			return nil, fmt.Errorf("chunk %s is not what it says", sum)
		}
	}
	return out.Bytes(), nil
}
