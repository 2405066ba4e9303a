// Command bladeflow is the one binary of bladeflow: it parses flags, wires the
// rooms of the house together and prints. It decides nothing itself. Start reading
// with run and commands.
//
// Standard output is data, standard error is progress and warnings. Exit codes are
// in the contract: 0 ok, 1 failure or a fault found, 2 usage, 3 not found,
// 4 conflict, 5 denied, 6 unreachable or timed out, 7 partly done.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run carries out one command line and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	began := false // whether the command line made sense
	root := newRoot(func() { began = true })
	out := &sink{w: stdout}
	said := newProgress(stderr)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(contextWith(said))
	said.stop()
	switch {
	case err != nil && !began:
		err = misused(cmd, err)
	case out.err != nil:
		err = &flow.Fault{Code: "E_OUTPUT", What: "standard output", Why: out.err.Error(), Remedy: "see where it goes", Err: out.err}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "bladeflow: "+oneLine(err))
	return exitCode(err)
}

// sink is a writer that remembers its first error, so that those who print need not
// look at it.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(b)
	s.err = err
	return n, err
}

// newRoot returns the tree of commands. Each calls began before it does anything.
func newRoot(began func()) *cobra.Command {
	root := group("bladeflow", "flow rules and SR-IOV over a chassis: hardware where it is right, software everywhere else, proved equal",
		`  bladeflow demo
  bladeflow rules check web.yaml`, commands()...)
	root.Long = `bladeflow puts flow rules into NIC hardware where that is possible and right, answers
everything else in software, and proves that both judge every packet alike.

Start with "bladeflow demo" (root): it emulates a chassis on this machine.`
	root.Version = thisBinary().String() // for --version
	root.SetVersionTemplate("{{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetHelpCommand(helpCommand())
	root.CompletionOptions.DisableDefaultCmd = true // completionCommand is ours
	for _, c := range allCommands(root) {
		if c.Args == nil {
			c.Args = noOther
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
		does := c.RunE
		if does == nil { // it only holds others
			does = help
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			began()
			return does(cmd, args)
		}
	}
	return root
}

// group is a command that only holds others: alone it prints its help.
func group(use, short, example string, of ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example}
	cmd.AddCommand(of...)
	return cmd
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noOther refuses arguments: there are none, or they are commands.
func noOther(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usage(fmt.Sprintf("argument %q", args[0]), "this command takes none", "leave it out")
	}
	var known []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			known = append(known, c.Name())
		}
	}
	return usage(fmt.Sprintf("command %q", cmd.CommandPath()+" "+args[0]), "there is no such command", flow.Suggest(args[0], known...))
}

// allCommands returns root and every command below it.
func allCommands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		all = append(all, allCommands(c)...)
	}
	return all
}
