package fallback_test

import (
	"bytes"
	"slices"
	"sync"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// wire is a set of fake links and a fake kernel that behave: frames put in come out
// of Recv once and in order, memory handed out is scribbled over at the next Recv,
// what is sent is copied, and nothing counts as sent before Flush.
type wire struct {
	mu     sync.Mutex
	moved  sync.Cond // mu; something arrived, left, or woke
	links  map[flow.Port]*fakeLink
	kernel []flow.Emission
}

type fakeLink struct {
	w        *wire
	port     flow.Port
	waiting  [][]byte
	lent     [][]byte // what the last Recv handed out
	unsent   [][]byte
	out      [][]byte
	received uint64
	idle     bool // in Recv with nothing to do
	awake    bool
	refuse   error // what Send answers, if not nil
	dead     error // what Recv answers, if not nil
}

func newWire(ports ...flow.Port) *wire {
	w := &wire{links: map[flow.Port]*fakeLink{}}
	w.moved.L = &w.mu
	for _, p := range ports {
		w.links[p] = &fakeLink{w: w, port: p}
	}
	return w
}

func (w *wire) config() fallback.Config {
	c := fallback.Config{Links: map[flow.Port]fallback.Link{}, Kernel: w}
	for p, l := range w.links {
		c.Links[p] = l
	}
	return c
}

// Deliver is the kernel of all links.
func (w *wire) Deliver(port flow.Port, frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kernel = append(w.kernel, flow.Emission{Port: port, Kernel: true, Bytes: bytes.Clone(frame)})
	return nil
}

// put makes frames arrive on a port.
func (w *wire) put(port flow.Port, frames ...[]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.links[port]
	for _, f := range frames {
		l.waiting = append(l.waiting, bytes.Clone(f))
	}
	w.moved.Broadcast()
}

// settle returns when every frame has been judged.
func (w *wire) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	busy := func() bool {
		for _, l := range w.links {
			if len(l.waiting) > 0 || !l.idle {
				return true
			}
		}
		return false
	}
	for busy() {
		w.moved.Wait()
	}
}

// emissions returns what left since it was last called, in order for each link.
func (w *wire) emissions() []flow.Emission {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.kernel
	w.kernel = nil
	for _, l := range w.links {
		for _, f := range l.out {
			all = append(all, flow.Emission{Port: l.port, Bytes: f})
		}
		l.out = nil
	}
	return all
}

func (l *fakeLink) Recv(frames [][]byte) (int, error) {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range l.lent {
		for i := range f {
			f[i] = 0xee
		}
	}
	l.lent = l.lent[:0]
	for len(l.waiting) == 0 && !l.awake && l.dead == nil {
		if !l.idle { // else two idle links would wake each other for ever
			l.idle = true
			w.moved.Broadcast()
		}
		w.moved.Wait()
	}
	l.idle = false
	if l.dead != nil {
		return 0, l.dead
	}
	if len(l.waiting) == 0 {
		l.awake = false
		return 0, nil
	}
	n := copy(frames, l.waiting)
	l.waiting = slices.Delete(l.waiting, 0, n)
	l.lent = append(l.lent, frames[:n]...)
	l.received += uint64(n)
	return n, nil
}

func (l *fakeLink) Wake() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.awake = true
	l.w.moved.Broadcast()
}

func (l *fakeLink) Send(frame []byte) error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.refuse != nil {
		return l.refuse
	}
	l.unsent = append(l.unsent, bytes.Clone(frame))
	return nil
}

func (l *fakeLink) Flush() error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.out = append(l.out, l.unsent...)
	l.unsent = nil
	l.w.moved.Broadcast()
	return nil
}

func (l *fakeLink) Stats() (received, sent, dropped uint64) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.received, uint64(len(l.out)), 0
}
