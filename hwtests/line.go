package hwtests

import (
	"net"
	"sync"
)

// Line carries TCP connections to one address, and can be cut, both ways or one: then
// nothing gets through, and nobody at either end is told, as when a switch between them
// has died. When it is mended what was sent meanwhile arrives, as TCP's repetitions would.
type Line struct {
	listener net.Listener
	to       string
	done     sync.WaitGroup
	out, in  gate // from who called to who was called, and back

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu; nil when the line is closed
}

// gate is open or shut.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // guarded by mu; nil if the gate was never shut, else closed when it is open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil || isClosed(g.opened) {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil && !isClosed(g.opened) {
		close(g.opened)
	}
}

// wait returns when the gate is open.
func (g *gate) wait() {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	if opened != nil {
		<-opened
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// NewLine lays a line from a free port of loopback to an address.
func NewLine(to string) (*Line, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return LineFrom(listener, to), nil
}

// LineFrom lays a line from a listener, which it closes in the end, to an address. The
// listener may be of another network namespace.
func LineFrom(listener net.Listener, to string) *Line {
	l := &Line{listener: listener, to: to, conns: map[net.Conn]struct{}{}}
	l.done.Go(l.accept)
	return l
}

// URL is where the line begins.
func (l *Line) URL(scheme string) string { return scheme + "://" + l.listener.Addr().String() }

// Cut lets nothing through until [Line.Mend].
func (l *Line) Cut() {
	l.out.shut()
	l.in.shut()
}

// CutOut lets through only what comes back, until [Line.Mend].
func (l *Line) CutOut() { l.out.shut() }

// Mend makes the line whole.
func (l *Line) Mend() {
	l.in.open()
	l.out.open()
}

// Close ends the line and its connections.
func (l *Line) Close() {
	l.listener.Close()
	l.mu.Lock()
	for c := range l.conns {
		c.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.Mend()
	l.done.Wait()
}

// keep notes a connection, or closes it if the line is closed.
func (l *Line) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Line) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *Line) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.done.Go(func() { l.carry(near) })
	}
}

// carry carries one connection until either end closes it.
func (l *Line) carry(near net.Conn) {
	if !l.keep(near) {
		return
	}
	defer l.drop(near)
	l.out.wait()
	far, err := net.Dial("tcp", l.to)
	if err != nil || !l.keep(far) {
		return
	}
	defer l.drop(far)
	var both sync.WaitGroup
	both.Go(func() { l.out.pass(far, near) })
	both.Go(func() { l.in.pass(near, far) })
	both.Wait()
}

// pass copies until either end is closed, and closes the other.
func (g *gate) pass(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.wait()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
