package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

// What is busiest now: bladeflow top. The manager computes, sorts and cuts; this asks, again and
// again, and draws a table of it, with the past of each line where there is a terminal.

// topping is one `top`.
type topping struct {
	client *client.Client
	kind   api.BusyKind
	blade  string
	by     string // column
	limit  int    // 0: all, or on a terminal as many as fit
	every  time.Duration
	once   bool
	json   bool
}

func topCommand() *cobra.Command {
	var on connection
	var o topping
	cmd := &cobra.Command{
		Use:   "top [NOUN]",
		Short: "show what is busiest now, the busiest first",
		Long: `Show what has most to do: ` + list(api.BusyNames()) + `; blades if none is named, in the plural, too. On a terminal it
refreshes until it is stopped, with a line of what each was in the last refreshes, in proportion to its own
largest; elsewhere it prints one table an interval, or with -o json one list of the API a line. --once prints
one and ends.

Rates are what counters grew between the last two reports of a blade, a second: nothing is averaged over more,
and nothing estimated. AGE is how old the last report is. A blade reports what rules have counted at most once
a second, a list of a thousand rules every 40 s, and what passed its functions every 10 s, and only if anything
was counted: "quiet" is a blade that is alive and has counted nothing since. "once" has reported one time so
far, "silent" does not report any more, and "none" never did: their rates are not known, which is -. Of more
than 1,024 rules a blade lists those that counted most.

Columns are numbers with k, M or G: packets and bits a second; bits are of both directions; load is of a link's
speed, and of what a vNIC may send; table is of the entries that a device takes, of a blade its fullest one's.`,
		Example: `  bladeflow top
  bladeflow top rules --blade b1 --sort software --limit 10
  bladeflow top vnics --once -o json`,
		Args:              needs("bladeflow top rules", "[NOUN]"),
		ValidArgsFunction: cobra.FixedCompletions(api.BusyNames(), cobra.ShellCompDirectiveNoFileComp),
	}
	output := outputFlag(cmd, "table", "json")
	f := cmd.Flags()
	f.StringVar(&o.by, "sort", "", "by this `COLUMN`; by the first if not given")
	f.IntVar(&o.limit, "limit", 0, "at most so many lines; 0 is all, or on a terminal as many as fit")
	f.DurationVar(&o.every, "interval", 2*time.Second, "how often to look")
	f.BoolVar(&o.once, "once", false, "look once and end")
	f.StringVar(&o.blade, "blade", "", "only what is on this blade")
	_ = cmd.RegisterFlagCompletionFunc("sort", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if k, err := topKind(args); err == nil {
			for _, c := range k.Columns {
				names = append(names, c.Name+"\t"+c.Unit)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.kind, err = topKind(args); err != nil {
			return err
		}
		if err := o.check(); err != nil {
			return err
		}
		if o.client, err = on.open(); err != nil {
			return err
		}
		o.json = *output == "json"
		return o.run(cmd)
	}
	return cmd
}

// topKind returns the kind that an argument means.
func topKind(args []string) (api.BusyKind, error) {
	word := "blade"
	if len(args) > 0 {
		word = strings.ToLower(args[0])
	}
	for _, k := range api.BusyKinds() {
		if word == k.Name || word == k.Name+"s" {
			return k, nil
		}
	}
	return api.BusyKind{}, usage(fmt.Sprintf("noun %q", word), "nothing is counted of it", flow.Suggest(strings.TrimSuffix(word, "s"), api.BusyNames()...))
}

// check refuses flags that make no sense, and takes the first column if none is named.
func (o *topping) check() error {
	names := o.kind.ColumnNames()
	o.by = cmp.Or(o.by, names[0])
	switch {
	case !slices.Contains(names, o.by):
		return usage(fmt.Sprintf("--sort %q", o.by), "a "+o.kind.Name+" has no such column", flow.Suggest(o.by, names...))
	case o.limit < 0:
		return usage(fmt.Sprintf("--limit %d", o.limit), "not a number of lines", "use 1 or more, or leave it out")
	case o.every < 100*time.Millisecond:
		return usage(fmt.Sprintf("--interval %v", o.every), "shorter than a tenth of a second", "use a duration like 2s")
	}
	return nil
}

// remembered is how many refreshes a sparkline shows.
const remembered = 20

// run looks and prints until it is stopped.
func (o *topping) run(cmd *cobra.Command) error {
	ctx, stop := untilSignal(cmd)
	defer stop()
	out := cmd.OutOrStdout()
	_, terminal := terminalSize()
	screen := terminal && !o.once && !o.json
	if screen {
		fmt.Fprint(out, "\x1b[?1049h\x1b[?25l") // a screen of its own, without a cursor
		defer fmt.Fprint(out, "\x1b[?25h\x1b[?1049l")
	}
	history := past{}
	for first := true; ; first = false {
		size, _ := terminalSize()
		limit := o.limit
		if screen && limit == 0 {
			limit = max(1, int(size.Row)-3) // what is above and below the lines
		}
		all, err := o.client.Busiest(ctx, o.kind.Name, o.blade, o.by, limit)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, client.ErrUnreachable) && !first && !o.once:
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v; trying again\n", err)
		case err != nil:
			return err
		case o.json:
			if err := printJSONLine(out, all); err != nil {
				return err
			}
		default:
			f := frame{kind: o.kind, by: o.by, list: all, now: time.Now()}
			if screen {
				f.bars, f.past, f.width = barsFor(os.Getenv), history, int(size.Col)
				history.add(f.sorted(), remembered)
				fmt.Fprint(out, "\x1b[H")
			} else if !first {
				fmt.Fprintln(out)
			}
			if err := f.print(out, screen); err != nil {
				return err
			}
		}
		if o.once || !rested(ctx, o.every) {
			return nil
		}
	}
}

