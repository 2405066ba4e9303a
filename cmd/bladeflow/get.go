package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
)

func getCommand() *cobra.Command {
	var on connection
	var q client.Query
	var watch, bare bool
	var audit audit
	cmd := &cobra.Command{
		Use:   "get NOUN [NAME...]",
		Short: "list objects of the fabric, or show some by name",
		Long: `List objects of a kind, or show those named. Kinds are ` + list(nounNames(anyNoun)) + `; in the plural, too.
Columns of tables may change from release to release; json and yaml are the API's objects. -w goes on
and prints each object again when it changed, one line of JSON for each with -o json, until it is stopped.

get entries shows entries of devices that are not as they should be, as agents found them last: of others
(--foreign), and with bladeflow's mark, but of nobody (--orphans). With --nic it reads a card of this machine
itself, all of its table if neither is asked for, and asks neither manager nor agent. It changes nothing.`,
		Example: `  bladeflow get blades
  bladeflow get vf --blade b1 -o wide
  bladeflow get profile web -o yaml > web.yaml
  bladeflow get profiles -l stage=live -w
  bladeflow get entries --foreign --orphans
  bladeflow get entries --nic 0000:03:00.0`,
		Args:              needs("bladeflow get blades", "NOUN", "[NAME...]"),
		ValidArgsFunction: completeNoun(anyNoun),
	}
	output := outputFlag(cmd, objectForms...)
	f := cmd.Flags()
	f.BoolVarP(&watch, "watch", "w", false, "go on, and print what changes")
	f.BoolVar(&bare, "no-headers", false, "leave out the line with the columns' names")
	f.StringVar(&q.Blade, "blade", "", "only what is on this blade")
	f.StringVar(&q.Tenant, "tenant", "", "only this tenant's")
	f.VarP(labelsFlag{&q.Labels}, "labels", "l", "only objects with these labels: NAME=VALUE, NAME!=VALUE, NAME, !NAME")
	audit.flags(f)
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		entries := args[0] == "entries" || args[0] == "entry"
		if err := audit.misplaced(cmd, entries, args); err != nil {
			return err
		}
		if entries {
			return audit.run(cmd, &on, q, *output, !bare)
		}
		n, err := findNoun(args[0], anyNoun)
		if err != nil {
			return err
		}
		c, err := on.open()
		if err != nil {
			return err
		}
		g := getting{cmd, c, n, q, args[1:], *output, !bare}
		switch {
		case watch:
			return g.watch()
		case len(g.names) == 1:
			return g.one()
		}
		return g.list()
	}
	return cmd
}

// getting is one `get`.
type getting struct {
	*cobra.Command
	client *client.Client
	noun   noun
	query  client.Query
	names  []string
	form   string
	heads  bool
}

// list prints all objects asked for.
func (g *getting) list() error {
	all, err := g.noun.all.List(g.Context(), g.client, g.query)
	if err != nil {
		return err
	}
	left := slices.Clone(g.names)
	items := all.Items[:0]
	for _, raw := range all.Items {
		name, err := nameOf(raw)
		if err != nil {
			return err
		}
		if g.asked(name) {
			items = append(items, raw)
		}
		left = slices.DeleteFunc(left, func(n string) bool { return n == name })
	}
	for _, name := range left {
		raw, err := g.noun.all.Get(g.Context(), g.client, name) // or it says in the manager's words that it is not there
		if err != nil {
			return err
		}
		items = append(items, raw)
	}
	if n := all.Metadata.Unlisted; n > 0 && len(g.names) == 0 {
		fmt.Fprintf(g.ErrOrStderr(), "note: %s in no report of a blade, which has those that counted most, and not in this list: --blade lists all of one blade\n", isOrAre(n, "rule"))
	}
	all.Items = items
	return printObjects(g.OutOrStdout(), g.noun, all, g.form, g.heads)
}

// isOrAre is count with a verb.
func isOrAre(n int, what string) string {
	if n == 1 {
		return count(n, what) + " is"
	}
	return count(n, what) + " are"
}

// asked reports whether an object is one of those that the command line names.
func (g *getting) asked(name string) bool {
	return len(g.names) == 0 || slices.Contains(g.names, name)
}

