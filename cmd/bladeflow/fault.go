package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Exit codes of the contract.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitDenied      = 5
	exitUnreachable = 6
	exitPartly      = 7
	exitInterrupted = 130 // as shells have it: 128 and the signal
)

// codes are the faults whose exit code is not 1 whatever their cause.
var codes = map[string]int{
	"E_USAGE":          exitUsage,
	"E_SERVER":         exitUsage,
	"E_DEVICE_UNKNOWN": exitNotFound,
	"E_NETDEV":         exitNotFound,
	"E_NOT_FOUND":      exitNotFound,
	"E_ROOT":           exitNotFound,
	"E_NO_ROOT":        exitDenied,
	"E_PRIVILEGED":     exitDenied,
	"E_LAB_UP":         exitFailure, // a file missing deep inside is not what was asked for
	"E_TIMEOUT":        exitUnreachable,
	"E_PARTLY":         exitPartly,
}

// causes are the errors of packages that say by themselves what kind they are.
var causes = map[error]int{
	client.ErrNotFound: exitNotFound, store.ErrNotFound: exitNotFound,
	client.ErrConflict: exitConflict, store.ErrConflict: exitConflict,
	client.ErrDenied: exitDenied, store.ErrDenied: exitDenied,
	client.ErrUnreachable: exitUnreachable, store.ErrUnreachable: exitUnreachable,
}

// exitCode is the one place that turns errors into exit codes.
func exitCode(err error) int {
	var fault *flow.Fault
	errors.As(err, &fault)
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnreachable
	case errors.Is(err, fs.ErrPermission):
		return exitDenied
	case fault != nil && codes[fault.Code] != 0:
		return codes[fault.Code]
	case errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	}
	for cause, code := range causes {
		if errors.Is(err, cause) {
			return code
		}
	}
	return exitFailure
}

// oneLine writes an error on one line, with its stable code. What users gave it, it
// repeats without control characters, and long words only by their beginning.
func oneLine(err error) string {
	var fault *flow.Fault
	if errors.Is(err, context.Canceled) {
		fault = &flow.Fault{Code: "E_INTERRUPTED", What: "command", Why: "interrupted", Remedy: "run it again"}
		err = fault
	}
	code := "E_INTERNAL"
	if errors.As(err, &fault) {
		code = fault.Code
	}
	const long = 160
	words := strings.Fields(harmless(err.Error()))
	for i, w := range words {
		if r := []rune(w); len(r) > long {
			words[i] = string(r[:long]) + "…"
		}
	}
	return strings.Join(words, " ") + " [" + code + "]"
}

// usage is the fault of a command line that makes no sense.
func usage(what, why, remedy string) error {
	return &flow.Fault{Code: "E_USAGE", What: what, Why: why, Remedy: remedy}
}

// misused turns what cobra finds wrong with a command line into a fault.
func misused(cmd *cobra.Command, err error) error {
	see := "see '" + cmd.CommandPath() + " --help'"
	var fault *flow.Fault
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &invalid):
		what := fmt.Sprintf("--%s %q", invalid.GetFlag().Name, invalid.GetValue())
		if errors.As(err, &fault) {
			return usage(what, fault.Why, fault.Remedy)
		}
		return usage(what, "not a value of this flag ("+invalid.GetFlag().Value.Type()+")", see)
	case errors.As(err, &fault):
		return fault
	}
	return usage(strings.TrimPrefix(cmd.CommandPath(), "bladeflow "), err.Error(), see)
}

// needRoot is the fault of commands that make namespaces and load XDP programs.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &flow.Fault{Code: "E_NO_ROOT", What: what, Why: "not root", Remedy: "run it as root: it makes namespaces and loads XDP programs"}
}
