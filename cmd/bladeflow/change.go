package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

// changing is what all commands that change the fabric have: whether to change at all,
// whether to wait, and how to print what happened.
type changing struct {
	connection
	dryRun bool
	wait   bool
	yes    bool // to what is asked at a terminal
	within time.Duration
	form   *string
}

func (g *changing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&g.dryRun, "dry-run", false, "change nothing; show the steps, what cannot be done now, and what is left after it")
	f.BoolVar(&g.wait, "wait", false, "return when every blade concerned runs and has proved what is wanted")
	withinFlag(cmd, &g.within, "how long --wait waits")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "wait")
	f.BoolVarP(&g.yes, "yes", "y", false, "do not ask at a terminal")
	g.form = outputFlag(cmd, "text", "json", "yaml")
	g.connection.flags(cmd)
}

// outcome is what a change did, as it is printed.
type outcome struct {
	api.Preview
	Waited *waited `json:"waited,omitempty"`
}

// finish waits, if that is wanted, and prints what a change did. begin is when the
// command began.
func (g *changing) finish(cmd *cobra.Command, c *client.Client, p api.Preview, begin time.Time) error {
	o := outcome{Preview: p}
	var late error
	if g.wait {
		var err error
		if o.Waited, err = g.until(cmd, c, p, begin); err != nil {
			return err
		}
		late = o.Waited.fault()
	}
	if late == nil || *g.form != "text" {
		if err := g.print(cmd.OutOrStdout(), o); err != nil {
			return err
		}
	}
	if g.wait && late == nil && *g.form == "text" {
		if blades := o.Waited.unreported(); len(blades) > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: where rules live is not reported yet by %s; 'bladeflow wait policy' waits for it\n", strings.Join(blades, ", "))
		}
	}
	return late
}

func (g *changing) print(w io.Writer, o outcome) error {
	switch *g.form {
	case "json":
		return printJSON(w, o)
	case "yaml":
		return printYAML(w, o)
	}
	would := ""
	if o.DryRun {
		would = "would be "
	}
	if len(o.Changes) == 0 {
		fmt.Fprintln(w, "nothing changes")
	}
	for _, t := range o.Changes {
		fmt.Fprintf(w, "%s %s %s%s\n", kindWord(t), t.Name, would, t.How)
	}
	if o.DryRun {
		return printPreview(w, o.Preview)
	}
	if o.Waited != nil && len(o.Changes) > 0 {
		for _, x := range o.Waited.Profiles {
			fmt.Fprintf(w, "profile %s is %s%s\n", x.Name, x.State, on(x.Blade))
		}
		fmt.Fprintf(w, "proved on %s after %s\n", count(o.Waited.proved(), "blade"), o.Waited.spent())
	}
	return nil
}

func on(blade string) string {
	if blade == "" {
		return ""
	}
	return " on " + blade
}

// kindWord is the word for what changed. Where a profile is has no noun: it is its place.
func kindWord(t api.Touched) string {
	if t.Kind == api.KindAssignment {
		return "place"
	}
	return strings.ToLower(t.Kind)
}

// confirm asks a person at a terminal before something large is done; programs are not
// asked.
func (g *changing) confirm(cmd *cobra.Command, what string) error {
	in, file := cmd.InOrStdin().(*os.File)
	if g.yes || g.dryRun || !file {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err != nil {
		return nil // not a terminal
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s? [y/N] ", what)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(answer)), "y") {
		return &flow.Fault{Code: "E_INTERRUPTED", What: what, Why: "the answer was not yes", Remedy: "answer y, or give --yes"}
	}
	return nil
}

// printPreview prints what a dry run says beside the changes.
func printPreview(w io.Writer, p api.Preview) error {
	steps := [][]string{{"STEP", "BLADE", "KIND", "WHAT"}}
	for i, s := range p.Steps {
		steps = append(steps, []string{strconv.Itoa(i + 1), s.Blade, s.Kind, s.Text})
	}
	held := [][]string{{"HELD", "VNIC", "WHY"}}
	for _, h := range p.Held {
		held = append(held, []string{h.Blade, dash(h.VNIC), reason(&h.Error)})
	}
	left := [][]string{{"BLADE", "FREE VFS", "GUARANTEED", "RULES"}}
	change := func(was, is string) string {
		if was == is {
			return is
		}
		return was + " -> " + is
	}
	for _, c := range p.Capacity {
		left = append(left, []string{c.Blade, change(strconv.Itoa(c.Before.VFs), strconv.Itoa(c.After.VFs)), change(c.Before.Guaranteed, c.After.Guaranteed),
			change(strconv.Itoa(c.Before.Rules), strconv.Itoa(c.After.Rules))})
	}
	for _, rows := range [][][]string{steps, held, left} {
		if len(rows) == 1 {
			continue
		}
		fmt.Fprintln(w)
		if err := printTable(w, rows); err != nil {
			return err
		}
	}
	if p.Fleet != nil && p.Fleet.Text != "" {
		fmt.Fprintf(w, "\n%s\n", p.Fleet.Text)
	}
	for _, c := range p.Capacity {
		if c.Text != "" {
			fmt.Fprintf(w, "%s\n", c.Text)
		}
	}
	return nil
}

// count writes a number of things: 1 rule, 2 rules, 3 entries.
func count(n int, thing string) string {
	stem, ends := strings.CutSuffix(thing, "ry")
	switch {
	case n == 1:
	case ends:
		thing = stem + "ries"
	default:
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
