package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value *string
	words []string
}

// choiceFlag adds a flag that takes one of words, and completes them.
func choiceFlag(cmd *cobra.Command, value *string, name, short, byDefault, help string, words ...string) {
	*value = byDefault
	cmd.Flags().VarP(&choice{value, words}, name, short, help+": "+list(words))
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// outputFlag adds -o with the forms a command can print; the first is the default.
func outputFlag(cmd *cobra.Command, forms ...string) *string {
	var o string
	choiceFlag(cmd, &o, "output", "o", forms[0], "what to print", forms...)
	return &o
}

func (c *choice) String() string { return *c.value }

// Type is what --help calls the value.
func (c *choice) Type() string { return "word" }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.words, s) {
		return usage(s, "unknown", flow.Suggest(s, c.words...))
	}
	*c.value = s
	return nil
}

// patience is a flag that takes how long to wait: more than nothing, which is found before
// anything is done.
type patience struct{ value *time.Duration }

// withinFlag adds the flag that says how long to wait.
func withinFlag(cmd *cobra.Command, value *time.Duration, help string) {
	*value = time.Minute
	cmd.Flags().Var(patience{value}, "within", help)
}

func (p patience) String() string { return p.value.String() }

// Type is what --help calls the value.
func (p patience) Type() string { return "duration" }

func (p patience) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return usage(s, "not a time to wait", "use a duration like 30s")
	}
	*p.value = d
	return nil
}

// list writes `a, b or c`.
func list(words []string) string {
	last := len(words) - 1
	if last <= 0 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printJSONLine writes v as one line of a stream.
func printJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printTable writes rows in columns; the first row is the head.
func printTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = harmless(cell)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	return t.Flush()
}

// harmless is text of somebody else, as a terminal may have it: on one line, and without characters
// that a terminal takes for commands. What a blade reports is its agent's to say.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// progress says on standard error, once a second, what a command that takes longer is
// doing. Commands that never call doing say nothing.
type progress struct {
	mu     sync.Mutex // guards what
	what   string
	ended  chan struct{}
	closed chan struct{}
}

type progressKey struct{}

func newProgress(w io.Writer) *progress {
	p := &progress{ended: make(chan struct{}), closed: make(chan struct{})}
	go p.run(w)
	return p
}

func (p *progress) run(w io.Writer) {
	defer close(p.closed)
	start := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.ended:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if p.what != "" {
			fmt.Fprintf(w, "%.0f s: %s\n", time.Since(start).Seconds(), p.what)
		}
		p.mu.Unlock()
	}
}

// contextWith is a context for commands whose progress p is to say.
func contextWith(p *progress) context.Context {
	return context.WithValue(context.Background(), progressKey{}, p)
}

// stop ends p; nothing is said after it returns.
func (p *progress) stop() {
	close(p.ended)
	<-p.closed
}

// doing says what the command is at, for people who wait.
func doing(cmd *cobra.Command, format string, a ...any) {
	if p, ok := cmd.Context().Value(progressKey{}).(*progress); ok {
		what := fmt.Sprintf(format, a...)
		p.mu.Lock()
		p.what = what
		p.mu.Unlock()
	}
}
