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
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// testRun is what vm test was asked to do.
type testRun struct {
	packages       []string
	run            string
	apartOf        string         // the package with tests for a second machine
	apart          *regexp.Regexp // which those are; nil for none
	short, verbose bool
	limit          time.Duration
}

// parseTests reads the flags of vm test, which are those of go test. If it returns nil, code
// is how the program ends.
func parseTests(args []string) (r *testRun, code int) {
	r = &testRun{}
	flags := flag.NewFlagSet("vm test", flag.ContinueOnError)
	flags.StringVar(&r.run, "run", "", "tests to run, a pattern")
	flags.Func("beside", "`PACKAGE:PATTERN`, which of its tests to run in a second machine at the same time", r.setApart)
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

// setApart reads the flag beside. What names nothing has nothing run apart.
func (r *testRun) setApart(text string) (err error) {
	if text == "" {
		return nil
	}
	pkg, pattern, ok := strings.Cut(text, ":")
	if !ok || pkg == "" || pattern == "" {
		return errors.New("it is a package, a colon and a pattern")
	}
	r.apartOf = pkg
	r.apart, err = regexp.Compile(pattern)
	return err
}

// runTests is go test for packages whose tests share one machine, for a boot takes longer
// than most of them, or two at most. The second one begins as soon as its package is built.
func runTests(ctx context.Context, b bed, r *testRun) int {
	dir, err := os.MkdirTemp("", "bladeflow-vm-")
	if err != nil {
		say("%v", err)
		return exitMissing
	}
	defer os.RemoveAll(dir)
	var later held
	var other int
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	limit := r.limit + time.Minute
	here, there, err := r.beside(ctx, dir)
	if len(there) > 0 {
		beside.Go(func() { other = runAll(ctx, b, there, limit, streams{&later, &later}) })
	}
	if err == nil {
		here, err = r.rest(ctx, dir, here)
	}
	if err != nil {
		say("%v", err)
		return exitFailure
	}
	code := 0
	switch {
	case len(here) > 0:
		code = runAll(ctx, b, here, limit, streams{os.Stdout, os.Stderr})
	case len(there) == 0:
		say("test: no test has such a name")
	}
	beside.Wait()
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

// beside builds the package of -beside, and returns what the first machine and the second one run
// of it. Much of a test's time is sleep of the kernel's drivers and of agents: a second machine
// fills it, and uses the second CPU of a host that has one.
func (r *testRun) beside(ctx context.Context, dir string) (here, there []program, err error) {
	if r.apart == nil || !slices.Contains(r.packages, r.apartOf) {
		return nil, nil, nil
	}
	if err := compile(ctx, dir, []string{r.apartOf}); err != nil {
		return nil, nil, err
	}
	programs, err := built(ctx, dir, r.apartOf)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range programs {
		mine, others, err := r.share(ctx, p, r.apart)
		if err != nil {
			return nil, nil, err
		}
		here, there = append(here, mine...), append(there, others...)
	}
	if len(here) == 0 && len(r.packages) == 1 { // nothing to be beside of
		here, there = there, nil
	}
	return here, there, nil
}

// rest builds all other packages, and returns what the first machine runs, in the packages' order:
// own is what it runs of the one that is built.
func (r *testRun) rest(ctx context.Context, dir string, own []program) (here []program, err error) {
	isBuilt := func(pkg string) bool { return r.apart != nil && pkg == r.apartOf }
	if others := slices.DeleteFunc(slices.Clone(r.packages), isBuilt); len(others) > 0 {
		if err := compile(ctx, dir, others); err != nil {
			return nil, err
		}
	}
	for _, pkg := range r.packages {
		if isBuilt(pkg) {
			here = append(here, own...)
			continue
		}
		programs, err := built(ctx, dir, pkg)
		if err != nil {
			return nil, err
		}
		for _, p := range programs {
			mine, _, err := r.share(ctx, p, nil)
			if err != nil {
				return nil, err
			}
			here = append(here, mine...)
		}
	}
	return here, nil
}

// share gives a program its arguments: here are its tests of r's pattern, and there those of them
// that are to run apart, which are none without apart. Where it has none, it is left out.
func (r *testRun) share(ctx context.Context, p program, apart *regexp.Regexp) (here, there []program, err error) {
	with := func(run string) program {
		p.Args = []string{"-test.run=" + run, "-test.timeout=" + r.limit.String(), fmt.Sprintf("-test.short=%t", r.short), fmt.Sprintf("-test.v=%t", r.verbose)}
		return p
	}
	if r.apart == nil {
		return []program{with(r.run)}, nil, nil
	}
	names, err := p.tests(ctx, r.run)
	if err != nil {
		return nil, nil, err
	}
	var mine, others []string
	for _, name := range names {
		if apart != nil && apart.MatchString(name) {
			others = append(others, name)
		} else {
			mine = append(mine, name)
		}
	}
	if len(mine) > 0 {
		here = append(here, with(these(mine)))
	}
	if len(others) > 0 {
		there = append(there, with(these(others)))
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
	build.Cancel = func() error { return build.Process.Signal(unix.SIGINT) } // it removes what it has in /tmp
	build.Run()
}

// hasty has Go's compiler and linker collect garbage seldom: a fifth less time, half for the linker,
// for memory that is there while nothing else runs.
var hasty = []string{"GOGC=800", "GOMEMLIMIT=1GiB"}

// compile builds the packages' test binaries into a folder, all at once.
func compile(ctx context.Context, dir string, packages []string) error {
	// Without what debuggers need: the machine's memory holds it.
	build := exec.CommandContext(ctx, "go", append([]string{"test", "-c", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}, packages...)...)
	build.Env = append(os.Environ(), hasty...)
	return tell(build)
}

// built returns the test binaries of a package, or of more if it is a pattern, that were built into
// a folder. A package without tests has none.
func built(ctx context.Context, dir, pkg string) (programs []program, err error) {
	root, _, err := checkout()
	if err != nil {
		return nil, err
	}
	list := exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}}\t{{.Dir}}", pkg)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
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
