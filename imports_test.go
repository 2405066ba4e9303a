package bladeflow

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bladeflow/bladeflow/"

// policy lists what each package may import from this module, in every build
// configuration. It is the layering of the house (docs/architecture.md): change it
// only with an ADR.
var policy = map[string][]string{
	"flow":                    {},
	"flow/ruleset":            {"flow"},
	"flow/flowtest":           {"flow"},
	"flow/document":           {},
	"matcher":                 {"flow"},
	"offload":                 {"flow", "offload/device"},
	"offload/device":          {"flow"},
	"offload/verify":          {"flow", "offload/device"},
	"offload/softnic":         {"flow", "offload/device", "offload"},
	"offload/tcflower":        {"flow", "offload/device", "offload"},
	"offload/ntuple":          {"flow", "offload"},
	"offload/offloadtest":     {"flow", "offload/device", "offload"},
	"fallback":                {"flow", "matcher", "fallback/flowcache"},
	"fallback/flowcache":      {"flow"},
	"fallback/afxdp":          {"flow"},
	"fallback/afpacket":       {"flow"},
	"fabric":                  {"flow"},
	"fabric/discover":         {"flow", "fabric", "fabric/api"},
	"fabric/pki":              {"flow"},
	"fabric/store":            {"flow"},
	"fabric/api":              {"flow"},
	"fabric/client":           {"flow", "fabric/api"},
	"fabric/manager":          {"flow", "flow/document", "flow/ruleset", "fabric", "fabric/api", "fabric/capacity", "fabric/capacity/history", "fabric/pki", "fabric/store"},
	"fabric/provision":        {"flow", "fabric"},
	"fabric/capacity":         {"flow", "flow/document", "fabric"},
	"fabric/capacity/history": {"flow", "fabric/capacity"},
	"fabric/agent": {"flow", "flow/ruleset", "matcher", "offload", "offload/device", "offload/verify", "offload/softnic", "offload/tcflower",
		"fallback", "fallback/afxdp", "fallback/afpacket", "fallback/flowcache", "fabric", "fabric/discover", "fabric/api", "fabric/provision", "fabric/store", "fabric/pki"},
	"hwtests": {"flow", "flow/ruleset", "flow/flowtest", "offload", "offload/device", "offload/verify", "offload/softnic", "offload/tcflower",
		"fallback", "fallback/afxdp", "fallback/afpacket", "fabric", "fabric/agent", "fabric/api", "fabric/capacity", "fabric/client", "fabric/discover", "fabric/manager",
		"fabric/pki", "fabric/provision", "fabric/store",
		"hwtests/lab", "hwtests/netns", "hwtests/observe", "hwtests/traffic"},

	"fabric/provision/provisiontest": {"flow", "fabric", "fabric/provision"},

	"hwtests/must":    {},
	"hwtests/lab":     {"flow", "offload", "offload/softnic", "hwtests/netns", "hwtests/observe", "hwtests/traffic"},
	"hwtests/netns":   {},
	"hwtests/observe": {"hwtests/netns", "hwtests/traffic"},
	"hwtests/peers":   {"flow", "flow/flowtest", "fallback", "fallback/afxdp", "fallback/flowcache", "hwtests/lab", "hwtests/netns"},
	"hwtests/traffic": {"hwtests/netns"},
	"hwtests/vm":      {},
	"cmd/bladeflow": {"flow", "flow/ruleset", "flow/flowtest", "matcher", "offload", "offload/device", "offload/verify",
		"fabric", "fabric/agent", "fabric/api", "fabric/capacity", "fabric/capacity/history", "fabric/client", "fabric/discover", "fabric/manager", "fabric/pki", "fabric/store", "hwtests", "hwtests/lab", "hwtests/peers"},
}

// inTests lists what tests of a package may import on top of that. Every test may
// import hwtests/must and flow/flowtest.
var inTests = map[string][]string{
	"matcher":          {"flow/ruleset"},
	"flow/flowtest":    {"flow/ruleset"},
	"offload":          {"flow/ruleset", "offload/verify", "offload/offloadtest"},
	"offload/device":   {"flow/ruleset"},
	"offload/verify":   {"flow/ruleset"},
	"offload/softnic":  {"offload/offloadtest"},
	"offload/tcflower": {"offload/offloadtest"},
	"fallback":         {"fallback/afxdp", "fallback/afpacket"},
	"fabric/agent":     {"offload/offloadtest", "fabric/pki", "fabric/provision/provisiontest"},
	"fabric/client":    {"fabric/manager", "fabric/pki", "fabric/store"},
	"fabric/manager":   {"fabric/discover"},
	"fabric/store":     {"fabric/pki"},
	"hwtests":          {"matcher"},
	"hwtests/lab":      {"fabric", "fabric/discover"},
	"hwtests/traffic":  {"hwtests/observe"},
	"hwtests/vm":       {"flow", "flow/ruleset", "offload", "offload/device", "offload/tcflower", "offload/verify", "fallback", "fabric", "fabric/agent", "fabric/api", "fabric/discover", "fabric/provision"},

	"fabric/provision": {"fabric/discover", "fabric/provision/provisiontest"},
}

// TestImports parses the files itself: unlike go list, that sees every build tag
// and lets the test cache notice when a file changes.
func TestImports(t *testing.T) {
	tree := os.DirFS(".")
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := path.Base(name); name != "." && (base == "testdata" || base == "tools" || strings.HasPrefix(base, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" || path.Dir(name) == "." {
			return nil
		}
		pkg := path.Dir(name)
		room, inside := internalTo(pkg)
		allowed, known := policy[room]
		if !known {
			t.Errorf("%s: package %s is not in the policy", name, pkg)
			return nil
		}
		allowed = slices.Clone(allowed)
		if strings.HasSuffix(name, "_test.go") {
			allowed = append(append(allowed, inTests[room]...), "hwtests/must", "flow/flowtest", room)
		}
		if inside {
			allowed = append(allowed, room)
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			dep, ours := strings.CutPrefix(imp, module)
			if !ours || dep == pkg || slices.Contains(allowed, dep) {
				continue
			}
			if owner, private := internalTo(dep); private && owner == room {
				continue
			}
			t.Errorf("%s may not import %s", name, dep)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// internalTo returns the package whose policy holds for pkg: for x/internal/y it is x.
func internalTo(pkg string) (room string, inside bool) {
	if i := strings.Index(pkg, "/internal/"); i >= 0 {
		return pkg[:i], true
	}
	return pkg, false
}
