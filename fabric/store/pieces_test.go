package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// from takes pieces out of a packed value, and counts them.
func (p Packed) from(t interface{ Errorf(string, ...any) }) func(Sum) ([]byte, error) {
	return func(sum Sum) ([]byte, error) {
		if p.Pieces[sum] == nil {
			t.Errorf("piece %s is not there", sum)
		}
		return p.Pieces[sum], nil
	}
}

// TestPack: what is unpacked is what was packed, and every piece is in its bounds.
func TestPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		value := make([]byte, rapid.SampledFrom([]int{0, 1, Whole - 1, Whole, Whole + 1, leastPiece, 2 * leastPiece, mostPiece, mostPiece + 1, 3*mostPiece + 7, rapid.IntRange(0, 2<<20).Draw(t, "size")}).Draw(t, "of"))
		alphabet := rapid.SampledFrom([]int{1, 2, 256}).Draw(t, "alphabet")
		for i := range value {
			value[i] = byte(random.IntN(alphabet))
		}
		p := Pack(value)
		sums, err := Refers(p.Value)
		if err != nil || (len(sums) > 0) != (len(value) > Whole) {
			t.Fatalf("%d bytes refer to %d pieces, %v", len(value), len(sums), err)
		}
		got, err := Unpack(p.Value, p.from(t))
		if err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%d bytes became %d, %v", len(value), len(got), err)
		}
		for i := range sums {
			one, err := Unpack(fmt.Appendf(nil, `{"pieces":[%q],"size":0}`, sums[i]), p.from(t))
			if err != nil || len(one) > mostPiece || i < len(sums)-1 && len(one) < leastPiece {
				t.Fatalf("piece %d of %d has %d bytes, %v", i, len(sums), len(one), err)
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

// TestPiecesStay: a small change anywhere in a large value makes few new pieces.
func TestPiecesStay(t *testing.T) {
	value := rules(100_000)
	begin := time.Now()
	before := Pack(value)
	size := 0
	for _, piece := range before.Pieces {
		size += len(piece)
	}
	t.Logf("%d bytes are %d pieces with %d bytes, in %v", len(value), len(before.Pieces), size, time.Since(begin).Round(time.Millisecond))
	if size > len(value)/4 || len(before.Pieces) < 50 || len(before.Pieces) > 500 {
		t.Errorf("%d bytes are %d pieces with %d bytes", len(value), len(before.Pieces), size)
	}
	for i := range 20 {
		at := i * len(value) / 20
		changed := append(append(append([]byte{}, value[:at]...), "something else"...), value[at+rand.IntN(40):]...)
		fresh := 0
		for sum := range Pack(changed).Pieces {
			if before.Pieces[sum] == nil {
				fresh++
			}
		}
		if fresh < 1 || fresh > 3 {
			t.Errorf("a change at byte %d made %d new pieces", at, fresh)
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
	for what, piece := range map[string]func(Sum) ([]byte, error){
		"another piece": func(Sum) ([]byte, error) { return p.Pieces[sums[0]], nil },
		"a cut piece":   func(s Sum) ([]byte, error) { return p.Pieces[s][:10], nil },
		"none":          func(Sum) ([]byte, error) { return nil, nil },
		"an error":      func(Sum) ([]byte, error) { return nil, gone },
		"a bomb":        func(Sum) ([]byte, error) { return deflate(make([]byte, 64<<20)), nil },
	} {
		if _, err := Unpack(p.Value, piece); err == nil || what == "an error" && !errors.Is(err, gone) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, text := range []string{`{"pieces":["xy"]}`, `{"pieces":["` + sums[0].String() + `00"]}`, `{"pieces":[`, `{"pieces":[1]}`} {
		if _, err := Unpack([]byte(text), p.from(t)); err == nil {
			t.Errorf("%s was unpacked", text)
		}
	}
	if v, err := Unpack([]byte(`{"apiVersion":"x"}`), nil); err != nil || string(v) != `{"apiVersion":"x"}` {
		t.Error(string(v), err)
	}
}
