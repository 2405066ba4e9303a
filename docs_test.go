package bladeflow

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// sources calls f for every Go file of the product below the root: not of the tools'
// module, nor of testdata.
func sources(t *testing.T, f func(name string)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch base := path.Base(name); {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (base == "testdata" || base == "tools" || strings.HasPrefix(base, ".")):
			return fs.SkipDir
		case path.Ext(name) == ".go" && path.Dir(name) != ".":
			f(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDocs fails for exported names without a comment, for packages without a package
// comment, and for packages without tests. Generated files need neither.
func TestDocs(t *testing.T) {
	type pkg struct{ code, doc, tests bool }
	packages := map[string]*pkg{}
	sources(t, func(name string) {
		dir := path.Dir(name)
		if packages[dir] == nil {
			packages[dir] = &pkg{}
		}
		p := packages[dir]
		if strings.HasSuffix(name, "_test.go") {
			p.tests = true
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(file) {
			return
		}
		p.code = true
		p.doc = p.doc || file.Doc != nil
		for _, n := range undocumented(file) {
			t.Errorf("%s: %s is exported and has no comment", fset.Position(n.Pos()), n.Name)
		}
	})
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		switch p := packages[dir]; {
		case !p.code:
		case !p.doc:
			t.Errorf("package %s has no package comment", dir)
		case !p.tests:
			t.Errorf("package %s has no tests", dir)
		}
	}
}

// undocumented returns the exported names that a file declares without a comment. A
// comment of a group counts for each of the group; fields and methods of interfaces
// are their type's business.
func undocumented(file *ast.File) []*ast.Ident {
	var out []*ast.Ident
	check := func(n *ast.Ident, docs ...*ast.CommentGroup) {
		if n.IsExported() && !slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d != nil }) {
			out = append(out, n)
		}
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if receiver := receiverOf(d); receiver == nil || receiver.IsExported() {
				check(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					check(s.Name, d.Doc, s.Doc, s.Comment)
				case *ast.ValueSpec:
					for _, n := range s.Names {
						check(n, d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	return out
}

// receiverOf returns the type that a function is a method of, or nil.
func receiverOf(f *ast.FuncDecl) *ast.Ident {
	if f.Recv == nil {
		return nil
	}
	e := f.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x
		default:
			return nil
		}
	}
}

// TestUndocumented checks the check.
func TestUndocumented(t *testing.T) {
	const src = `package p
// Has a comment.
func Has() {}
func Lacks() {}
func private() {}
type T struct{ Field int }
func (t *T) Method() {}
func (hidden) Method() {}
type hidden int
// All of them.
const ( A = 1; B = 2 )
var ( C = 1 // said behind
D = 2 )
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range undocumented(file) {
		got = append(got, n.Name)
	}
	if want := []string{"Lacks", "T", "Method", "D"}; !slices.Equal(got, want) {
		t.Errorf("undocumented: %v, want %v", got, want)
	}
}
