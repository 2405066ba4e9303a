package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
)

// outputFlag adds -o with the forms a command can print; the first is the default.
func outputFlag(cmd *cobra.Command, forms ...string) *string {
	o := &chosen{value: forms[0], forms: forms}
	cmd.Flags().VarP(o, "output", "o", strings.Join(forms, " or "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return &o.value
}

// chosen is a flag that takes one of a few words.
type chosen struct {
	value string
	forms []string
}

func (c *chosen) String() string { return c.value }
func (c *chosen) Type() string   { return "form" }
func (c *chosen) Set(s string) error {
	for _, f := range c.forms {
		if f == s {
			c.value = s
			return nil
		}
	}
	return fmt.Errorf("unknown form: use %s", strings.Join(c.forms, ", "))
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable writes rows in columns; the first row is the head.
func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// progress says on standard error, once a second, how far long work is.
type progress struct {
	w    io.Writer
	what string
	next time.Time
}

func newProgress(cmd *cobra.Command, what string) *progress {
	return &progress{w: cmd.ErrOrStderr(), what: what, next: time.Now().Add(time.Second)}
}

func (p *progress) at(done, all int) {
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(time.Second)
		fmt.Fprintf(p.w, "%s: %d of %d\n", p.what, done, all)
	}
}

// needRoot is the fault of commands that make namespaces and load XDP programs.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return &flow.Fault{Code: "E_NO_ROOT", What: what, Why: "not root", Remedy: "run it as root: it makes namespaces and loads XDP programs"}
}
