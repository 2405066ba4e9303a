package hwtests

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestLine sends through a line that is cut and mended. What is sent over a cut line
// arrives when it is mended, in order, and neither end notices.
func TestLine(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	line, err := NewLine(far.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.Dial("tcp", line.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	there, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	say := func(c net.Conn, text string) {
		t.Helper()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}
	hears := func(c net.Conn, want string) {
		t.Helper()
		got := make([]byte, len(want))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("heard %q, %v, want %q", got, err, want)
		}
	}
	silent := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("heard %d bytes, %v", n, err)
		}
	}
	say(near, "hello")
	hears(there, "hello")
	say(there, "well?")
	hears(near, "well?")

	line.Cut()
	line.Cut()
	say(near, "one")
	say(there, "two")
	silent(there)
	silent(near)
	line.Mend()
	line.Mend()
	hears(there, "one")
	hears(near, "two")

	line.CutOut()
	say(near, "three")
	say(there, "four")
	silent(there)
	hears(near, "four")
	line.Mend()
	hears(there, "three")

	line.Cut()
	say(near, "never")
	line.Close() // also of a line that is cut
	_ = near.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := near.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the line was closed: %v", err)
	}
}
