package tcflower

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is the other end of a netlink socket. The kernel itself is one, and so is the
// fake that behaves like its cls_flower.
type kernel interface {
	// Send hands over one datagram of messages.
	Send(b []byte) error
	// Receive returns the next datagram of answers, unix.EAGAIN if none comes in time.
	// It is valid until the next call.
	Receive() ([]byte, error)
}

const (
	messageHeader = 16
	batchSize     = 256     // messages in one send; from 128 on it gets no faster
	receiveSize   = 1 << 18 // of one datagram of a dump
	silence       = 5 * time.Second
)

// socket is a raw rtnetlink socket.
type socket struct {
	fd  int
	buf []byte
}

// openSocket opens a socket that waits for answers for as long as silence says.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	s := &socket{fd, make([]byte, receiveSize)}
	wait := unix.NsecToTimeval(int64(silence))
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	} {
		if err != nil {
			return nil, errors.Join(fmt.Errorf("netlink socket: %w", err), unix.Close(fd))
		}
	}
	return s, nil
}

func (s *socket) Send(b []byte) error {
	return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (s *socket) Receive() ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err != unix.EINTR {
			return s.buf[:max(n, 0)], err
		}
	}
}

func (s *socket) Close() error { return unix.Close(s.fd) }

// message is one netlink message.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

func (m *message) append(b []byte) []byte {
	b = native.AppendUint32(b, uint32(messageHeader+len(m.body)))
	b = native.AppendUint16(b, m.kind)
	b = native.AppendUint16(b, m.flags)
	b = native.AppendUint32(b, m.seq)
	b = native.AppendUint32(b, 0)
	b = append(b, m.body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// eachMessage calls f with every message of a datagram.
func eachMessage(b []byte, f func(message) error) error {
	for len(b) >= messageHeader {
		size := int(native.Uint32(b))
		if size < messageHeader || size > len(b) {
			return fmt.Errorf("a message of %d bytes in %d", size, len(b))
		}
		m := message{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[messageHeader:size]}
		if err := f(m); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// answer is what the kernel said to one message.
type answer struct {
	errno unix.Errno // 0 if it was done
	text  string     // its or the driver's own words
	known bool       // an answer came, or one to a later message
	stats Stats      // of the first action of a filter that was taken out
	body  []byte     // of what was asked for, if that was no change
}

// parseError reads a message that ends another: its error and the words to it.
func parseError(m message) (unix.Errno, string) {
	if len(m.body) < 4 {
		return unix.EBADMSG, ""
	}
	errno := unix.Errno(-int32(native.Uint32(m.body)))
	const words, capped, withWords = 1, unix.NLM_F_CAPPED, unix.NLM_F_ACK_TLVS
	at := 4 + messageHeader
	if m.flags&withWords == 0 || len(m.body) < at {
		return errno, ""
	}
	if m.flags&capped == 0 { // the message that failed follows, whole
		at = 4 + (int(native.Uint32(m.body[4:]))+3)&^3
	}
	said := ""
	if at <= len(m.body) {
		// Words that cannot be read leave the error as it is.
		_ = eachAttribute(m.body[at:], func(a Attribute) error {
			if a.Kind == words {
				said = text(a.Data)
			}
			return nil
		})
	}
	return errno, said
}

// errSilent says that the kernel gave no answer in time.
var errSilent = errors.New("no answer from the kernel")

// line is a netlink socket and the numbers of its messages.
type line struct {
	kernel
	seq uint32
}

// ask sends messages in batches and returns the answer to each. Only the last of a batch
// asks for one: the kernel works in order, and tells of every failure by itself. An error
// means that answers are missing.
func (l *line) ask(ctx context.Context, ms []message) ([]answer, error) {
	out := make([]answer, len(ms))
	for from := 0; from < len(ms); from += batchSize {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		batch := ms[from:min(from+batchSize, len(ms))]
		first := l.seq + 1
		var b []byte
		for i := range batch {
			l.seq++
			batch[i].seq = l.seq
			batch[i].flags |= unix.NLM_F_REQUEST
			if i == len(batch)-1 {
				batch[i].flags |= unix.NLM_F_ACK
			}
			b = batch[i].append(b)
		}
		if err := l.Send(b); err != nil {
			return out, fmt.Errorf("send to the kernel: %w", err)
		}
		if err := l.collect(out[from:from+len(batch)], first); err != nil {
			return out, err
		}
	}
	return out, nil
}

// collect receives until the last message of a batch is answered.
func (l *line) collect(out []answer, first uint32) error {
	for done := false; !done; {
		b, err := l.Receive()
		if err != nil {
			if errors.Is(err, unix.EAGAIN) {
				err = errSilent
			}
			return err
		}
		err = eachMessage(b, func(m message) error {
			i := int(m.seq - first)
			if i < 0 || i >= len(out) {
				return nil // to what was asked before and not waited for
			}
			switch m.kind {
			case unix.RTM_DELTFILTER:
				if f, err := ParseFilter(m.body); err == nil && len(f.Actions) > 0 {
					out[i].stats = f.Actions[0].Stats
				}
			case unix.RTM_NEWSTATS:
				out[i].body = bytes.Clone(m.body)
			case unix.NLMSG_ERROR:
				out[i].errno, out[i].text = parseError(m)
				done = done || i == len(out)-1
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i := range out {
		out[i].known = true
	}
	return nil
}

// errInterrupted says that the filters changed while they were told.
var errInterrupted = errors.New("the dump was interrupted by changes")

// dump returns every filter of one hook of a device, of every chain, and of every kind
// (see Filter.Other). A dump that changes cut into is asked for again.
func (l *line) dump(ctx context.Context, device, parent uint32) ([]Filter, error) {
	const tries = 8
	var err error
	for range tries {
		if err = ctx.Err(); err != nil {
			return nil, err
		}
		var out []Filter
		if out, err = l.dumpOnce(device, parent); !errors.Is(err, errInterrupted) {
			return out, err
		}
	}
	return nil, err
}

func (l *line) dumpOnce(device, parent uint32) (out []Filter, err error) {
	l.seq++
	f := Filter{Device: device, Parent: parent}
	ask := message{kind: unix.RTM_GETTFILTER, flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP, seq: l.seq, body: f.appendHead(nil)}
	if err := l.Send(ask.append(nil)); err != nil {
		return nil, fmt.Errorf("send to the kernel: %w", err)
	}
	var failed error
	for done := false; !done; {
		b, err := l.Receive()
		if errors.Is(err, unix.EAGAIN) {
			return nil, errSilent
		}
		if err != nil {
			return nil, err
		}
		err = eachMessage(b, func(m message) error {
			if m.seq != l.seq {
				return nil
			}
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				failed = errInterrupted
			}
			switch m.kind {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				errno, words := parseError(m)
				if done = true; errno != 0 {
					failed = fmt.Errorf("%w %s", errno, words)
				}
			case unix.RTM_NEWTFILTER:
				f, err := ParseFilter(m.body)
				other := errors.Is(err, ErrOther)
				if f.Handle == 0 && (err == nil || other) {
					return nil // says that a priority exists
				}
				if err != nil && !other {
					failed = err // the rest has to be received all the same
					return nil
				}
				out = append(out, f)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, failed
}
