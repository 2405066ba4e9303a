package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// runTests is go test for packages whose tests share one machine, for a boot takes longer
// than most of them. Its flags are those of go test.
func runTests(ctx context.Context, b bed, args []string) int {
	flags := flag.NewFlagSet("vm test", flag.ContinueOnError)
	run := flags.String("run", "", "tests to run, a pattern")
	short := flags.Bool("short", false, "run the short forms")
	verbose := flags.Bool("v", false, "say what runs")
	limit := flags.Duration("timeout", 10*time.Minute, "how long all of it may take")
	if flags.Parse(args) != nil || flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "vm test: name packages")
		return exitUsage
	}
	dir, err := os.MkdirTemp("", "bladeflow-vm-")
	if err != nil {
		say("%v", err)
		return exitMissing
	}
	defer os.RemoveAll(dir)
	programs, err := compile(ctx, dir, flags.Args())
	if err != nil {
		say("%v", err)
		return exitFailure
	}
	for i := range programs {
		programs[i].Args = []string{"-test.run=" + *run, "-test.timeout=" + limit.String(), fmt.Sprintf("-test.short=%t", *short), fmt.Sprintf("-test.v=%t", *verbose)}
	}
	return runAll(ctx, b, programs, *limit+time.Minute)
}

// compile builds the packages' test binaries into a folder. A package without tests has
// none.
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
	var programs []program
	for line := range strings.Lines(string(bytes.TrimSpace(out))) {
		name, at, _ := strings.Cut(strings.TrimSpace(line), "\t")
		inside, err := filepath.Rel(root, at)
		if err != nil {
			return nil, err
		}
		p := program{Name: name, Dir: inside, at: filepath.Join(dir, fmt.Sprintf("%d.test", len(programs)))}
		// Without what debuggers need: the machine's memory holds it.
		if err := tell(exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", p.at, name)); err != nil {
			return nil, err
		}
		if _, err := os.Stat(p.at); err == nil {
			programs = append(programs, p)
		}
	}
	return programs, nil
}
