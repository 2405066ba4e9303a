package epoch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

func TestAdvance(t *testing.T) {
	if size := unsafe.Sizeof(Domain{}); size != Bytes {
		t.Errorf("a domain has %d bytes", size)
	}
	var d Domain
	buf := make([]int32, 1)
	if e := d.Advance(); e != 1 {
		t.Fatalf("without readers the epoch is %d", e)
	}
	r := d.Enter(&buf[0])
	if e := d.Advance(); e != 2 {
		t.Fatalf("with a reader of this epoch the next is %d", e)
	}
	for range 3 {
		if e := d.Advance(); e != 2 {
			t.Fatalf("with a reader of the last epoch it moves on to %d", e)
		}
	}
	r.Leave()
	if e := d.Advance(); e != 3 {
		t.Fatalf("after the reader has left the epoch is %d", e)
	}
}

// TestReuse has a writer reuse cells as soon as it may. A reader that finds a cell must
// find it unchanged until it leaves.
func TestReuse(t *testing.T) {
	const cells, rounds = 64, 20_000
	var d Domain
	var values [cells]atomic.Uint64
	var head atomic.Uint64 // the cell that readers find
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			own := make([]int32, 1)
			for !stop.Load() {
				r := d.Enter(&own[0])
				c := head.Load()
				first := values[c].Load()
				runtime.Gosched()
				if again := values[c].Load(); again != first {
					t.Errorf("cell %d changes from %d to %d", c, first, again)
					stop.Store(true)
				}
				r.Leave()
			}
		})
	}
	type retired struct{ cell, epoch uint64 }
	var waiting []retired
	free := make([]uint64, 0, cells)
	for c := range uint64(cells - 1) {
		free = append(free, c+1)
	}
	for i := uint64(1); i <= rounds && !stop.Load(); i++ {
		for len(free) == 0 {
			now := d.Advance()
			for len(waiting) > 0 && waiting[0].epoch+2 <= now {
				free = append(free, waiting[0].cell)
				waiting = waiting[1:]
			}
			runtime.Gosched()
		}
		c := free[len(free)-1]
		free = free[:len(free)-1]
		values[c].Store(i)
		old := head.Swap(c)
		waiting = append(waiting, retired{old, d.Now()})
	}
	stop.Store(true)
	wg.Wait()
}

func BenchmarkEnter(b *testing.B) {
	var d Domain
	own := make([]int32, 1)
	for b.Loop() {
		d.Enter(&own[0]).Leave()
	}
}
