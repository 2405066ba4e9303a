package main

import (
	"bytes"
	goflag "flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = goflag.Bool("update", false, "write docs/errors.md anew")

var wholeCode = regexp.MustCompile(`^E_[A-Z0-9_]+$`)

// codesInSources returns every code that a Go file of the product has as a string, with
// one file that has it.
func codesInSources(t *testing.T) map[string]string {
	found := map[string]string{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch base := filepath.Base(name); {
		case err != nil:
			return err
		case d.IsDir() && name != root && (base == "testdata" || base == "tools" || strings.HasPrefix(base, ".")):
			return fs.SkipDir
		case filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && wholeCode.MatchString(text) {
					found[text] = name
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestExplained: the table has every code of the sources, no other and none twice, and
// docs/errors.md is made of it.
func TestExplained(t *testing.T) {
	all, err := explanations()
	if err != nil {
		t.Fatal(err)
	}
	inSources, known := codesInSources(t), map[string]bool{}
	for _, x := range all {
		if known[x.Code] {
			t.Errorf("%s is twice in faults.txt", x.Code)
		}
		known[x.Code] = true
		if _, there := inSources[x.Code]; !there {
			t.Errorf("%s is in faults.txt, and nothing prints it any more", x.Code)
		}
		for _, s := range []string{x.Means, x.Causes, x.Remedy} {
			if !strings.HasSuffix(s, ".") {
				t.Errorf("%s: %q is not a sentence", x.Code, s)
			}
		}
	}
	for _, code := range slices.Sorted(maps.Keys(inSources)) {
		if !known[code] {
			t.Errorf("%s of %s is not in faults.txt: say there what it means, what causes it, what to do", code, inSources[code])
		}
	}
	for code := range codes {
		if !known[code] {
			t.Errorf("%s has an exit code and no meaning", code)
		}
	}
	if len(inSources) < 200 {
		t.Errorf("only %d codes were found in the sources: does the test still see them?", len(inSources))
	}
	var page bytes.Buffer
	writeErrors(&page, all)
	path := filepath.Join("..", "..", "docs", "errors.md")
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(sure(os.ReadFile(path))), page.String()); diff != "" {
		t.Errorf("docs/errors.md is not of this table (-update writes it): -there +should\n%s", diff)
	}
}
