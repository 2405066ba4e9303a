package capacity

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes the report for a page or a ticket. The tables of PFs and ports
// are left to the other forms, and it says so.
func (d *Document) WriteMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w) // keeps the first error for Flush
	fmt.Fprintf(b, "# Capacity of %s\n\n", escape(d.Metadata.Name))
	for _, line := range d.Status.Summary {
		fmt.Fprintf(b, "- %s\n", escape(line))
	}
	fmt.Fprintln(b)
	for _, f := range d.facts() {
		fmt.Fprintf(b, "- %s: %s\n", f[0], escape(f[1]))
	}
	d.markdownTables(b, d.figureTables())
	d.markdownTables(b, d.roomTables())
	d.markdownTables(b, d.forecastTables())
	d.idleTable().markdown(b)
	if what := d.Status.WhatIf; what != nil {
		fmt.Fprintf(b, "\n## What if: %s\n\n", escape(what.title()))
		for _, line := range what.Warnings {
			fmt.Fprintf(b, "- **warning**: %s\n", escape(line))
		}
		for _, t := range d.whatIfTables() {
			t.markdown(b)
		}
	}
	d.qualityTable().markdown(b)
	fmt.Fprint(b, "\n## Method\n\n")
	for _, line := range d.Status.Method {
		fmt.Fprintf(b, "- %s\n", escape(line))
	}
	return b.Flush()
}

func (d *Document) markdownTables(w io.Writer, tables []table) {
	for _, t := range tables {
		if !t.Wide {
			t.markdown(w)
		} else if len(t.Rows) > 0 {
			fmt.Fprintf(w, "\n## %s\n\n%s rows; see the html, json or csv form.\n", t.Title, count(int64(len(t.Rows))))
		}
	}
}

func (t table) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n## %s\n", t.Title)
	if t.Note != "" {
		fmt.Fprintf(w, "\n%s\n", escape(t.Note))
	}
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n| %s |\n|", strings.Join(t.Head, " | "))
	for i := range t.Head {
		if i < t.Text {
			fmt.Fprint(w, "---|")
		} else {
			fmt.Fprint(w, "---:|")
		}
	}
	fmt.Fprintln(w)
	for _, row := range t.Rows {
		fmt.Fprint(w, "|")
		for _, cell := range row {
			fmt.Fprintf(w, " %s |", escape(cell))
		}
		fmt.Fprintln(w)
	}
}

// escape keeps names from being read as Markdown or HTML.
func escape(s string) string { return markdownEscapes.Replace(s) }

var markdownEscapes = strings.NewReplacer(`\`, `\\`, "|", `\|`, "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "<", "&lt;", "&", "&amp;", "\n", " ")

func (w *WhatIf) title() string {
	return fmt.Sprintf("%s more vNICs of %s", count(w.Wanted), profileName(w.Profile))
}
