package ring

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// fill puts a frame into a slot as the kernel does.
func (r *Ring) fill(slot int, frame []byte, length int) {
	const mac = 80
	copy(r.memory[slot*r.slotSize+mac:], frame)
	*r.header(slot) = unix.Tpacket2Hdr{Status: unix.TP_STATUS_USER, Mac: mac, Snaplen: uint32(len(frame)), Len: uint32(length),
		Vlan_tci: uint16(slot), Vlan_tpid: 0x88a8}
}

// TestQueue compares the ring with a plain queue, many times around.
func TestQueue(t *testing.T) {
	const slots = 8
	r := &Ring{memory: make([]byte, slots*256), slotSize: 256}
	rng := rand.New(rand.NewPCG(1, 1))
	var waiting [][]byte
	filled, held := 0, 0
	for range 20000 {
		switch rng.IntN(3) {
		case 0:
			if len(waiting)+held < slots {
				f := []byte{byte(filled), byte(filled >> 8), 7}
				r.fill(filled%slots, f, 1000)
				waiting = append(waiting, f)
				filled++
			}
		case 1:
			f, ok := r.Pop()
			if ok != (len(waiting) > 0) {
				t.Fatalf("Pop: %v with %d waiting and %d held", ok, len(waiting), held)
			}
			if !ok {
				break
			}
			if !bytes.Equal(f.Space[HeadRoom:], waiting[0]) || f.Length != 1000 || f.TPID != 0x88a8 {
				t.Fatalf("Pop: %+v, want %x", f, waiting[0])
			}
			waiting = waiting[1:]
			held++
		case 2:
			r.Release()
			held = 0
		}
		if r.Empty() != (len(waiting) == 0) {
			t.Fatalf("Empty: %v with %d waiting and %d held", r.Empty(), len(waiting), held)
		}
	}
}

func TestMapNoSocket(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Map(int(f.Fd()), 32, 2048); err == nil {
		t.Error("mapped a file that is no socket")
	}
}
