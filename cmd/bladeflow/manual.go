package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bladeflow/bladeflow/flow"
)

// Manual pages, written from the same tree as --help. (Cobra's own writer reads help as
// Markdown and brings two modules with it; our help is plain text, which roff takes as it
// is but for a few characters.)

func docsCommand() *cobra.Command {
	return group("docs", "write documentation of the commands", "  bladeflow docs man /usr/local/share/man/man1", docsMan())
}

func docsMan() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "write a manual page for each command into a directory",
		Long: `Write manual pages, section 1, one for each command: bladeflow.1, bladeflow-get.1 and so on. The directory is
made if it is not there; pages that are there are replaced. The same program writes the same bytes.`,
		Example: `  bladeflow docs man /usr/local/share/man/man1
  bladeflow docs man pages`,
		Args: needs("bladeflow docs man /usr/local/share/man/man1", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := writeManual(args[0], cmd.Root())
			if path, ok := errors.AsType[*fs.PathError](err); ok {
				return &flow.Fault{Code: "E_FILE", What: path.Path, Why: path.Err.Error(), Remedy: "name a directory that can be written", Err: err}
			}
			return err
		},
	}
}

// writeManual writes the pages of all commands.
func writeManual(dir string, root *cobra.Command) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range allCommands(root) {
		if c.Hidden {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, pageName(c)+".1"), []byte(manual(c)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pageName is the name of a command's page.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manual is the page of a command, in the macros of man(7).
func manual(c *cobra.Command) string {
	p := &roff{}
	p.macro("TH", strings.ToUpper(pageName(c)), "1", "", "bladeflow "+c.Root().Version, "bladeflow manual")
	p.macro("SH", "NAME")
	p.text(pageName(c) + " - " + c.Short)
	p.macro("SH", "SYNOPSIS")
	p.text(c.UseLine())
	p.macro("SH", "DESCRIPTION")
	if c.Long == "" {
		p.text(strings.ToUpper(c.Short[:1]) + c.Short[1:] + ".")
	} else {
		p.paragraphs(c.Long)
	}
	if of := c.Commands(); len(of) > 0 {
		p.macro("SH", "COMMANDS")
		for _, sub := range of {
			if !sub.Hidden {
				p.macro("TP")
				p.text(sub.Name())
				p.text(sub.Short)
			}
		}
	}
	c.InitDefaultHelpFlag()
	p.macro("SH", "OPTIONS")
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			p.option(f)
		}
	})
	p.macro("SH", "EXIT STATUS")
	p.paragraphs(exitStatus)
	p.macro("SH", "EXAMPLES")
	p.macro("EX")
	for line := range strings.SplitSeq(c.Example, "\n") {
		p.text(line)
	}
	p.macro("EE")
	p.macro("SH", "SEE ALSO")
	see := []string{"bladeflow(1)"}
	if c.HasParent() && c.Parent().HasParent() {
		see = append(see, pageName(c.Parent())+"(1)")
	}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			see = append(see, pageName(sub)+"(1)")
		}
	}
	p.text(strings.Join(see, ", "))
	return p.String()
}

// exitStatus is the contract's.
const exitStatus = `0 ok; 1 failed, or differences or faults were found; 2 the command line makes no sense; 3 not found; 4 conflict: it was
changed meanwhile; 5 denied; 6 unreachable or timed out; 7 partly done.

An error is one line on standard error that ends in a code; 'bladeflow explain' says what it means.`

// roff is a page being written.
type roff struct{ strings.Builder }

// macro begins a line with a macro and its arguments.
func (r *roff) macro(name string, args ...string) {
	r.WriteString("." + name)
	for _, a := range args {
		fmt.Fprintf(r, ` "%s"`, strings.ReplaceAll(escaped(a), `"`, `\(dq`))
	}
	r.WriteByte('\n')
}

// text writes one line as it is.
func (r *roff) text(line string) {
	line = escaped(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line // it is no macro
	}
	r.WriteString(line + "\n")
}

// paragraphs writes text whose paragraphs have empty lines between them. Lines that are
// indented stay lines.
func (r *roff) paragraphs(text string) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			r.macro("PP")
		}
		for line := range strings.SplitSeq(paragraph, "\n") {
			if strings.HasPrefix(line, " ") {
				r.macro("br")
			}
			if line != "" {
				r.text(line)
			}
		}
	}
}

// option writes one flag.
func (r *roff) option(f *pflag.Flag) {
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	value, usage := pflag.UnquoteUsage(f)
	if value != "" {
		name += " " + value
	}
	r.macro("TP")
	r.text(name)
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
	default:
		usage += " (" + f.DefValue + " if not given)"
	}
	r.text(usage)
}

// escaped keeps characters from meaning something to roff. A minus is one that can be
// copied into a shell.
func escaped(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
}
