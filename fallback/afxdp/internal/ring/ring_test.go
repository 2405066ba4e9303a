package ring

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pair maps both sides of one ring over a file in memory: the other side plays the kernel.
func pair(t *testing.T, size int) (*Out[uint64], *In[uint64]) {
	t.Helper()
	fd, err := unix.MemfdCreate("ring", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := unix.XDPRingOffset{Producer: 0, Consumer: 64, Flags: 128, Desc: 192}
	if err := unix.Ftruncate(fd, int64(at.Desc)+int64(size)*8); err != nil {
		t.Fatal(err)
	}
	out, err := MapOut[uint64](fd, 0, at, size)
	if err != nil {
		t.Fatal(err)
	}
	in, err := MapIn[uint64](fd, 0, at, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(out.Unmap(), in.Unmap(), in.Unmap()); err != nil {
			t.Error(err)
		}
	})
	return out, in
}

// TestQueue compares a ring with a plain queue, many times around and over the end
// of the indices.
func TestQueue(t *testing.T) {
	for _, first := range []uint32{0, 1<<32 - 100} {
		const size = 16
		out, in := pair(t, size)
		*out.producer, *out.consumer, out.next, in.next = first, first, first, first
		rng := rand.New(rand.NewPCG(uint64(first), 1))
		var pushed, shown []uint64 // not yet published; published and not yet popped
		taken := 0                 // popped and not yet released
		next := uint64(1)
		for range 20000 {
			switch rng.IntN(5) {
			case 0, 1:
				fits := len(pushed)+len(shown)+taken < size
				if got := out.Push(next); got != fits {
					t.Fatalf("Push: %v with %d+%d+%d of %d", got, len(pushed), len(shown), taken, size)
				}
				if fits {
					pushed = append(pushed, next)
					next++
				}
			case 2:
				out.Publish()
				shown, pushed = append(shown, pushed...), nil
			case 3:
				v, ok := in.Pop()
				if ok != (len(shown) > 0) || ok && v != shown[0] {
					t.Fatalf("Pop: %d, %v; the queue is %v", v, ok, shown)
				}
				if ok {
					shown = shown[1:]
					taken++
				}
			case 4:
				in.Release()
				taken = 0
			}
			if in.Empty() != (len(shown) == 0) {
				t.Fatalf("Empty: %v with %v", in.Empty(), shown)
			}
			if got, want := int(out.Pending()), len(pushed)+len(shown)+taken; got != want {
				t.Fatalf("Pending: %d, want %d", got, want)
			}
		}
	}
}

func TestNeedWakeup(t *testing.T) {
	out, _ := pair(t, 4)
	if out.NeedWakeup() {
		t.Error("asks at once")
	}
	*out.flags = unix.XDP_RING_NEED_WAKEUP
	if !out.NeedWakeup() {
		t.Error("does not ask")
	}
}

func TestErrors(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	if _, err := MapOut[uint64](fd, 0, unix.XDPRingOffset{}, 4); err == nil {
		t.Error("mapped a file that is no socket")
	}
	if err := Register(fd, make([]byte, 4096), 2048); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("Register: %v", err)
	}
	if _, err := Offsets(fd); err == nil {
		t.Error("Offsets of no socket")
	}
	if _, err := Statistics(fd); err == nil {
		t.Error("Statistics of no socket")
	}
	if _, err := Queues(1 << 30); err == nil {
		t.Error("queues of a device that is not there")
	}
}
