package main

import (
	"os"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// TestBrokenConnection writes to a connection that its other end has closed: a daemon
// must not take that for a reader of its output who has gone.
func TestBrokenConnection(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	ctx, stop := untilSignal(cmd)
	defer stop()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	near := os.NewFile(uintptr(pair[0]), "near")
	defer near.Close()
	if err := unix.Close(pair[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Write([]byte("hello")); err == nil {
		t.Fatal("somebody read it")
	}
	select {
	case <-ctx.Done():
		t.Error("the command ends")
	case <-time.After(200 * time.Millisecond):
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if unread(w) {
		t.Error("a pipe with a reader counts as unread")
	}
	r.Close()
	if !unread(w) {
		t.Error("a pipe without a reader counts as read")
	}
}
