package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	mention = regexp.MustCompile("`(bladeflow [^`]+)`")
	setName = regexp.MustCompile(`(?m)^metadata: \{name: ([a-z0-9-]+)\}$`)
	flag    = regexp.MustCompile(` (--[a-z][a-z-]*|-[a-z])\b`)
	isFile  = regexp.MustCompile(`^# ([a-z0-9-]+\.yaml)\n`)
)

// notRun are commands that documents show and that this test does not run: they need
// root or a chassis, or they stay until they are stopped.
var notRun = []string{"hwtest", "agent", "demo", "lab", "manager"}

// ofFabric are commands that ask a manager. TestDaemons runs those of README.md, and
// TestReference those of docs/cli.md.
var ofFabric = []string{"apply", "backup", "delete", "describe", "diff", "explain", "get", "move", "report", "restore", "revert", "snapshot", "support", "top", "wait"}

// TestDocuments runs the commands of the code blocks of README.md, CONTRIBUTING.md and
// docs, in order, in a folder of their own for each document. A block of YAML that begins
// with the comment of a file's name is saved under that first, and one with a
// RuleSet in it under the set's name, as readers would. Of what is not
// run, also in running text, command and flags must exist.
func TestDocuments(t *testing.T) {
	root := filepath.Join("..", "..")
	docs := append(sure(filepath.Glob(filepath.Join(root, "docs", "*.md"))), filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"))
	ran := 0
	for _, name := range docs {
		t.Run(filepath.Base(name), func(t *testing.T) {
			doc := readDocument(string(sure(os.ReadFile(name))))
			dir := t.TempDir()
			for file, text := range doc.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, line := range doc.commands {
				exists(t, line)
				if verb := strings.Fields(line)[1]; slices.Contains(notRun, verb) || slices.Contains(ofFabric, verb) {
					continue
				}
				ran++
				cmd := exec.Command("bash", "-c", line)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
			}
			for _, line := range doc.mentions {
				exists(t, line)
			}
		})
	}
	if ran < 5 {
		t.Errorf("only %d commands were found and run: does the test still see the code blocks?", ran)
	}
}

// exists fails if a command line names a command or a flag that is not there.
func exists(t *testing.T, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " #")
	root := newRoot(func() {})
	cmd, _, err := root.Find(strings.Fields(line)[1:])
	if err != nil || cmd == root {
		t.Errorf("%s: there is no such command (%v)", line, err)
		return
	}
	cmd.InitDefaultHelpFlag()
	for _, m := range flag.FindAllStringSubmatch(line, -1) {
		long, isLong := strings.CutPrefix(m[1], "--")
		if isLong && cmd.Flags().Lookup(long) == nil || !isLong && cmd.Flags().ShorthandLookup(m[1][1:]) == nil {
			t.Errorf("%s: there is no flag %s", line, m[1])
		}
	}
}

// document is what a Markdown text has for this test: files that its blocks are, and
// command lines in blocks and in running text.
type document struct {
	files              map[string]string
	commands, mentions []string
}

func readDocument(text string) document {
	d := document{files: map[string]string{}}
	for i, part := range strings.Split("\n"+text, "\n```") {
		if i%2 == 0 {
			for _, m := range mention.FindAllStringSubmatch(part, -1) {
				d.mentions = append(d.mentions, m[1])
			}
			continue
		}
		kind, block, _ := strings.Cut(part, "\n")
		if m := isFile.FindStringSubmatch(block); kind == "yaml" && m != nil {
			d.files[m[1]] = block + "\n"
		} else if m := setName.FindStringSubmatch(block); kind == "yaml" && m != nil && strings.Contains(block, "kind: RuleSet") {
			d.files[m[1]+".yaml"] = block + "\n"
		}
		for line := range strings.SplitSeq(block, "\n") {
			if line = strings.TrimPrefix(line, "$ "); strings.HasPrefix(line, "bladeflow ") {
				d.commands = append(d.commands, line)
			}
		}
	}
	return d
}

// TestReadDocument checks the check.
func TestReadDocument(t *testing.T) {
	d := readDocument("# A\nSay `bladeflow demo`, not `make demo`.\n```yaml\nkind: RuleSet\nmetadata: {name: web}\n```\n```\nbladeflow rules check web.yaml # form\nmake\n```\n")
	if want := []string{"bladeflow rules check web.yaml # form"}; !slices.Equal(d.commands, want) {
		t.Errorf("commands %q, want %q", d.commands, want)
	}
	if want := []string{"bladeflow demo"}; !slices.Equal(d.mentions, want) {
		t.Errorf("mentions %q, want %q", d.mentions, want)
	}
	if len(d.files) != 1 || d.files["web.yaml"] != "kind: RuleSet\nmetadata: {name: web}\n" {
		t.Errorf("files %q", d.files)
	}
}
