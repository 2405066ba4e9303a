package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What watches kills while they happen: who puts filters in, and whether a step hangs.

// monitor hears of every filter that anybody puts in or takes out, as tc monitor does.
type monitor struct {
	*testing.T
	fd  int
	buf []byte
}

func openMonitor(t *testing.T) *monitor {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	wait := unix.NsecToTimeval(int64(5 * time.Millisecond))
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_TC - 1)})); err != nil {
		t.Fatal(err)
	}
	return &monitor{t, fd, make([]byte, 1<<16)}
}

// next reports whether something was told within a moment.
func (m *monitor) next() bool {
	m.Helper()
	_, _, err := unix.Recvfrom(m.fd, m.buf, 0)
	switch {
	case err == nil:
		return true
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	default:
		m.Fatal(err) // what was not heard cannot be counted
	}
	return false
}

// forget leaves out what was told before.
func (m *monitor) forget() {
	m.Helper()
	for {
		_, _, err := unix.Recvfrom(m.fd, m.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil && !errors.Is(err, unix.EINTR):
			m.Fatal(err)
		}
	}
}

// A step may take so long until what everybody does is printed, and until the test is ended.
const (
	stepLong  = time.Minute
	stepLimit = 5 * time.Minute
)

// watchdog tells what hangs when a step of a test takes too long: a test that is ended from
// outside tells nothing.
type watchdog struct {
	agent atomic.Int64 // process that is looked at, too
	log   string       // of the agents

	mu    sync.Mutex // guards what follows
	step  string
	since time.Time
	told  bool
}

func newWatchdog(t *testing.T, log string) *watchdog {
	w := &watchdog{log: log, since: time.Now()}
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				w.look()
			}
		}
	}()
	return w
}

// begin says what is done from now on.
func (w *watchdog) begin(step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step, w.since, w.told = step, time.Now(), false
}

func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := time.Since(w.since)
	if took < stepLong || w.told && took < stepLimit {
		return
	}
	w.told = true
	fmt.Fprintf(os.Stderr, "watchdog: %q takes %s\n", w.step, took.Round(time.Second))
	buf := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "%s\n", buf[:runtime.Stack(buf, true)])
	if took < stepLimit {
		w.scene()
		return
	}
	unix.Kill(int(w.agent.Load()), unix.SIGQUIT) // it tells what its goroutines do, if it can
	time.Sleep(2 * time.Second)
	w.scene()
	os.Exit(1)
}

// scene prints where the agent's threads are in the kernel, which tasks are blocked there,
// and what agent and kernel said last.
func (w *watchdog) scene() {
	const blocked = "w"
	os.WriteFile("/proc/sysrq-trigger", []byte(blocked), 0) // into the kernel's log
	stacks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", w.agent.Load()))
	for _, file := range stacks {
		text, _ := os.ReadFile(file)
		fmt.Fprintf(os.Stderr, "%s:\n%s", file, text)
	}
	text, _ := os.ReadFile(w.log)
	fmt.Fprintf(os.Stderr, "the agents said:\n%s\nthe kernel said:\n%s\n", text[max(0, len(text)-16<<10):], kernelLog())
}
