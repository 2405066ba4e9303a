package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// testRun is what vm test was asked to do.
type testRun struct {
	packages       []string
	run            string
	short, verbose bool
	limit          time.Duration
}

// parseTests reads the flags of vm test, which are those of go test. If it returns nil, code
// is how the program ends.
func parseTests(args []string) (r *testRun, code int) {
	r = &testRun{}
	flags := flag.NewFlagSet("vm test", flag.ContinueOnError)
	flags.StringVar(&r.run, "run", "", "tests to run, a pattern")
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
// than most of them.
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
	for i := range programs {
		programs[i].Args = []string{"-test.run=" + r.run, "-test.timeout=" + r.limit.String(), fmt.Sprintf("-test.short=%t", r.short), fmt.Sprintf("-test.v=%t", r.verbose)}
	}
	return runAll(ctx, b, programs, r.limit+time.Minute)
}

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
	if err := tell(exec.CommandContext(ctx, "go", append([]string{"test", "-c", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}, packages...)...)); err != nil {
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
