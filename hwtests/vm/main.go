package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Exit codes beside those of the test.
const (
	exitFailure   = 1
	exitUsage     = 2
	exitMissing   = 3   // kernel, QEMU or module are not to be had, or not in reasonable time
	exitTimeout   = 124 // the machine was stopped
	exitNoVerdict = 125 // the machine ended without a word
	exitMost      = 126 // of a program in the machine; what is above becomes this
)

// usage is what --help prints.
var usage = fmt.Sprintf(`vm runs programs and tests on a stock kernel in QEMU, as root.

  vm prepare [PACKAGE...]          get QEMU, kernel and headers, build the modules, try a boot;
                                   compile meanwhile what packages' tests are made of
  vm test [FLAGS] PACKAGE...       run packages' tests there, all in one machine (vm test -h)
  vm PROGRAM [ARGUMENTS]           run one program there; go test -exec bin/vm does
  vm kernel                        say which kernel that is

What the program writes comes out here. Exit codes:

  0..%d  the program's own; of tests the first that is not 0
  %d       also: what is to be run does not build, or a machine has to be had and is not
  %d       also: it cannot be called like this
  %d       also: no machine is to be had here: QEMU, kernel or modules are missing
  %d     the machine was stopped: time was up, or somebody did it
  %d     the machine ended without saying how the program did

BLADEFLOW_VM names the folder of what was downloaded and built, BLADEFLOW_MUST=vm makes
a machine that is not to be had a failure, and variables that begin with BLADEFLOW_ or GO
are there in the machine. With %s=%s its clock counts instructions,
500 million a second, and skips sleep: no time limit there then comes too early because
the host is busy. docs/testbed.md says what is in it.
`, exitMost, exitFailure, exitUsage, exitMissing, exitTimeout, exitNoVerdict, clockOf, countedClock)

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
	switch {
	case len(args) == 0:
		say("nothing to do: vm --help says what there is")
		return exitUsage
	case slices.Contains([]string{"-h", "-help", "--help", "help"}, args[0]):
		fmt.Print(usage)
		return 0
	case strings.HasPrefix(args[0], "-"):
		say("%s: unknown: vm --help says what there is", args[0])
		return exitUsage
	}
	cache, err := cacheDir()
	if err == nil {
		var b bed
		switch args[0] {
		case "prepare":
			return prepared(ctx, cache, args[1:])
		case "kernel":
			if b, err = load(cache); err == nil {
				fmt.Println(b.Kernel)
				return 0
			}
		case "test":
			r, code := parseTests(args[1:])
			if r == nil {
				return code
			}
			if b, err = ready(cache); err == nil {
				return runTests(ctx, b, r)
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
// BLADEFLOW_MUST=vm turns into a failure. Much of that is waiting for archives and for a boot,
// which compiling what packages' tests need fills.
func prepared(ctx context.Context, cache string, packages []string) int {
	if len(packages) > 0 {
		var compiling sync.WaitGroup
		ahead, stop := context.WithCancel(ctx)
		compiling.Go(func() { compileAhead(ahead, packages) })
		defer compiling.Wait()
		defer stop()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took longer than %v", patience))
	defer cancel()
	b, took, err := prepare(ctx, cache, say)
	boots := "booted before"
	if took > 0 {
		boots = fmt.Sprintf("boots in %.1f s", took.Seconds())
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	switch {
	case err == nil:
		say("kernel %s %s (%s); what it is made of is in %s", b.Kernel, boots, b.Accel, cache)
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