// rested waits and reports whether to go on.
func rested(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// terminalSize returns the size of standard output, and whether it is a terminal.
func terminalSize() (unix.Winsize, bool) {
	size, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return unix.Winsize{}, false
	}
	return *size, true
}

// frame is one refresh.
type frame struct {
	kind  api.BusyKind
	by    string
	list  api.List[api.Busy]
	now   time.Time
	bars  bars // nil draws no sparklines
	past  past
	width int // of the terminal; 0 cuts nothing
}

// sorted returns the figure by which the things are sorted, by their names; NaN if it is
// not known.
func (f *frame) sorted() map[string]float64 {
	out := map[string]float64{}
	for _, b := range f.list.Items {
		v, known := b.Status.Figures[f.by]
		if !known {
			v = math.NaN()
		}
		out[b.Metadata.Name] = v
	}
	return out
}

// print writes the frame; on a screen each line replaces what was there, and what is below
// goes.
func (f *frame) print(w io.Writer, screen bool) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s by %s at %s\n", count(len(f.list.Items)+f.list.Metadata.Remaining, f.kind.Name), f.shown(), f.by, f.now.UTC().Format(time.RFC3339))
	if err := printTable(&text, f.rows()); err != nil {
		return err
	}
	if !screen {
		_, err := io.WriteString(w, text.String())
		return err
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprint(w, cut(strings.TrimSuffix(line, "\n"), f.width), "\x1b[K\n")
	}
	_, err := fmt.Fprint(w, "\x1b[J")
	return err
}

// shown says how many of all there are in the frame.
func (f *frame) shown() string {
	if f.list.Metadata.Remaining == 0 {
		return "all"
	}
	return "first " + strconv.Itoa(len(f.list.Items))
}

// cut shortens a line to what a terminal shows; width 0 is any.
func cut(line string, width int) string {
	if width <= 0 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width])
}

// rows are the table, the head first.
func (f *frame) rows() [][]string {
	head := []string{"NAME"}
	for _, c := range f.kind.Columns {
		head = append(head, headOfColumn(c))
	}
	for _, w := range f.kind.Words {
		head = append(head, strings.ToUpper(w))
	}
	sources := f.kind.Sources()
	for _, from := range sources {
		if len(sources) == 1 {
			from = ""
		}
		head = append(head, strings.ToUpper(strings.TrimSuffix("age-"+from, "-")))
	}
	if f.bars != nil {
		head = append(head, strings.ToUpper(f.by))
	}
	rows := [][]string{head}
	for _, b := range f.list.Items {
		row := []string{b.Metadata.Name}
		for _, c := range f.kind.Columns {
			v, known := b.Status.Figures[c.Name]
			row = append(row, figureText(v, known, c.Unit))
		}
		for _, w := range f.kind.Words {
			row = append(row, dash(b.Status.Words[w]))
		}
		for _, from := range sources {
			row = append(row, ageText(b.Status.Readings[from], f.now))
		}
		if f.bars != nil {
			row = append(row, f.bars.sparkline(f.past[b.Metadata.Name]))
		}
		rows = append(rows, row)
	}
	return rows
}

// headOfColumn names a column, and its unit where the name does not.
func headOfColumn(c api.BusyColumn) string {
	name := strings.ToUpper(c.Name)
	switch {
	case c.Unit == "%":
		return name + "%"
	case strings.HasPrefix(c.Unit, strings.TrimSuffix(c.Name, "s")) && strings.HasSuffix(c.Unit, "/s"):
		return name + "/S"
	}
	return name
}

// figureText writes a figure: entries as they are, shares with one decimal, all else with
// three digits and k, M or G.
func figureText(v float64, known bool, unit string) string {
	switch {
	case !known:
		return "-"
	case unit == "entries":
		return strconv.FormatFloat(v, 'f', 0, 64)
	case unit == "%":
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	for _, u := range []struct {
		of   float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= u.of*0.9995 {
			return digits(v/u.of) + u.name
		}
	}
	return digits(v)
}

// digits writes three digits of a number below a thousand.
func digits(v float64) string {
	switch {
	case v == math.Trunc(v) || v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// ageText says how old a reading is, and if it is not measured, what it is.
func ageText(r api.Reading, now time.Time) string {
	age := max(0, now.Sub(r.At)).Round(100 * time.Millisecond)
	switch r.State {
	case "", api.ReadingNone:
		return api.ReadingNone
	case api.ReadingMeasured:
		return age.String()
	}
	return r.State + " " + age.Round(time.Second).String()
}
