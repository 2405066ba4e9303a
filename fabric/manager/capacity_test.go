package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// noon is a moment at which no 5-minute value ends soon.
var noon = time.Date(2026, 11, 24, 12, 1, 0, 0, time.UTC)

func openHistory(t *testing.T) *history.Store {
	t.Helper()
	h, err := history.Open(filepath.Join(t.TempDir(), "demand.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestReportOfManager: the figures are what is wanted and seen, worked out here by hand;
// the input, the document and every form agree.
func TestReportOfManager(t *testing.T) {
	r := newRigWith(t, store.NewMemory(), Config{
		Now:      func() time.Time { return noon },
		Capacity: Capacity{Policy: capacity.DefaultPolicy(), PerCore: 1e6, Cores: 2, Reference: capacity.Profile{Name: "std", Guaranteed: 1e9, Entries: 10}},
	})
	r.blade("b1", 4, 0)
	r.blade("b2", 4, 0)
	r.basics("b1", "b2")
	waitSettled(r, "b1", "b2")
	r.want(200, "PUT", "profiles/web", strings.Replace(webProfile("web", 1), `"ruleSets"`, `"where":{"blades":["b1"]},"ruleSets"`, 1))
	r.profile("web", "active", "b1")

	d := r.report("")
	blade := d.Scope(t, capacity.BladeLevel, "b1")
	for dim, want := range map[capacity.Dimension][4]int64{ // total, usable, allocated, remaining
		capacity.Slots:     {4, 3, 1, 2},                        // 10 % of 4, rounded up, is kept free
		capacity.Bandwidth: {25e9, 22_500_000_000, 1e9, 21.5e9}, // 1G is guaranteed
		capacity.Entries:   {4096, 3686, 2, 3684},               // two rules are asked for
	} {
		f := figure(t, blade, dim)
		if got := [4]int64{*f.Total, *f.Usable, *f.Allocated, *f.Remaining}; got != want {
			t.Errorf("%s of b1: %v, want %v", dim, got, want)
		}
	}
	if f := figure(t, blade, capacity.Software); *f.Total != 2e6 || f.Used != nil {
		t.Errorf("software of b1: %+v", f)
	}
	if f := r.report("?horizon=365&scope=blade/b2"); f.Status.Scopes[0].Name != "b2" || f.Spec.Horizon != 365 || f.Spec.From != "2026-08-27" || f.Status.Scopes[0].Figures[0].Forecast.Evidence != "short" {
		t.Errorf("a forecast for one blade: %+v, %+v", f.Spec, f.Status.Scopes[0])
	}
	r.want(404, "GET", "reports/capacity?scope=blade/b9", "")
	r.want(422, "GET", "reports/capacity?horizon=5000", "")
	if fleet := d.Status.Scopes[0]; fleet.Fit.VNICs != 2+3 || fleet.Fit.Binds != capacity.Slots {
		t.Errorf("fit of the fleet: %+v", fleet.Fit)
	}

	input, err := capacity.ParseInput("input", []byte(r.want(200, "GET", "reports/capacity/input", "")))
	if err != nil {
		t.Fatal(err)
	}
	again, err := capacity.Report(input)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range reportForms {
		var want bytes.Buffer
		if err := f.write(again, &want); err != nil {
			t.Fatal(err)
		}
		resp, err := r.client.Get(r.url + "/api/v1/reports/capacity?format=" + name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != want.String() || resp.Header.Get("Content-Type") != f.contentType {
			t.Errorf("%s: %v, %s, %d bytes, want %d", name, err, resp.Header.Get("Content-Type"), len(got), want.Len())
		}
	}

	more := r.report("?whatIf=9&guaranteed=1G&entries=10&profile=std&levels=fleet&window=7")
	if w := more.Status.WhatIf; w == nil || w.Placed != 5 || w.RunsOut != capacity.Slots || len(more.Status.Scopes) != 1 || more.Spec.From != "2026-11-18" {
		t.Errorf("what if: %+v, %d scopes from %s", w, len(more.Status.Scopes), more.Spec.From)
	}
	for _, path := range []string{"?format=pdf", "?window=-1", "?window=9999", "?guaranteed=fast", "?whatIf=x"} {
		r.want(422, "GET", "reports/capacity"+path, "")
	}
}

// reported is a report as it was answered.
type reported struct{ capacity.Document }

func (r *rig) report(query string) reported {
	r.t.Helper()
	var d reported
	if err := json.Unmarshal([]byte(r.want(200, "GET", "reports/capacity"+query, "")), &d.Document); err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (d reported) Scope(t *testing.T, level capacity.Level, name string) capacity.Scope {
	t.Helper()
	for _, s := range d.Status.Scopes {
		if s.Level == level && s.Name == name {
			return s
		}
	}
	t.Fatalf("no %s %s", level, name)
	return capacity.Scope{}
}

func figure(t *testing.T, s capacity.Scope, d capacity.Dimension) capacity.Figure {
	t.Helper()
	for _, f := range s.Figures {
		if f.Dimension == d {
			return f
		}
	}
	t.Fatalf("%s %s has no %s", s.Level, s.Name, d)
	return capacity.Figure{}
}

// TestDryRunSaysCapacity: every dry run says what would be left and what is tightest.
func TestDryRunSaysCapacity(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	try := func(method, path, body string) (p api.Preview) {
		t.Helper()
		if status, text := r.do(method, path, body, &p); status != 200 || !p.DryRun || p.Fleet == nil {
			t.Fatalf("%s %s: %d %s", method, path, status, text)
		}
		return p
	}
	p := try("PUT", "profiles/web?dryRun=true", webProfile("web", 1))
	const want = "blade b1 would have left: VF slots 3 of 4, port bandwidth 24 Gbit/s of 25 Gbit/s, table entries 4,094 of 4,096, software budget unknown; tightest: VF slots, 75 % left"
	if len(p.Capacity) != 1 || p.Capacity[0].Text != want || p.Capacity[0].Binds != "slots" {
		t.Errorf("%+v\nwant %s", p.Capacity, want)
	}
	if !strings.HasPrefix(p.Fleet.Text, "the fleet would have left: VF slots 3 of 4") {
		t.Error(p.Fleet.Text)
	}
	for _, l := range p.Capacity[0].Left {
		if l.Dimension == "slots" && (*l.Before != 4 || *l.After != 3 || *l.Usable != 4 || l.Unit != "VFs") {
			t.Errorf("%+v", l)
		}
	}
	try("PUT", "networks/front?dryRun=true", object("Network", "front", `{"vlan":10}`)) // changes nothing
	try("POST", "revert?dryRun=true", `{"revision":1}`)
	try("POST", "apply?dryRun=true", `{"items":[]}`)
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	p = try("DELETE", "profiles/web?dryRun=true", "")
	if !strings.HasPrefix(p.Capacity[0].Text, "blade b1 would have left: VF slots 4 of 4") {
		t.Error(p.Capacity[0].Text)
	}
	try("POST", "profiles/web/move?dryRun=true", `{"blade":"b1"}`)
}

// counting reports what a blade's ports have carried.
func (p *puppet) counting(ctx context.Context, bytes, vf, software uint64) error {
	ports := api.Ports{Head: api.NewHead(api.KindPorts, p.blade), Status: api.PortsStatus{At: noon, Ports: []api.PortCount{
		{Port: "nic0/pf0", Received: api.Count{Packets: bytes / 100, Bytes: bytes}, Sent: api.Count{Packets: bytes / 200, Bytes: bytes / 2}},
		{Port: "nic0/pf0/vf0", Sent: api.Count{Packets: vf}}, {Port: "nic0/pf0/vf1"}}}}
	rules := api.Rules{Head: api.NewHead(api.KindRules, p.blade), Status: api.RulesStatus{At: noon, Packets: []api.TierPackets{
		{Tier: "hardware", Verdict: "normal", Packets: 1 << 40}, {Tier: "software", Verdict: "normal", Packets: software}, {Tier: "software", Verdict: "drop", Packets: software}}}}
	if err := p.put(ctx, api.PartRules, rules, nil); err != nil {
		return err
	}
	return p.put(ctx, api.PartPorts, ports, nil)
}

// TestRecording: polls of reports become the 5-minute values that were really there.
func TestRecording(t *testing.T) {
	r := newRig(t, store.NewMemory())
	b1 := r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	h := openHistory(t)
	rec := newRecording(h, 0)
	at := noon.Truncate(5 * time.Minute)
	for i := range uint64(91) { // 15 minutes: 100 bytes a second come in, 60 packets a second are software's
		if err := b1.counting(t.Context(), 1000*i, 7*(i/31), 300*i); err != nil {
			t.Fatal(err)
		}
		_, cursor, err := r.store.List(t.Context(), store.AllStatus)
		if err != nil {
			t.Fatal(err)
		}
		v, err := r.m.view(t.Context(), cursor)
		if err != nil {
			t.Fatal(err)
		}
		rec.poll(v, at)
		at = at.Add(10 * time.Second)
	}
	samples := rec.polls.Take(at)
	if _, err := h.Append(t.Context(), samples); err != nil {
		t.Fatal(err)
	}
	got := map[string][]float64{}
	for _, s := range samples {
		got[s.Series] = append(got[s.Series], s.Mean)
	}
	for series, want := range map[string]float64{"bandwidth/port/b1/nic0/pf0": 800, "software/blade/b1": 60, "entries/pf/b1/nic0/pf0": 0} {
		if len(got[series]) != 3 || got[series][0] != want || got[series][1] != want || got[series][2] != want {
			t.Errorf("%s: %v, want %v three times", series, got[series], want)
		}
	}
	if active := got["slots/pf/b1/nic0/pf0"]; len(active) != 3 || active[0] != 0 || active[1] <= 0 || active[1] > 0.1 {
		t.Errorf("VFs with traffic: %v", active)
	}
}

// TestOnlyTheLeaderRecords: of two managers one writes demand, and what it polled last is
// written when it ends; a leader that was replaced writes nothing.
func TestOnlyTheLeaderRecords(t *testing.T) {
	s := store.NewMemory()
	r := newRig(t, s)
	b1 := r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	follower := openHistory(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	run := func(h *history.Store) *Manager {
		m, err := New(Config{Store: s, Log: slog.New(slog.DiscardHandler), Lease: time.Second, History: h, Poll: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		go func() { ended <- m.Run(ctx) }()
		return m
	}
	run(follower) // r.m leads
	for i := range uint64(20) {
		if err := b1.counting(t.Context(), 1000*i, i, i); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	recorded := func(h *history.Store) int {
		days, err := h.Days(t.Context(), "bandwidth/port/b1/nic0/pf0", time.Now().Add(-time.Hour*24), time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return len(days)
	}
	if n := recorded(follower); n != 0 {
		t.Errorf("a manager that does not lead recorded %d days", n)
	}

	own := openHistory(t)
	won, err := store.Campaign(t.Context(), s, "another", "m", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l := &leader{Manager: r.m, fence: won.Fence()}
	polled := func() *recording {
		rec := newRecording(own, 0)
		for i := range 3 {
			rec.poll(r.m.latest(), time.Now().Add(time.Duration(i)*time.Second))
		}
		return rec
	}
	over := time.Now().Add(10 * time.Minute)
	if err := won.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.write(t.Context(), polled(), over); err == nil || recorded(own) != 0 {
		t.Errorf("a leader that was replaced recorded: %v", err)
	}
	won, err = store.Campaign(t.Context(), s, "another", "m", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l.fence = won.Fence()
	if err := l.write(t.Context(), polled(), over); err != nil || recorded(own) == 0 {
		t.Errorf("a leader recorded %d days, %v", recorded(own), err)
	}
}

// TestConfiguredCapacity: the configuration of capacity is checked when it is read.
func TestConfiguredCapacity(t *testing.T) {
	for text, bad := range map[string]bool{"{policy: {survive: chassis}}": false, "{policy: {survive: rack}}": true, "{policy: {bufferPercent: 101}}": true, "{cores: -1}": true, "{profile: {guaranteed: 2G, maximum: 1G}}": true} {
		f, err := ParseFile("m.yaml", fmt.Appendf(nil, "apiVersion: bladeflow/v1\nkind: Manager\nmetadata: {name: m}\nspec: {listen: 127.0.0.1:0, store: {endpoints: [http://x:1]}, capacity: %s}\n", text))
		if (err != nil) != bad {
			t.Errorf("%s: %v", text, err)
		}
		if err == nil && f.Spec.Capacity.Policy.BufferPercent != 10 {
			t.Errorf("%s: %+v", text, f.Spec.Capacity.Policy)
		}
	}
}

// TestSharedTable: PFs that share a device's table get parts of it that add up.
func TestSharedTable(t *testing.T) {
	pfs := map[string]*capacity.PF{"nic0/pf0": {}, "nic0/pf1": {}, "nic0/pf2": {}, "nic1/pf0": {}}
	load{}.table(api.Device{PFs: []string{"nic0/pf0", "nic0/pf1", "nic0/pf2"}, Limit: 100, Entries: 11}, pfs)
	load{}.table(api.Device{PFs: []string{"nic1/pf0"}, Limit: 7, Entries: 3, Learned: true}, pfs)
	var limit, used int64
	for _, name := range []string{"nic0/pf0", "nic0/pf1", "nic0/pf2"} {
		table := pfs[name].Table
		if table.Source != capacity.Declared || table.Limit < 33 || table.Limit > 34 {
			t.Errorf("%s: %+v", name, table)
		}
		limit += table.Limit
		used += *table.Used
	}
	if limit != 100 || used != 11 {
		t.Errorf("%d of %d entries in three parts", used, limit)
	}
	if table := pfs["nic1/pf0"].Table; table.Source != capacity.Learned || table.Limit != 7 || *table.Used != 3 {
		t.Errorf("%+v", table)
	}
}
