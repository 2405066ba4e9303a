package capacity

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// forms are all ways to write a document.
var forms = map[string]func(*Document, io.Writer) error{
	"json": (*Document).WriteJSON,
	"csv":  (*Document).WriteCSV,
	"md":   (*Document).WriteMarkdown,
	"html": (*Document).WriteHTML,
}

func readFleet(t *testing.T) Input {
	t.Helper()
	b, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ParseInput("fleet.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func written(t *testing.T, in Input, form string) string {
	t.Helper()
	d, err := Report(in)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := forms[form](d, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestGolden compares every form with its file, and a second writing with the first.
func TestGolden(t *testing.T) {
	in := readFleet(t)
	for form := range forms {
		got := written(t, in, form)
		if again := written(t, readFleet(t), form); again != got {
			t.Errorf("%s: the same input gave other bytes: %s", form, cmp.Diff(got, again))
		}
		file := filepath.Join("testdata", "fleet."+form)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s differs from %s (-update rewrites it):\n%s", form, file, diff)
		}
	}
}

// TestGoldenFigures checks the golden input with the oracle too.
func TestGoldenFigures(t *testing.T) {
	in := readFleet(t)
	d, err := Report(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range d.Status.Scopes {
		checkScope(t, in, s)
	}
}

// TestHTML parses the page: it is one well-formed file that asks for nothing.
func TestHTML(t *testing.T) {
	page := written(t, readFleet(t), "html")
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false
	d.AutoClose, d.Entity = xml.HTMLAutoClose, xml.HTMLEntity
	ids, targets, charts, unnamed := map[string]bool{}, []string{}, 0, 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch e.Name.Local {
		case "script", "link", "iframe", "img", "image", "object", "embed", "use", "base", "form":
			t.Errorf("element %s", e.Name.Local)
		case "svg":
			charts++
			unnamed++
		}
		for _, a := range e.Attr {
			switch name := strings.ToLower(a.Name.Local); {
			case name == "id":
				if ids[a.Value] {
					t.Errorf("id %s twice", a.Value)
				}
				ids[a.Value] = true
			case name == "href" && strings.HasPrefix(a.Value, "#"):
				targets = append(targets, a.Value[1:])
			case name == "href" || name == "src" || name == "srcset" || name == "action" || name == "data" || strings.HasPrefix(name, "on"):
				t.Errorf("%s=%q on %s", name, a.Value, e.Name.Local)
			case name == "aria-label" && e.Name.Local == "svg" && a.Value != "":
				unnamed--
			}
		}
	}
	for _, id := range targets {
		if !ids[id] {
			t.Errorf("link to #%s, which is not there", id)
		}
	}
	if unnamed != 0 || charts < 7 {
		t.Errorf("%d drawings, %d without a name", charts, unnamed)
	}
	if bad := regexp.MustCompile(`(?i)https?:|//[a-z]|@import|url\(|javascript:`).FindString(page); bad != "" {
		t.Errorf("a reference to elsewhere: %q", bad)
	}
}

// TestHostileNames checks that names cannot leave their cells.
func TestHostileNames(t *testing.T) {
	in := readFleet(t)
	in.Name = `<script>alert(1)</script>"|*x*`
	in.Chassis[0].Name = `"><img src=x>|[a](b)`
	page := written(t, in, "html")
	if strings.Contains(page, "<script") || strings.Contains(page, "<img") {
		t.Error("a name became an element")
	}
	md := written(t, in, "md")
	if strings.Contains(md, "<script") || strings.Contains(md, "*x*\n") || strings.Contains(md, "[a](b)") && !strings.Contains(md, `\[a](b)`) {
		t.Error("a name became Markdown")
	}
}

// TestForms checks that the other forms say what the JSON says.
func TestForms(t *testing.T) {
	in := readFleet(t)
	var d Document
	if err := json.Unmarshal([]byte(written(t, in, "json")), &d); err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(strings.NewReader(written(t, in, "csv"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	cells := map[string]string{}
	for _, l := range lines {
		key := strings.Join(l[:5], "|")
		if _, twice := cells[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		cells[key] = l[6]
	}
	page := written(t, in, "html")
	for _, s := range d.Status.Scopes {
		for _, f := range s.Figures {
			for _, v := range f.amounts() {
				key := fmt.Sprintf("figures|%s|%s|%s|%s", s.Level, s.Name, f.Dimension, v.name)
				if got, ok := cells[key]; !ok || got != integer(v.value) {
					t.Errorf("csv: %s is %q, want %q", key, got, integer(v.value))
				}
			}
			if f.Remaining != nil && !strings.Contains(page, ">"+amount(f.Dimension, *f.Remaining)+"<") {
				t.Errorf("html: %d of %s %s is not there", *f.Remaining, s.Name, f.Dimension)
			}
		}
		if s.Fit != nil && cells[fmt.Sprintf("fit|%s|%s|%s|vnics", s.Level, s.Name, s.Fit.Binds)] != strconv.FormatInt(s.Fit.VNICs, 10) {
			t.Errorf("csv: fit of %s", s.Name)
		}
	}
}