// one prints one object; JSON and YAML are the object, not a list.
func (g *getting) one() error {
	raw, err := g.noun.all.Get(g.Context(), g.client, g.names[0])
	if err != nil {
		return g.noun.bladeless(g.Context(), g.client, g.names[0], err)
	}
	switch g.form {
	case "json":
		return printJSON(g.OutOrStdout(), raw)
	case "yaml":
		return printYAML(g.OutOrStdout(), raw)
	}
	return printObjects(g.OutOrStdout(), g.noun, api.List[json.RawMessage]{Items: []json.RawMessage{raw}}, g.form, g.heads)
}

// watch prints objects as they are and as they change, until it is stopped.
func (g *getting) watch() error {
	if g.form == "csv" {
		return usage("-w", "csv has no way to say that an object is gone", "use -o json: one object a line")
	}
	ctx, stop := untilSignal(g.Command)
	defer stop()
	lines := columns{w: g.OutOrStdout()}
	if g.heads && (g.form == "table" || g.form == "wide") {
		lines.head = g.noun.heads(g.form == "wide")
	}
	for change, err := range g.noun.all.Follow(ctx, g.client, g.query) {
		if errors.Is(err, client.ErrLost) {
			fmt.Fprintf(g.ErrOrStderr(), "warning: %v; trying again\n", err)
			continue
		}
		if err != nil {
			return err
		}
		if err := g.changed(change, &lines); err != nil {
			return err
		}
	}
	return nil
}

// changed prints one object that changed, if it was asked for.
func (g *getting) changed(change client.Change[json.RawMessage], lines *columns) error {
	if !g.asked(change.Name) {
		return nil
	}
	var object any = change.Object
	if change.Deleted {
		object = deletedObject{api.NewHead(g.noun.kind, change.Name), true}
	}
	out := g.OutOrStdout()
	switch {
	case g.form == "json":
		return printJSONLine(out, object)
	case g.form == "yaml":
		fmt.Fprintln(out, "---")
		return printYAML(out, object)
	case g.form == "name":
		fmt.Fprintln(out, change.Name)
	case change.Deleted:
		lines.add([]string{change.Name, "deleted"})
	default:
		row, err := g.noun.row(change.Object)
		if err != nil {
			return err
		}
		lines.add(row[:len(g.noun.heads(g.form == "wide"))])
	}
	return nil
}

// deletedObject is what a watch says of an object that is there no more.
type deletedObject struct {
	api.Head
	Deleted bool `json:"deleted"`
}

// narrowest is how wide a column of a watch is at least: what comes later may be wider
// than what came before, and lines that were printed stay as they are.
const narrowest = 8

// columns prints rows one by one, each column as wide as it ever was.
type columns struct {
	w     io.Writer
	head  []string // goes before the first row; nil for none
	width []int
}

func (c *columns) add(row []string) {
	if head := c.head; head != nil {
		c.head = nil
		c.add(head)
	}
	var line strings.Builder
	for i, cell := range row {
		cell = harmless(cell)
		if i == len(c.width) {
			c.width = append(c.width, narrowest)
		}
		c.width[i] = max(c.width[i], utf8.RuneCountInString(cell))
		fmt.Fprintf(&line, "%-*s", c.width[i]+2, cell)
	}
	fmt.Fprintln(c.w, strings.TrimRight(line.String(), " "))
}

// completeNoun completes a noun, and then names that the manager knows.
func completeNoun(among func(noun) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nounNames(among), cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		if n, err := findNoun(args[0], among); err == nil {
			names = namesOf(cmd, n)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// namesOf asks the manager for names; a completion that fails completes nothing.
func namesOf(cmd *cobra.Command, n noun) []string {
	on := connection{timeout: 2 * time.Second}
	for flag, to := range map[string]*string{"server": &on.server, "pki": &on.dir, "as": &on.as, "ca": &on.files.CA, "cert": &on.files.Cert, "key": &on.files.Key} {
		*to, _ = cmd.Flags().GetString(flag)
	}
	c, err := on.open()
	if err != nil {
		return nil
	}
	all, err := n.all.List(cmd.Context(), c, client.Query{})
	if err != nil {
		return nil
	}
	var names []string
	for _, raw := range all.Items {
		if name, err := nameOf(raw); err == nil {
			names = append(names, name)
		}
	}
	return names
}
