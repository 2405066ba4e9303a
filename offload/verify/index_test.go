package verify

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestIndex compares the index with a scan, for boxes that are prefixes, ranges and
// any masks, on sets small and large, while boxes come and go.
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
		boxes, ranks := make([]box, n), make([]uint64, n)
		for i := range boxes {
			boxes[i], ranks[i] = some(), rng.Uint64N(uint64(n)+1)
		}
		x := newIndex(boxes, ranks)
		there := make([]bool, n)
		for i := range there {
			there[i] = true
		}
		for range 300 {
			q, limit := some(), rng.Uint64N(uint64(n)+2)
			if rng.IntN(9) == 0 {
				limit = noLimit
			}
			var want, inside []int32
			first := limit
			for i := range x.boxes {
				if !there[i] {
					continue
				}
				if i&1 == 1 && q.covers(&x.boxes[i]) {
					inside = append(inside, int32(i))
				}
				if x.rank[i] < limit || limit == noLimit {
					if x.boxes[i].meets(&q) {
						want = append(want, int32(i))
					}
					if x.boxes[i].covers(&q) {
						first = min(first, x.rank[i])
					}
				}
			}
			got := x.meeting(&q, limit, nil, nil)
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("of %d boxes below %d, %+v meets %v, want %v", n, limit, q, got, want)
			}
			odd := func(i int32) bool { return i&1 == 1 }
			got = x.inside(&q, odd, nil)
			if slices.Sort(got); !slices.Equal(got, inside) {
				t.Fatalf("of %d boxes %+v covers %v, want %v", n, q, got, inside)
			}
			if got := x.first(&q, limit); got != first {
				t.Fatalf("of %d boxes the first below %d that covers %+v is %d, want %d", n, limit, q, got, first)
			}
			for range rng.IntN(20) { // and now others
				if i := rng.IntN(len(there) + 1); i == len(there) {
					there = append(there, false)
				} else if there[i] {
					x.take(int32(i))
					there[i] = false
					continue
				}
				i := slices.Index(there, false)
				b := some()
				x.put(int32(i), &b, rng.Uint64N(uint64(n)+1))
				there[i] = true
			}
		}
	}
}

// TestIndexAlike indexes boxes that no bit tells apart.
func TestIndexAlike(t *testing.T) {
	x := newIndex(make([]box, 1000), make([]uint64, 1000))
	for i := range int32(1000) {
		x.put(1000+i, &box{}, 0)
	}
	if got := x.meeting(&box{}, noLimit, nil, nil); len(got) != 2000 {
		t.Errorf("%d of 2000 boxes meet everything", len(got))
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
			newIndex(boxes, make([]uint64, len(boxes)))
		}
	})
	x := newIndex(boxes, make([]uint64, len(boxes)))
	var out []int32
	b.Run("query", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			out = x.meeting(&boxes[i%len(boxes)], noLimit, nil, out[:0])
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
