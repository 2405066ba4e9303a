package live

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestErrors needs no rights: the kernel refuses, or the frame does not fit.
// fallback's TestPass runs frames of every length.
func TestErrors(t *testing.T) {
	r, err := NewRunner()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Run(-1, 1, make([]byte, 60)); err == nil {
		t.Error("ran a program that is not there")
	}
	if err := r.Run(-1, 1, make([]byte, 1<<20)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a frame longer than a page: %v", err)
	}
}
