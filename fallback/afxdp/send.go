package afxdp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The sender's side of a [Link]: frames leave by its transmit ring, or many at a time in bundles
// (outlet.go).

// Redirect has short frames leave up to 16 at a time, if there are at least 4, by XDP
// redirect from a tap that it adds (bf-out<ifindex>). That costs a third of what AF_XDP
// costs in copy mode. It works while the device takes XDP frames: takes, which is called once
// a batch, says how long ones, and 0 if it takes none. What leaves this way all the same is
// lost, and counted. The device must have one queue and be in the network namespace of the
// calling thread. On an error the Link goes on as before.
func (l *Link) Redirect(takes func() int) error {
	o, err := openOutlet(l.ifindex)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(os.ErrClosed, o.close())
	}
	l.outlet, l.takes = o, takes
	return nil
}

// Send copies a frame into the transmit ring, or a bundle (see [Link.Redirect]). It leaves
// with the next [Link.Flush], or earlier if there is no room.
func (l *Link) Send(frame []byte) error {
	if len(frame) > MaxFrame {
		return fmt.Errorf("send %d bytes: %w", len(frame), unix.EMSGSIZE)
	}
	if l.sender != nil {
		return l.sender.Send(frame)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if l.outlet == nil {
		return l.push(frame)
	}
	if !l.begun {
		l.begun, l.longest = true, l.takes()
	}
	fits := l.outlet.suits(frame, l.longest)
	if fits && l.outlet.add(frame, l.longest) {
		l.pushed++
		return nil
	}
	if err := l.spill(); err != nil {
		return err
	}
	if !fits {
		return l.push(frame)
	}
	l.outlet.add(frame, l.longest) // fits into an empty one
	l.pushed++
	return nil
}

// spill sends what is in the bundle, behind what is in tx: few frames by tx. mu is held.
func (l *Link) spill() error {
	o := l.outlet
	if o.n >= fewest {
		if l.tx.Pending() > 0 {
			if err := l.flush(); err != nil {
				return err
			}
		}
		n := uint64(o.n)
		err := o.write()
		if err != nil { // somebody has taken the tap away
			l.failed += n
			o.clear()
			l.longest, l.takes = 0, func() int { return 0 }
		}
		return err
	}
	defer o.clear()
	for i := range o.n {
		l.pushed-- // push counts it again
		if err := l.push(o.frame(i)); err != nil {
			l.pushed++
			l.failed += uint64(o.n - i)
			return err
		}
	}
	return nil
}

// push copies a frame into the transmit ring. mu is held.
func (l *Link) push(frame []byte) error {
	if len(l.free) == 0 {
		if err := l.makeRoom(); err != nil {
			return err
		}
	}
	last := len(l.free) - 1
	addr := l.free[last]
	l.free = l.free[:last]
	copy(l.memory[addr:], frame)
	l.tx.Push(unix.XDPDesc{Addr: addr, Len: uint32(len(frame))}) // fits: there are no more frames than slots
	l.pushed++
	return nil
}

// Flush returns when the kernel has taken every frame sent so far, whoever sent
// it, or with the reason why it will not.
func (l *Link) Flush() error {
	if l.sender != nil {
		return l.sender.Flush()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if l.begun = false; l.outlet != nil {
		if err := l.spill(); err != nil {
			return errors.Join(err, l.flush())
		}
	}
	return l.flush()
}

// flush hands tx to the kernel, which sends about 32 frames per call in copy mode
// and says EAGAIN when there are more. mu is held.
func (l *Link) flush() error {
	l.tx.Publish()
	pending := l.tx.Pending()
	var stuck time.Time
	for pending > 0 {
		if l.tx.NeedWakeup() {
			switch err := unix.Send(l.fd, nil, unix.MSG_DONTWAIT); err {
			case nil, unix.EINTR, unix.EAGAIN, unix.ENOBUFS:
			case unix.EBUSY: // the device refused one frame, which is gone
				l.lost++
			default:
				return fmt.Errorf("interface %d: transmit: %w", l.ifindex, err)
			}
		}
		before := pending
		pending = l.tx.Pending()
		switch now := time.Now(); {
		case pending < before:
			stuck = time.Time{}
		case stuck.IsZero():
			stuck = now
		case now.Sub(stuck) > stuckAfter:
			return fmt.Errorf("interface %d: transmit: the kernel takes nothing: %w", l.ifindex, unix.EAGAIN)
		default:
			runtime.Gosched()
		}
	}
	l.reap()
	return nil
}

// makeRoom flushes and returns when at least one frame is free. mu is held.
func (l *Link) makeRoom() error {
	if err := l.flush(); err != nil {
		return err
	}
	for start := time.Now(); len(l.free) == 0; l.reap() { // sent, but still on the way through the device
		if time.Since(start) > stuckAfter {
			return fmt.Errorf("interface %d: transmit: the device gives no frame back: %w", l.ifindex, unix.ENOBUFS)
		}
		runtime.Gosched()
	}
	return nil
}

// reap takes back the frames the kernel is done with. mu is held.
func (l *Link) reap() {
	for {
		addr, ok := l.done.Pop()
		if !ok {
			break
		}
		l.free = append(l.free, addr)
	}
	l.done.Release()
}

// unsent is how many frames were lost on transmit, as far as was heard. What the socket was
// told that the device has dropped the device has counted, too. asking and mu are held.
func (l *Link) unsent() uint64 { return max(l.lost, l.told.dropped) + l.failed + l.told.refused }
