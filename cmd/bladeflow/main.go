// Command bladeflow is the one binary of bladeflow: it parses flags, wires the
// rooms of the house together and prints. It decides nothing itself.
//
// Standard output is data, standard error is progress and warnings. Exit codes are
// in the contract: 0 ok, 1 failure or a fault found, 2 usage, 3 not found,
// 4 conflict, 5 denied, 6 unreachable or timed out, 7 partly done.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run carries out one command line and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !errors.Is(err, errSaid) {
		fmt.Fprintln(stderr, "bladeflow: "+oneLine(err))
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "bladeflow",
		Short: "flow rules and SR-IOV over a chassis: hardware where it is right, software everywhere else, proved equal",
		Long: `bladeflow puts flow rules into NIC hardware where that is possible and right, answers
everything else in software, and proves that both judge every packet alike.

Start with "bladeflow demo" (root): it emulates a chassis on this machine.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.AddCommand(commands()...)
	for _, c := range allCommands(root) {
		c.Args = usageArgs(c.Args)
	}
	return root
}

// allCommands returns root and every command below it.
func allCommands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		all = append(all, allCommands(c)...)
	}
	return all
}

// Exit codes of the contract.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitDenied      = 5
	exitUnreachable = 6
)

// errSaid is a failure whose explanation is already printed.
var errSaid = errors.New("already said")

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }

func usage(cmd *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%s: %w: see '%s --help'", strings.TrimPrefix(cmd.CommandPath(), "bladeflow "), err, cmd.CommandPath())}
}

// usageArgs makes a wrong number of arguments a usage error that names the remedy.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			check = cobra.NoArgs
			if cmd.HasSubCommands() && len(args) > 0 {
				return usage(cmd, fmt.Errorf("unknown command %q", args[0]))
			}
		}
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// exitCode is the one place that turns errors into exit codes.
func exitCode(err error) int {
	var use usageError
	var fault *flow.Fault
	switch {
	case errors.As(err, &use):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return 130
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnreachable
	case errors.As(err, &fault):
		return faultCode(fault.Code)
	case errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, fs.ErrPermission):
		return exitDenied
	}
	return exitFailure
}

func faultCode(code string) int {
	switch code {
	case "E_USAGE":
		return exitUsage
	case "E_NOT_FOUND", "E_DEVICE_UNKNOWN", "E_NO_FILE":
		return exitNotFound
	case "E_DENIED", "E_NO_ROOT":
		return exitDenied
	case "E_UNREACHABLE":
		return exitUnreachable
	}
	return exitFailure
}

// oneLine writes an error on one line, with its stable code if it has one.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	var fault *flow.Fault
	if errors.As(err, &fault) && fault.Code != "" {
		s += " [" + fault.Code + "]"
	}
	return s
}
