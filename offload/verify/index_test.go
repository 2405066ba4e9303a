package verify

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestIndex compares the index with a scan, for boxes that are prefixes, ranges and
// any masks, on sets small and large.
func TestIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	some := func() box {
		var m flow.Match
		for _, f := range []flow.Field{flow.SrcLo, flow.DstLo} {
			mask := ^uint64(0) << rng.IntN(10)
			if rng.IntN(4) == 0 {
				mask = rng.Uint64()
			}
			if rng.IntN(3) > 0 {
				m.Pin(f, rng.Uint64N(1<<8), mask&0xff)
			}
		}
		if rng.IntN(3) == 0 {
			lo := uint16(rng.IntN(60000))
			m.SetPorts(flow.DstPort, lo, lo+uint16(rng.IntN(5000)))
		}
		b, _ := newBox(&m)
		return b
	}
	for _, n := range []int{0, 1, 5, 50, 3000} {
		boxes := make([]box, n)
		for i := range boxes {
			boxes[i] = some()
		}
		x := newIndex(boxes)
		for range 300 {
			q, limit := some(), int32(rng.IntN(n+1))
			var want []int32
			for i := range boxes[:limit] {
				if boxes[i].meets(&q) {
					want = append(want, int32(i))
				}
			}
			got := x.meeting(&q, limit, nil)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("of %d boxes below %d, %+v meets %v, want %v", n, limit, q, got, want)
			}
		}
	}
}

// TestIndexAlike indexes boxes that no bit tells apart.
func TestIndexAlike(t *testing.T) {
	x := newIndex(make([]box, 1000))
	if got := x.meeting(&box{}, 1000, nil); len(got) != 1000 {
		t.Errorf("%d of 1000 boxes meet everything", len(got))
	}
}

func BenchmarkIndex(b *testing.B) {
	table := generated(0, 10_000)
	boxes := make([]box, table.Len())
	for i := range boxes {
		boxes[i], _ = newBox(&table.Rule(i).Match)
	}
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			newIndex(boxes)
		}
	})
	x := newIndex(boxes)
	var out []int32
	b.Run("query", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			out = x.meeting(&boxes[i%len(boxes)], int32(len(boxes)), out[:0])
		}
	})
	b.Run("scan", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			out = out[:0]
			for j := range boxes {
				if boxes[j].meets(&boxes[i%len(boxes)]) {
					out = append(out, int32(j))
				}
			}
		}
	})
}
