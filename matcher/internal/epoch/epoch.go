// Package epoch says when memory that readers may still be using can be used again.
//
// Problem. Readers take no locks, so whoever unlinks a piece of memory does not know
// who has found it before. Go's collector knows, but only for whole allocations, and
// buckets of a hash table are parts of larger ones.
//
// Idea. Readers announce the beginning and the end of each batch, not of each access.
// Time is cut into epochs, and a reader is counted in the one in which it entered. The
// writer moves on from epoch e to e+1 only if nobody is counted in e-1 any more. What
// was unlinked in epoch e could be found only by readers that entered in e or before,
// and when the epoch is e+2 they have all left.
//
// Invariant. A reader is counted in epoch e only if the epoch was e after it had been
// counted; so once the epoch has moved on, the count of e only falls, and the counters
// of one epoch may be read one after the other.
//
// Readers need no registration: counters are striped by an address that the caller
// gives, so that goroutines with buffers of their own seldom share a cache line. Cost:
// two atomic additions for each batch, 5 to 10 ns each as long as the line is not
// shared. A reader that never leaves stops the epoch, and with it all reuse, but
// nobody waits for it.
package epoch

import (
	"sync/atomic"
	"unsafe"
)

const stripes = 32

// Bytes is the memory of a [Domain].
const Bytes = 64 * (stripes + 1)

// Domain is readers and a writer that share memory. The zero value is ready to use.
type Domain struct {
	now     atomic.Uint64
	_       [56]byte // readers of now are not to meet those of the first stripe
	stripes [stripes]stripe
}

type stripe struct {
	readers [3]atomic.Int64 // by epoch modulo 3
	_       [40]byte
}

// Reader is one that has entered and not left.
type Reader struct{ count *atomic.Int64 }

// Enter counts a reader in. own is anything of its own; only the address is used.
func (d *Domain) Enter(own *int32) Reader {
	// Any stripe is right, so it does not matter if the address changes.
	h := uint64(uintptr(unsafe.Pointer(own))) * 0x9e3779b97f4a7c15
	s := &d.stripes[h>>59]
	for {
		e := d.now.Load()
		c := &s.readers[e%3]
		c.Add(1)
		if d.now.Load() == e {
			return Reader{c}
		}
		c.Add(-1)
	}
}

// Leave counts the reader out.
func (r Reader) Leave() { r.count.Add(-1) }

// Now returns the epoch. What was unlinked before it was read may be used again when
// Advance returns two more.
func (d *Domain) Now() uint64 { return d.now.Load() }

// Advance begins the next epoch if all readers of the last one have left, and returns
// the epoch. Only one goroutine may call it at a time.
func (d *Domain) Advance() uint64 {
	e := d.now.Load()
	for i := range d.stripes {
		if d.stripes[i].readers[(e+2)%3].Load() != 0 {
			return e
		}
	}
	d.now.Store(e + 1)
	return e + 1
}
