package manager

import (
	"context"
	"embed"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
)

// The page at / is the fabric at a glance: a template filled from one view, and a small
// script that follows the event stream from that view's cursor on. It refers to nothing
// outside this server.

//go:embed web
var web embed.FS

type pageData struct {
	Cursor, Revision int64
	Who, Role        string
	Chassis          []pageChassis
	Profiles         []api.Profile
	Capacity         []string // the report's summary
}

type pageChassis struct {
	Name   string
	Blades []pageBlade
}

type pageBlade struct {
	api.Blade
	PFs   []pagePF
	Rules *api.RulesStatus
}

type pagePF struct {
	api.PFView
	VFs []api.VFView
}

func (m *Manager) page(mux *http.ServeMux) {
	files, _ := fs.Sub(web, "web") // it is embedded
	t := template.Must(template.New("page.html").Funcs(template.FuncMap{"last": last, "place": place}).ParseFS(files, "page.html"))
	for _, name := range []string{"page.js", "page.css"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, name) })
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		v, err := m.view(r.Context(), 0)
		if err != nil {
			writeProblem(w, err)
			return
		}
		who := actorOf(r.Context())
		d := pageData{Cursor: v.cursor, Revision: v.revision, Who: who.Name, Role: who.Role, Chassis: m.pageChassis(v), Profiles: m.profiles(v, filter{}), Capacity: m.pageCapacity(r.Context(), v)}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := t.Execute(w, d); err != nil {
			m.log.Warn("page", "error", err)
		}
	})
}

// pageCapacity is what is left of the fleet, in the report's words, or why nobody knows.
func (m *Manager) pageCapacity(ctx context.Context, v *view) []string {
	in, err := m.capacityInput(ctx, v, 0)
	if err != nil {
		return []string{err.Error()}
	}
	d, err := capacity.Report(in)
	if err != nil {
		return []string{err.Error()}
	}
	return d.Status.Summary
}

// last returns the part of a name behind the last slash.
func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// place is one letter for where a rule lives, so that colour is not all that says it.
func place(word string) string { return strings.ToUpper(word[:min(1, len(word))]) }

func (m *Manager) pageChassis(v *view) []pageChassis {
	at := map[string]*pageChassis{}
	pfs := map[string][]pagePF{}
	vfs := map[string][]api.VFView{}
	for _, f := range v.vfs(filter{}) {
		pf := f.Metadata.Name[:strings.LastIndexByte(f.Metadata.Name, '/')]
		vfs[pf] = append(vfs[pf], f)
	}
	for name, list := range vfs {
		slices.SortFunc(list, func(a, b api.VFView) int { return a.Status.Index - b.Status.Index })
		vfs[name] = list
	}
	for _, p := range v.pfs(filter{}) {
		pfs[p.Status.Blade] = append(pfs[p.Status.Blade], pagePF{p, vfs[p.Metadata.Name]})
	}
	blades := m.blades(v, filter{})
	slices.SortStableFunc(blades, func(a, b api.Blade) int { return a.Spec.Slot - b.Spec.Slot })
	for _, b := range blades {
		name := b.Spec.Chassis
		if at[name] == nil {
			at[name] = &pageChassis{Name: name}
		}
		p := pageBlade{Blade: b, PFs: pfs[b.Metadata.Name]}
		if r := v.blades[fabric.BladeID(b.Metadata.Name)]; r != nil && r.rules != nil {
			p.Rules = &r.rules.Status
		}
		at[name].Blades = append(at[name].Blades, p)
	}
	var out []pageChassis
	for _, name := range slices.Sorted(maps.Keys(at)) {
		out = append(out, *at[name])
	}
	return out
}
