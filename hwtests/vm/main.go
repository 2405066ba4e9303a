package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes beside those of the test.
const (
	exitFailure   = 1
	exitUsage     = 2
	exitMissing   = 3   // kernel, QEMU or module are not to be had, or not in reasonable time
	exitTimeout   = 124 // the machine was stopped
	exitNoVerdict = 125 // the machine ended without a word
)

func main() {
	if os.Getpid() == 1 {
		guest()
		return
	}
	// Go test sends SIGQUIT when time is up. A machine leaves nothing behind then either.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer stop()
	os.Exit(command(ctx, os.Args[1:]))
}

func command(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "vm: nothing to do: say prepare, kernel or test, or use it with go test -exec")
		return exitUsage
	}
	cache, err := cacheDir()
	if err == nil {
		var b bed
		switch args[0] {
		case "prepare":
			return prepared(ctx, cache)
		case "kernel":
			if b, err = load(cache); err == nil {
				fmt.Println(b.Kernel)
				return 0
			}
		case "test":
			if b, err = ready(cache); err == nil {
				return runTests(ctx, b, args[1:])
			}
		default:
			if b, err = ready(cache); err == nil {
				return run(ctx, b, args[0], args[1:])
			}
		}
	}
	say("%v", err)
	return exitMissing
}

// prepared gets the machine ready and says loudly if that cannot be: a skip, which
// BLADEFLOW_MUST=vm turns into a failure.
func prepared(ctx context.Context, cache string) int {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took longer than %v", patience))
	defer cancel()
	b, err := prepare(ctx, cache, say)
	var took time.Duration
	if err == nil {
		took, err = trial(ctx, b)
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	switch {
	case err == nil:
		say("kernel %s boots in %.1f s (%s); what it is made of is in %s", b.Kernel, took.Seconds(), b.Accel, cache)
		return 0
	case errors.Is(err, errOurs) && ctx.Err() == nil:
		say("%v", err)
		return exitFailure
	case slices.Contains(strings.Split(os.Getenv("BLADEFLOW_MUST"), ","), "vm"):
		say("BLADEFLOW_MUST names vm, but: %v", err)
		return exitFailure
	}
	say("%v", err)
	say("WARNING: there is no virtual machine here: NOTHING IS TESTED ON A STOCK KERNEL (BLADEFLOW_MUST=vm makes this a failure)")
	return exitMissing
}

// say tells the user; the output of tests is what goes to stdout.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "vm: "+format+"\n", args...) }
