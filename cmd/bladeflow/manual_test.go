package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var manMacro = regexp.MustCompile(`^\.(TH|SH|TP|PP|EX|EE|br)( "[^"]*")*$`)

// TestManual: there is a page for every command that help shows, it has what --help has,
// and nothing of that is read as a macro. If the machine has a reader of such pages, it
// finds nothing wrong.
func TestManual(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	if _, stderr, err := invoke("", "docs", "man", dir); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	reader, _ := exec.LookPath("mandoc")
	pages := 0
	root := newRoot(func() {})
	root.InitDefaultHelpCmd()
	for _, c := range allCommands(root) {
		if c.Hidden {
			continue
		}
		pages++
		path := filepath.Join(dir, pageName(c)+".1")
		page, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		c.InitDefaultHelpFlag()
		for _, name := range []string{"output", "sort", "help"} {
			if f := c.Flags().Lookup(name); f != nil && !strings.Contains(string(page), `\-\-`+name) {
				t.Errorf("%s: no --%s", path, name)
			}
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"} {
			if !strings.Contains(string(page), "\n.SH \""+section+"\"\n") {
				t.Errorf("%s: no %s", path, section)
			}
		}
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, ".") && !manMacro.MatchString(strings.TrimSuffix(line, "\n")) || strings.HasPrefix(line, "'") {
				t.Errorf("%s: %q", path, line)
			}
		}
		if reader != "" {
			if out, err := exec.Command(reader, "-T", "lint", "-W", "error", path).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", path, err, out)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(files) != pages {
		t.Errorf("%d pages, %d commands: %v", len(files), pages, err)
	}
}

func TestEscaped(t *testing.T) {
	r := &roff{}
	r.text(`.TH \x --y`)
	r.text("'z")
	r.macro("SH", `a "b"`)
	if want := "\\&.TH \\ex \\-\\-y\n\\&'z\n.SH \"a \\(dqb\\(dq\"\n"; r.String() != want {
		t.Errorf("%q, want %q", r.String(), want)
	}
}
