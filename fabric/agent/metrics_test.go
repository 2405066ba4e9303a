package agent

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// lived returns a rig with some life behind it: traffic, drift, a bad hour.
func lived(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, 5)
	r.wanted.Want(web(t, 12))
	r.settle(2)
	rng := rand.New(rand.NewPCG(7, 8))
	for range 1000 {
		k := packet(rng)
		r.send(&k, 100)
	}
	r.nic.Take(r.entry(func(e *flow.Entry) bool { return !e.Punt() }).ID)
	r.settle(1)
	r.software.refuses = errInjected
	r.wanted.Want(web(t, 13))
	r.reconcile()
	return r
}

// TestMetricsGolden compares a scrape with a golden file.
func TestMetricsGolden(t *testing.T) {
	r := lived(t)
	for _, perRule := range []bool{false, true} {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(NewCollector(r.agent.Status, perRule))
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if perRule {
			golden(t, "metrics_rules.txt", w.Body.String())
		} else {
			golden(t, "metrics.txt", w.Body.String())
		}
	}
}

// TestPassed compares a scrape of VFs' counters with a golden file: a PF's are the node
// exporter's to tell.
func TestPassed(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewPassed(func() []discover.Counter {
		return []discover.Counter{
			{Port: "nic0/pf0", Received: flow.Counter{Packets: 9, Bytes: 900}},
			{Port: "nic0/pf0/vf0", VF: true, Received: flow.Counter{Packets: 1, Bytes: 64}, Sent: flow.Counter{Packets: 2, Bytes: 128}},
			{Port: "nic0/pf0/vf1", VF: true},
		}
	}))
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	golden(t, "metrics_vfs.txt", w.Body.String())
}

// TestMetricsBefore checks that a scrape before the first round works.
func TestMetricsBefore(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(newRig(t, 5).agent.Status, true))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// TestStatusGolden compares the status object with a golden file, as written and read
// again.
func TestStatusGolden(t *testing.T) {
	r := lived(t)
	path := filepath.Join(t.TempDir(), "status.json")
	if err := WriteObject(path, NewObject("blade1", r.agent.Status())); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", string(data))
	var o Object
	if err := json.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*r.agent.Status(), o.Status); diff != "" {
		t.Errorf("changed by writing (-is +read):\n%s", diff)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
	if err := WriteObject(filepath.Join(path, "no", "folder"), o); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

// recorder writes down what is done to a device.
type recorder struct {
	offload.Driver
	out *strings.Builder
}

func (d recorder) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := d.Driver.Apply(ctx, ops)
	for i, op := range ops {
		fmt.Fprintf(d.out, "  %-6s %-5s %s -> %s: %s", op.Kind, op.Entry.Kind, flow.FormatMatch(&op.Entry.Match, testPorts), flow.FormatActions(op.Entry.Actions, testPorts), out[i].Status)
		if out[i].Status != offload.Done {
			fmt.Fprintf(d.out, " %s", out[i].Code)
		}
		fmt.Fprintln(d.out)
	}
	return out
}

// TestTranscript writes down what rounds do: a first table, a quiet round, healing, a
// change, and a change that software refuses.
func TestTranscript(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	var out strings.Builder
	c.Devices[0].Driver = recorder{r.nic, &out}
	r.agent = New(c)
	round := func(what string) {
		fmt.Fprintf(&out, "%s\n", what)
		err := r.reconcile()
		s := r.agent.Status()
		fmt.Fprintf(&out, "  generation %d, proved %v, %d entries, error %v\n", s.Generation, s.Proved, s.Devices[0].Entries, err)
		for _, rule := range s.Rules {
			fmt.Fprintf(&out, "  %-14s %s %s\n", rule.Name, rule.Place, rule.Code)
		}
	}
	round("nothing wanted")
	r.wanted.Want(web(t, 1))
	round("first table")
	round("nothing to do")
	r.nic.Take(r.entry((*flow.Entry).Punt).ID)
	round("a guard was deleted")
	next := table(t, 2, flow.Actions{{Op: flow.Pass}},
		"name=web,priority=200,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/16,dst_port=80-443 actions=output:vf1",
		"name=all,priority=100,in_port=vf0,dst_ip=10.0.0.0/8 actions=drop")
	r.wanted.Want(next)
	r.software.refuses = errInjected
	round("next table, software refuses")
	r.software.refuses = nil
	round("next table")
	golden(t, "transcript.txt", out.String())
}

// TestWarmth checks that heat follows rates, in steps, and forgets.
func TestWarmth(t *testing.T) {
	var w warmth[flow.RuleID]
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := uint64(5000)
	step := func(more uint64) map[flow.RuleID]uint64 {
		now, n = now.Add(2*time.Second), n+more
		w.update(now, map[flow.RuleID]uint64{1: n, 2: 3})
		return w.levels
	}
	if h := step(0); len(h) != 0 {
		t.Errorf("one reading says nothing about rates: %v", h)
	}
	for range 60 {
		step(2000)
	}
	if h := step(2000); h[1] != 512 || h[2] != 0 { // 1,000 packets a second
		t.Errorf("%v, want 512 for rule 1", h)
	}
	for i := range 100 { // around 1,024, where another level begins
		if h := step(1800 + uint64(i%5)*120); h[1] != 512 {
			t.Fatalf("%v: noise moved the heat", h)
		}
	}
	for range 60 {
		step(4000)
	}
	if h := step(4000); h[1] != 1024 {
		t.Errorf("%v at twice the rate, want 1024", h)
	}
	for range 60 {
		step(0)
	}
	if h := step(0); len(h) != 0 {
		t.Errorf("%v two minutes after the last packet", h)
	}
	w.update(now.Add(time.Second), map[flow.RuleID]uint64{2: 4})
	if len(w.rates) != 1 {
		t.Errorf("a rule that is gone is kept: %v", w.rates)
	}
}
