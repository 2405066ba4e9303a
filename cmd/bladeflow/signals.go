package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// untilSignal returns a context that ends with Ctrl-C, with SIGTERM, when the terminal
// goes (but for nohup) and when nobody reads any more what is printed, for commands
// that have something to take down. The others just die of them.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), signals...)
	ctx, end := context.WithCancel(ctx)
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE) // until the caller is done: what it still says must not kill it
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-broken:
				if unread(os.Stdout) || unread(os.Stderr) {
					end()
				}
			}
		}
	}()
	return ctx, func() {
		end()
		stop()
		signal.Stop(broken)
	}
}

// unread reports whether what is written to f is read by nobody any more. SIGPIPE alone
// does not say so: a connection that its other end has closed raises it, too, and is no
// reason to end.
func unread(f *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}
