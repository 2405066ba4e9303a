package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// from takes chunks out of a packed value, and counts them.
func (p Packed) from(t interface{ Errorf(string, ...any) }) func(Sum) ([]byte, error) {
	return func(sum Sum) ([]byte, error) {
		if p.Chunks[sum] == nil {
			t.Errorf("chunk %s is not there", sum)
		}
		return p.Chunks[sum], nil
	}
}

// TestPack: what is unpacked is what was packed, and every chunk is in its bounds.
func TestPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		value := make([]byte, rapid.SampledFrom([]int{0, 1, Whole - 1, Whole, Whole + 1, leastChunk, 2 * leastChunk, mostChunk, mostChunk + 1, 3*mostChunk + 7, rapid.IntRange(0, 2<<20).Draw(t, "size")}).Draw(t, "of"))
		alphabet := rapid.SampledFrom([]int{1, 2, 256}).Draw(t, "alphabet")
		for i := range value {
			value[i] = byte(random.IntN(alphabet))
		}
		p := Pack(value)
		sums, err := Refers(p.Value)
		if err != nil || (len(sums) > 0) != (len(value) > Whole) {
			t.Fatalf("%d bytes refer to %d chunks, %v", len(value), len(sums), err)
		}
		got, err := Unpack(p.Value, p.from(t))
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%d bytes became %d, %v", len(value), len(got), err)
		}
		for i := range sums {
			one, err := Unpack(fmt.Appendf(nil, `{"chunks":[%q],"size":0}`, sums[i]), p.from(t))
			if err != nil || len(one) > mostChunk || i < len(sums)-1 && len(one) < leastChunk {
				t.Fatalf("chunk %d of %d has %d bytes, %v", i, len(sums), len(one), err)
			}
		}
	})
}

// rules is a large document of many lines that resemble each other.
func rules(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"name":"r%d","priority":%d,"match":{"src_ip":"10.%d.%d.0/24","dst_port":"%d","ip_proto":"tcp"},"actions":["normal"]},`+"\n", i, i, i/256%256, i%256, 1000+i%5000)
	}
	return b.Bytes()
}

// TestChunksStay: a small change anywhere in a large value makes few new chunks.
func TestChunksStay(t *testing.T) {
	must.Long(t, "100,000 rules")
	value := rules(100_000)
	begin := time.Now()
	before := Pack(value)
	size := 0
	for _, chunk := range before.Chunks {
		size += len(chunk)
	}
	t.Logf("%d bytes are %d chunks with %d bytes, in %v", len(value), len(before.Chunks), size, time.Since(begin).Round(time.Millisecond))
	if size > len(value)/4 || len(before.Chunks) < 50 || len(before.Chunks) > 500 {
		t.Errorf("%d bytes are %d chunks with %d bytes", len(value), len(before.Chunks), size)
	}
	for i := range 8 {
		at := i * len(value) / 8
		changed := append(append(append([]byte{}, value[:at]...), "something else"...), value[at+rand.IntN(40):]...)
		fresh := 0
		for sum := range Pack(changed).Chunks {
			if before.Chunks[sum] == nil {
				fresh++
			}
		}
		if fresh < 1 || fresh > 3 {
			t.Errorf("a change at byte %d made %d new chunks", at, fresh)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	p := Pack(rules(2000))
	sums, err := Refers(p.Value)
	if err != nil || len(sums) < 2 {
		t.Fatal(sums, err)
	}
	gone := errors.New("gone")
	for what, chunk := range map[string]func(Sum) ([]byte, error){
		"another chunk": func(Sum) ([]byte, error) { return p.Chunks[sums[0]], nil },
		"a cut chunk":   func(s Sum) ([]byte, error) { return p.Chunks[s][:10], nil },
		"none":          func(Sum) ([]byte, error) { return nil, nil },
		"an error":      func(Sum) ([]byte, error) { return nil, gone },
		"a bomb":        func(Sum) ([]byte, error) { return deflate(make([]byte, 64<<20)), nil },
	} {
		if _, err := Unpack(p.Value, chunk); err == nil || what == "an error" && !errors.Is(err, gone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, text := range []string{`{"chunks":["xy"]}`, `{"chunks":["` + sums[0].String() + `00"]}`, `{"chunks":[`, `{"chunks":[1]}`} {
		if _, err := Unpack([]byte(text), p.from(t)); err == nil {
			t.Errorf("%s was unpacked", text)
		}
	}
	if v, err := Unpack([]byte(`{"apiVersion":"x"}`), nil); err != nil || string(v) != `{"apiVersion":"x"}` {
		t.Error(string(v), err)
	}
}

// FuzzUnpack: whatever stands in the place of a value, it is taken as it is, refused, or a
// reference whose value is there.
func FuzzUnpack(f *testing.F) {
	p := Pack(rules(2000))
	f.Add(p.Value)
	f.Add([]byte(`{"apiVersion":"bladeflow/v1"}`))
	f.Add([]byte(`{"chunks":[],"size":0}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := Unpack(value, func(sum Sum) ([]byte, error) { return p.Chunks[sum], nil })
		sums, err2 := Refers(value)
		if (err2 != nil) && err == nil || err == nil && len(sums) == 0 && sums == nil && !bytes.Equal(got, value) {
			t.Errorf("%q became %q, %v, %v", value, got, err, err2)
		}
	})
}
