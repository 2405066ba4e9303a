package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
)

// A port's place in the datapath, which stays while netdevs come and go: links.go says why, and
// who puts sockets on it and takes them off.

// socket is what sits on a [seat]: a link that somebody has to close.
type socket interface {
	fallback.Link
	Close() error
}

// seat is a [fallback.Link] that outlives its netdev.
type seat struct {
	woken chan struct{} // holds one: Wake was called

	mu      sync.RWMutex // guards what follows; held for reading while the socket is used
	socket  socket       // nil while the netdev is away
	ifindex int          // of the netdev that socket is on
	back    chan struct{}
	retired []socket // taken off, not closed yet
	past    fallback.LinkStats
	since   time.Time // when the socket came or went
}

var errAway = errors.New("its netdev is not there")

func newSeat() *seat { return &seat{woken: make(chan struct{}, 1), back: make(chan struct{})} }

// put sets a socket on an empty seat.
func (s *seat) put(l socket, ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket, s.ifindex, s.since = l, ifindex, time.Now()
	close(s.back)
}

// clear takes the socket off, if there is one.
func (s *seat) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.socket
	if l == nil {
		return
	}
	received, sent, dropped := l.Stats()
	s.past = fallback.LinkStats{Received: s.past.Received + received, Sent: s.past.Sent + sent, Dropped: s.past.Dropped + dropped}
	s.socket, s.ifindex, s.since, s.back = nil, 0, time.Now(), make(chan struct{})
	s.retired = append(s.retired, l)
	l.Wake()
}

// Recv implements [fallback.Link]. It waits for a netdev, too.
func (s *seat) Recv(frames [][]byte) (int, error) {
	s.mu.RLock()
	if len(s.retired) > 0 { // and what is the socket now may be retired next: look at it after
		s.mu.RUnlock()
		s.bury()
		s.mu.RLock()
	}
	l, back := s.socket, s.back
	s.mu.RUnlock()
	if l != nil {
		return l.Recv(frames)
	}
	select {
	case <-back:
	case <-s.woken:
	}
	return 0, nil
}

// bury closes what was taken off. Nobody may be receiving.
func (s *seat) bury() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, l := range s.retired {
		errs = append(errs, l.Close())
	}
	s.retired = nil
	return errors.Join(errs...)
}

// Wake implements [fallback.Link].
func (s *seat) Wake() {
	ping(s.woken)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.socket != nil {
		s.socket.Wake()
	}
}

// Send implements [fallback.Link].
func (s *seat) Send(frame []byte) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.socket == nil {
		return errAway
	}
	return s.socket.Send(frame)
}

// Flush implements [fallback.Link]. On an empty seat nothing waits to leave.
func (s *seat) Flush() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.socket == nil {
		return nil
	}
	return s.socket.Flush()
}

// Stats implements [fallback.Link]: of all sockets that sat here.
func (s *seat) Stats() (received, sent, dropped uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.socket != nil {
		received, sent, dropped = s.socket.Stats()
	}
	return received + s.past.Received, sent + s.past.Sent, dropped + s.past.Dropped
}

// Close closes all sockets. Nobody may be receiving.
func (s *seat) Close() error {
	s.clear()
	return s.bury()
}
