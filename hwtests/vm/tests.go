package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// testRun is what vm test was asked to do.
type testRun struct {
	packages       []string
	run, beside    string
	short, verbose bool
	limit          time.Duration
}

// parseTests reads the flags of vm test, which are those of go test. If it returns nil, code
// is how the program ends.
func parseTests(args []string) (r *testRun, code int) {
	r = &testRun{}
	flags := flag.NewFlagSet("vm test", flag.ContinueOnError)
	flags.StringVar(&r.run, "run", "", "tests to run, a pattern")
	flags.StringVar(&r.beside, "beside", "", "which of them to run in a second machine at the same time, a pattern")
	flags.BoolVar(&r.short, "short", false, "run the short forms")
	flags.BoolVar(&r.verbose, "v", false, "say what runs")
	flags.DurationVar(&r.limit, "timeout", 10*time.Minute, "how long all of it may take")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp): // it was printed
		return nil, 0
	case err != nil:
		return nil, exitUsage
	case flags.NArg() == 0:
		say("test: name packages")
		return nil, exitUsage
	}
	r.packages = flags.Args()
	return r, 0
}

// runTests is go test for packages whose tests share one machine, for a boot takes longer
// than most of them, or two at most.
func runTests(ctx context.Context, b bed, r *testRun) int {
	dir, err := os.MkdirTemp("", "bladeflow-vm-")
	if err != nil {
		say("%v", err)
		return exitMissing
	}
	defer os.RemoveAll(dir)
	programs, err := compile(ctx, dir, r.packages)
	if err != nil {
		say("%v", err)
		return exitFailure
	}
	here, there, err := r.share(ctx, programs)
	if err != nil {
		say("%v", err)
		return exitFailure
	}
	limit := r.limit + time.Minute
	switch {
	case len(here) == 0:
		say("test: no test has such a name")
		return 0
	case len(there) == 0:
		return runAll(ctx, b, here, limit, streams{os.Stdout, os.Stderr})
	}
	var later held
	var other int
	var both sync.WaitGroup
	both.Go(func() { other = runAll(ctx, b, there, limit, streams{&later, &later}) })
	code := runAll(ctx, b, here, limit, streams{os.Stdout, os.Stderr})
	both.Wait()
	os.Stdout.Write(later.text) // a closed stdout is nobody's business here
	return cmp.Or(code, other)
}

// held keeps what a machine says until the other one has ended.
type held struct {
	mu   sync.Mutex // guards what follows
	text []byte
}

func (h *held) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, b...)
	return len(b), nil
}

// share gives the programs their arguments: here is what one machine runs, and there what
// another one does, which is nothing if no test is to be run beside others. Each test runs in
// one of both. Much of a test's time is sleep of the kernel's drivers and of agents: a
// second machine fills it, and uses the second CPU of a host that has one.
func (r *testRun) share(ctx context.Context, programs []program) (here, there []program, err error) {
	with := func(p program, run string) program {
		p.Args = []string{"-test.run=" + run, "-test.timeout=" + r.limit.String(), fmt.Sprintf("-test.short=%t", r.short), fmt.Sprintf("-test.v=%t", r.verbose)}
		return p
	}
	apart, err := regexp.Compile(r.beside)
	if err != nil {
		return nil, nil, fmt.Errorf("-beside: %w", err)
	}
	for _, p := range programs {
		if r.beside == "" {
			here = append(here, with(p, r.run))
			continue
		}
		names, err := p.tests(ctx, r.run)
		if err != nil {
			return nil, nil, err
		}
		var mine, others []string
		for _, name := range names {
			if apart.MatchString(name) {
				others = append(others, name)
			} else {
				mine = append(mine, name)
			}
		}
		if len(mine) > 0 {
			here = append(here, with(p, these(mine)))
		}
		if len(others) > 0 {
			there = append(there, with(p, these(others)))
		}
	}
	if len(here) == 0 {
		here, there = there, nil
	}
	return here, there, nil
}

// these is a pattern that only tests of these names match.
func these(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }

// tests are the names of the program's tests that match a pattern, as it says itself, here.
func (p *program) tests(ctx context.Context, run string) ([]string, error) {
	list := exec.CommandContext(ctx, p.at, "-test.list="+run)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: its list of tests: %w", p.Name, err)
	}
	return strings.Fields(string(out)), nil
}

// compileAhead has Go compile what the packages' tests are made of, so that compile only links.
// What does not build compile says: it is of no interest to whoever has no machine.
func compileAhead(ctx context.Context, packages []string) {
	build := exec.CommandContext(ctx, "nice", append([]string{"go", "list", "-export", "-deps", "-test", "-f", "{{/**/}}"}, packages...)...)
	build.Env = append(os.Environ(), hasty...)
	build.Run()
}

// hasty has Go's compiler and linker collect garbage seldom: a fifth less time, half for the linker,
// for memory that is there while nothing else runs.
var hasty = []string{"GOGC=800", "GOMEMLIMIT=1GiB"}

// compile builds the packages' test binaries into a folder, all at once. A package without
// tests has none.
func compile(ctx context.Context, dir string, packages []string) ([]program, error) {
	root, _, err := checkout()
	if err != nil {
		return nil, err
	}
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-f", "{{.ImportPath}}\t{{.Dir}}"}, packages...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	// Without what debuggers need: the machine's memory holds it.
	build := exec.CommandContext(ctx, "go", append([]string{"test", "-c", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}, packages...)...)
	build.Env = append(os.Environ(), hasty...)
	if err := tell(build); err != nil {
		return nil, err
	}
	var programs []program
	for line := range strings.Lines(string(bytes.TrimSpace(out))) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), "\t")
		inside, err := filepath.Rel(root, at)
		if err != nil {
			return nil, err
		}
		p := program{Name: name, Dir: inside, at: filepath.Join(dir, path.Base(name)+".test")}
		if _, err := os.Stat(p.at); err == nil {
			programs = append(programs, p)
		}
	}
	return programs, nil
}
