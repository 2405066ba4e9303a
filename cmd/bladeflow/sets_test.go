package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/matcher"
	"github.com/bladeflow/bladeflow/offload/device"
)

// call runs a command line in this process.
func call(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// good is call for command lines that succeed.
func good(t *testing.T, args ...string) string {
	t.Helper()
	start := time.Now()
	stdout, stderr, code := call(args...)
	if code != 0 {
		t.Fatalf("bladeflow %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	if took := time.Since(start); took > time.Second/2 {
		t.Logf("%.1f s: bladeflow %s", took.Seconds(), args[0])
	}
	return stdout
}

// write makes a file of a command's output and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// eachSet calls f for generated sets of every family and size.
func eachSet(t *testing.T, f func(t *testing.T, family string, count int)) {
	for _, count := range []int{1000, 10_000} {
		if count > 1000 && testing.Short() {
			continue
		}
		for _, family := range flowtest.Families() {
			t.Run(fmt.Sprintf("%s-%d", family, count), func(t *testing.T) { f(t, family.String(), count) })
		}
	}
}

// TestClassifySets writes generated sets in every form, reads them back, and holds
// every lane against the definition and against what the trace expects.
func TestClassifySets(t *testing.T) {
	eachSet(t, func(t *testing.T, family string, count int) {
		dir := t.TempDir()
		set := []string{"--family", family, "--count", fmt.Sprint(count), "--seed", "11"}
		generate := func(more ...string) string {
			return good(t, append(append([]string{"rules", "generate"}, set...), more...)...)
		}
		packets := 3000
		trace := write(t, dir, "trace", generate("--trace", fmt.Sprint(packets), "--zipf", "0.9", "--mix", "5"))
		var want strings.Builder
		for line := range strings.Lines(string(sure(os.ReadFile(trace)))) {
			winner := strings.Fields(line)[5]
			if winner == "-1" {
				fmt.Fprintln(&want, "-")
			} else {
				fmt.Fprintln(&want, "r"+winner)
			}
		}
		forms := []string{"classbench", "yaml", "json", "flows"}
		if count > 1000 {
			forms = forms[:2]
		}
		for _, form := range forms {
			rules := write(t, dir, form, generate("--to", form))
			for _, lane := range matcher.Lanes() {
				got := good(t, "classify", "--rules", rules, "--from", form, "--trace", trace, "--lane", lane.String())
				if got != want.String() {
					t.Errorf("%s, lane %s: the answers are not what the trace expects", form, lane)
				}
			}
		}
		if n := strings.Count(want.String(), "\n"); n != packets {
			t.Errorf("%d packets, want %d", n, packets)
		}
	})
}

// TestPlanSets plans generated sets for shipped devices: the same bytes twice,
// the shape of the contract, and accepted by verify.
func TestPlanSets(t *testing.T) {
	eachSet(t, func(t *testing.T, family string, count int) {
		dir := t.TempDir()
		generate := []string{"rules", "generate", "--family", family, "--count", fmt.Sprint(count), "--seed", "12", "--to", "classbench"}
		rules := write(t, dir, "rules", good(t, generate...))
		trace := write(t, dir, "trace", good(t, append(generate, "--trace", "5000", "--zipf", "1")...))
		devices := device.List()
		if count > 1000 { // one of each kind: with priorities, without, with few masks
			devices = []string{"flat1k", "hash64", "ice", "softnic"}
		}
		for _, dev := range devices {
			args := []string{"plan", "--rules", rules, "--from", "classbench", "--device", dev, "-o", "json"}
			cold, hot := good(t, args...), good(t, append(args, "--heat", trace)...)
			if good(t, args...) != cold {
				t.Errorf("%s: the same input gives other bytes", dev)
			}
			contractPlan(t, cold, false)
			contractPlan(t, hot, true)
			for _, entries := range []string{cold, hot} {
				said := good(t, "verify", "--rules", rules, "--from", "classbench", "--device", dev, "--entries", write(t, dir, "plan.json", entries))
				if !strings.HasPrefix(said, "proved: ") {
					t.Errorf("%s: verify says %s", dev, said)
				}
			}
		}
	})
}

// contractPlan checks that a plan has what the contract promises.
func contractPlan(t *testing.T, text string, hot bool) {
	t.Helper()
	var doc struct {
		Entries, Refused []map[string]any
		Used             map[string]any
		Rate             *float64 `json:"hit_rate"`
		Bound            *float64 `json:"hit_rate_bound"`
	}
	var keys map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	has := func(what string, m map[string]any, names ...string) {
		for _, n := range names {
			if _, there := m[n]; !there {
				t.Fatalf("%s has no %s: %v", what, n, m)
			}
		}
	}
	has("the plan", keys, "entries", "refused", "used", "hit_rate", "hit_rate_bound")
	has("used", doc.Used, "entries")
	for _, e := range doc.Entries {
		has("an entry", e, "id", "kind", "rule", "priority", "match", "action")
		if kind := e["kind"]; kind != "rule" && kind != "guard" && kind != "piece" {
			t.Fatalf("an entry of kind %v", kind)
		}
	}
	for _, r := range doc.Refused {
		has("a refusal", r, "rule", "code", "reason")
		if code := fmt.Sprint(r["code"]); !strings.HasPrefix(code, "E_") {
			t.Fatalf("a refusal with code %s", code)
		}
	}
	if !hot {
		if doc.Rate != nil || doc.Bound != nil {
			t.Error("a hit rate without --heat")
		}
		return
	}
	if doc.Rate == nil || doc.Bound == nil || *doc.Rate < 0 || *doc.Rate > *doc.Bound || *doc.Bound > 1 {
		t.Errorf("hit rate %v, bound %v", doc.Rate, doc.Bound)
	}
}

// TestTraceFrames traces random frames, hostile ones too, as a capture, and holds
// each against flow.Judge.
func TestTraceFrames(t *testing.T) {
	dir := t.TempDir()
	rng := random(t)
	for _, u := range flowtest.Universes() {
		w := newWorld(t, dir, u, rng, 12)
		var capture [][]byte
		for range 400 {
			capture = append(capture, flowtest.Frame(rng))
		}
		w.traceAll(t, dir, flow.Port(rng.IntN(4)), append(capture, w.frames(400)...))
	}
}

// TestTraceSets does it with packets for generated sets.
func TestTraceSets(t *testing.T) {
	seed := random(t).Uint64()
	eachSet(t, func(t *testing.T, family string, count int) {
		dir := t.TempDir()
		w := generatedWorld(t, dir, family, count, seed)
		w.traceAll(t, dir, 0, w.frames(500))
	})
}

// frames returns frames of the first keys of w, as far as packets have them.
func (w *world) frames(n int) [][]byte {
	var out [][]byte
	for _, k := range w.Keys[:min(n, len(w.Keys))] {
		if f, err := flow.Frame(k, nil); err == nil {
			out = append(out, f)
		}
	}
	return out
}

// traceAll traces a capture of frames and holds what is said of each against
// flow.Judge.
func (w *world) traceAll(t *testing.T, dir string, in flow.Port, frames [][]byte) {
	t.Helper()
	args := w.args("trace", "--device", "softnic", "-o", "json")
	if in > 0 {
		args = append(args, "--in-port", fmt.Sprintf("#%d", in))
	}
	d := json.NewDecoder(strings.NewReader(good(t, append(args, write(t, dir, "frames.pcap", string(pcapOf(frames...))))...)))
	for _, frame := range frames {
		var doc traceDoc
		if err := d.Decode(&doc); err != nil {
			t.Fatal(err)
		}
		w.holds(t, &doc, frame, in)
	}
}

// holds compares what trace said of a frame with flow.Judge.
func (w *world) holds(t *testing.T, doc *traceDoc, frame []byte, in flow.Port) {
	t.Helper()
	rule, verdict := "-", "drop"
	if k, err := flow.Parse(frame, in); err == nil {
		at := w.table.Lookup(&k)
		rule, verdict = w.table.name(at), w.table.Rule(at).Actions.Terminal().Op.String()
	}
	var want, got []string
	for _, e := range flow.Judge(w.table.Table, frame, in) {
		want = append(want, fmt.Sprintf("%s %x", w.table.leaves(&e), e.Bytes))
	}
	for _, o := range doc.Out {
		got = append(got, o.Port+" "+o.Frame)
	}
	last := doc.Steps[len(doc.Steps)-1]
	if !doc.Agree || doc.Rule != rule || doc.Verdict != verdict || !slices.Equal(got, want) || last != "verdict: "+verdict ||
		doc.Frame != fmt.Sprintf("%x", frame) || doc.Place != "hardware" && doc.Place != "software" {
		t.Errorf("frame %x: %+v, want rule %s, verdict %s, out %v", frame, doc, rule, verdict, want)
	}
}
