package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// TestExample checks that the documented configuration is what it says.
func TestExample(t *testing.T) {
	got, err := ParseFile("/etc/bladeflow/agent.yaml", []byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Blade: "blade1", Rules: []string{"/etc/bladeflow/rules.yaml"}, Root: "/",
		Ports: []PortMap{{"nic0/pf0", "uprep", ""}, {"nic0/pf0/vf0", "rep0", "kernel"}},
		Fail:  "closed", Cache: CacheSpec{"/run/bladeflow/bpf/blade1-flows", 32768, 250_000},
		Uplink: "nic0/pf0",
		Stations: []StationSpec{
			{MAC: 0x020000000001, Port: "vf0"},
			{MAC: 0x020000000001, Port: "vf0", VLAN: 7},
		},
		Softnic: "/run/bladeflow/bpf/blade1", Datapath: "afxdp", Changes: "strict", Interval: 2 * time.Second,
		Metrics: "127.0.0.1:9464", Status: "/run/bladeflow/status.json",
		Observe: "/run/bladeflow/status.observe", Observers: "viewers",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	sw, err := got.Switch(flow.NewPorts("nic0/pf0", "nic0/pf0/vf0"))
	if err != nil {
		t.Fatal(err)
	}
	if out := sw.Deliver(nil, 7, 0x020000000001, 1); len(out) != 1 || out[0] != 2 || sw.Uplink() != 1 {
		t.Errorf("delivers to %v, uplink %d", out, sw.Uplink())
	}
}

const smallest = `apiVersion: bladeflow/v1
kind: Agent
metadata: {name: b}
spec:
  rules: [r.yaml]
`

// TestObserveField: the socket is beside the counters, where the configuration says, or
// nowhere.
func TestObserveField(t *testing.T) {
	for more, want := range map[string]string{
		"":                              "",
		"  status: s/x.json\n":          "s/x.observe",
		"  observe: {socket: here}\n":   "here",
		"  observe: {group: viewers}\n": "",
		"  status: x.json\n  observe: {socket: \"\"}\n": "",
	} {
		if f, err := ParseFile("a.yaml", []byte(smallest+more)); err != nil || f.Observe != want {
			t.Errorf("%q: socket %q, %v; want %q", more, f.Observe, err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	f, err := ParseFile("a.yaml", []byte(smallest))
	if err != nil {
		t.Fatal(err)
	}
	want := File{Blade: "b", Rules: []string{"r.yaml"}, Root: "/", Datapath: "afxdp", Fail: "closed", Changes: "strict", Cache: CacheSpec{Flows: 32768, Upcalls: 250_000}, Interval: 2 * time.Second, Metrics: "127.0.0.1:9464"}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseFileRefuses(t *testing.T) {
	check := func(place, why, text string) {
		t.Helper()
		_, err := ParseFile("a.yaml", []byte(text))
		var f *flow.Fault
		if !errors.As(err, &f) || !strings.HasPrefix(f.What, "a.yaml:"+place) || !strings.Contains(f.Why, why) || f.Remedy == "" || f.Code == "" {
			t.Errorf("%q:\ngot  %v\nwant a.yaml:%s … %s", text, err, place, why)
		}
	}
	check("1:1", "empty", "")
	check("1:1: apiVersion", "missing", "{}")
	check("1:1", "not a mapping", "just words")
	check("1:13: apiVersion", "\"v2\" is not known", "apiVersion: v2\n")
	check("3:1", "did not find expected", "a: 1\nb: [\n}")
	check("2:1", "second document", "{}\n---\n{}\n")
	check("6:3: spec.colour", "no such field", smallest+"  colour: red\n")
	check("6:3: spec.rules", "twice", smallest+"  rules: []\n")
	check("6:10: spec.rules", "not a list", strings.Replace(smallest, "  rules: [r.yaml]", "\n  rules: r.yaml", 1))
	check("6:13: spec.interval", "not a time", smallest+"  interval: 1ns\n")
	check("6:13: spec.interval", "not a plain value", smallest+"  interval: [2s]\n")
	check("6:13: spec.datapath", "not known", smallest+"  datapath: dpdk\n")
	check("6:12: spec.metrics", "nothing here asks who is calling", smallest+"  metrics: 0.0.0.0:9464\n")
	check("6:12: spec.metrics", "nothing here asks who is calling", smallest+"  metrics: ':9464'\n")
	check("6:12: spec.metrics", "not HOST:PORT", smallest+"  metrics: here\n")
	check("6:12: spec.metrics", "not HOST:PORT", smallest+"  metrics: 127.0.0.1:99999\n")
	check("6:14: spec.stations[0].port", "missing", smallest+"  stations: [{mac: '02:00:00:00:00:01'}]\n")
	check("6:31: spec.stations[0].mac", "not a MAC", smallest+"  stations: [{port: vf0, mac: '02:00'}]\n")
	check("6:58: spec.stations[0].vlan", "not a VLAN id", smallest+"  stations: [{port: vf0, mac: '02:00:00:00:00:01', vlan: 4096}]\n")
	check("6:36: spec.ports[1]", "same name or netdev", smallest+"  ports: [{name: a, netdev: rep0}, {name: b, netdev: rep0}]\n")
	check("6:11: spec.device", "not a mapping", smallest+"  device: /run/x\n")
	check("6:12: spec.device.gpu", "no such field", smallest+"  device: {gpu: 1}\n")
	check("6:11: spec.device", "neither softnic nor nic", smallest+"  device: {vfs: []}\n")
	check("6:11: spec.device", "an emulated card has vfs", smallest+"  device: {softnic: /run/x, nic: nic0/pf0}\n")
	check("6:11: spec.device", "an emulated card has vfs", smallest+"  device: {softnic: /run/x, numvfs: 4}\n")
	check("6:47: spec.device.eswitch", "is not known", smallest+"  device: {nic: nic0/pf0, numvfs: 4, eswitch: on}\n")
	check("5:3: spec", "root is a recorded tree", smallest+"  root: tree\n  device: {nic: nic0/pf0, numvfs: 4}\n")
	check("6:11: spec.device", "an emulated card has vfs", smallest+"  device: {nic: nic0/pf0, vfs: [{port: vf0, workload: w/e, card: c/v0}]}\n")
	check("6:35: spec.device.vfs[0].workload", "missing", smallest+"  device: {softnic: /run/x, vfs: [{port: vf0, card: c/v0}]}\n")
	check("6:68: spec.device.vfs[0].card", "not a netdev in a namespace", smallest+"  device: {softnic: /run/x, vfs: [{port: vf0, workload: w/e, card: v0}]}\n")
	check("5:3: spec", "come from the store", smallest+"  store: {endpoints: ['https://h:1'], keep: k}\n")
	member := strings.Replace(smallest, "rules: [r.yaml]", "store: {endpoints: ['https://h:1'], keep: k}", 1)
	check("5:3: spec", "come from the store", member+"  uplink: pf0\n")
	check("5:10: spec.store.keep", "missing", strings.Replace(member, ", keep: k", "", 1))
	check("5:23: spec.store.endpoints[0]", "not the URL", strings.Replace(member, "https://h:1", "h:1", 1))
	check("5:22: spec.store.endpoints", "empty", strings.Replace(member, "'https://h:1'", "", 1))
	check("5:48: spec.store.token", "no such field", strings.Replace(member, "keep: k", "keep: k, token: t", 1))
	check("5:3: spec", "neither rules nor a store", strings.Replace(smallest, "rules: [r.yaml]", "interval: 2s", 1))
	for _, only := range []string{"fail: kernel", "cache: {flows: 64}", "cache: {upcalls: 1}", "ports: [{name: a, netdev: rep0, fail: closed}]"} {
		check("5:3: spec", "nothing of datapath afpacket answers", smallest+"  datapath: afpacket\n  "+only+"\n")
	}
	if _, err := ParseFile("a.yaml", []byte(smallest+"  datapath: afpacket\n  cache: {pins: /p}\n")); err != nil { // they are taken off
		t.Error(err)
	}
	check("6:17: spec.rule_metrics", "not known", smallest+"  rule_metrics: maybe\n")
}

func TestVFParts(t *testing.T) {
	f, err := ParseFile("a.yaml", []byte(smallest+"  device: {softnic: /run/x, vfs: [{port: vf0, workload: w0/eth0, card: card/v0}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]VFParts{{"vf0", NetdevIn{"w0", "eth0"}, NetdevIn{"card", "v0"}}}, f.VFs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestStoreSection takes the store's section of the documented configuration out of its
// comments, in the place of what it stands for.
func TestStoreSection(t *testing.T) {
	var text []string
	for _, line := range strings.Split(Example, "\n") {
		field, _, _ := strings.Cut(strings.TrimLeft(line, " "), ":")
		switch {
		case strings.HasPrefix(line, "  # "):
			text = append(text, "  "+line[len("  # "):])
		case strings.HasPrefix(line, "    - {port:") || field == "rules" || field == "uplink" || field == "stations":
		default:
			text = append(text, line)
		}
	}
	f, err := ParseFile("/etc/bladeflow/agent.yaml", []byte(strings.Join(text, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	want := &StoreSpec{Endpoints: []string{"https://10.0.0.1:2379"}, Certificates: "/etc/bladeflow/pki", Name: "blade1", Keep: "/var/lib/bladeflow/generation.json"}
	if diff := cmp.Diff(want, f.Store); diff != "" || len(f.Rules) > 0 {
		t.Errorf("rules %v, (-want +got):\n%s", f.Rules, diff)
	}
}

func TestReadFileAbsent(t *testing.T) {
	_, err := ReadFile(filepath.Join(t.TempDir(), "absent.yaml"))
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != "E_CONFIG_FILE" {
		t.Errorf("%v", err)
	}
}

func TestSwitchRefuses(t *testing.T) {
	for text, place := range map[string]string{
		"  uplink: pf9\n": "spec.uplink",
		"  stations: [{port: vf9, mac: '02:00:00:00:00:01'}]\n": "spec.stations[0]",
	} {
		f, err := ParseFile("a.yaml", []byte(smallest+text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.Switch(testPorts); err == nil || !strings.HasPrefix(err.Error(), place) {
			t.Errorf("%q: %v, want it to begin with %s", text, err, place)
		}
	}
}

// FuzzParseFile checks that nothing panics and that every error is a fault with a
// place and a remedy.
func FuzzParseFile(f *testing.F) {
	f.Add(Example)
	f.Add(smallest)
	f.Add("a: &x [*x]")
	f.Add("spec: {ports: [{name: 1}], ports: ~}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := ParseFile("a.yaml", []byte(text))
		if err == nil {
			if file.Interval < 100*time.Millisecond {
				t.Errorf("%+v", file)
			}
			return
		}
		var fault *flow.Fault
		if !errors.As(err, &fault) || !strings.HasPrefix(fault.What, "a.yaml:") || fault.Remedy == "" {
			t.Errorf("%q: %v", text, err)
		}
	})
}

// rulesFile writes a rule file and returns a source that reads it.
func rulesFile(t *testing.T, text string) (path string, source *Files) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "rules.yaml")
	rewrite(t, path, text)
	source = NewFiles([]string{path}, testPorts, nil, 0, "")
	source.settle = 0
	return path, source
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

const good = `apiVersion: bladeflow/v1
kind: RuleSet
metadata: {name: s}
spec:
  rules:
    - {name: a, priority: 1, match: {in_port: vf0}, actions: [drop]}
`

// TestBadRulesKeepTheOld changes a rule file for a bad one and back: the generation in
// force stays, the fault is reported once, and a good file goes on from there.
func TestBadRulesKeepTheOld(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	path, source := rulesFile(t, good)
	c.Source = source
	r.agent = New(c)
	r.settle(1)
	r.proved()
	held := byID(r.installed())
	for _, bad := range []string{"nonsense: [", strings.Replace(good, "drop", "dorp", 1), strings.Replace(good, "priority: 1", "priority: -1", 1)} {
		rewrite(t, path, bad)
		for range 3 {
			err := r.reconcile()
			var f *flow.Fault
			if !errors.As(err, &f) || !strings.HasPrefix(f.What, path+":") {
				t.Errorf("%v, want a fault with its place in %s", err, path)
			}
		}
		s := r.agent.Status()
		if s.Generation != 1 || !s.Proved || s.Error == nil {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(held, byID(r.installed())); diff != "" {
		t.Errorf("the device changed:\n%s", diff)
	}
	if n := r.agent.Status().Rejected; n != 3 {
		t.Errorf("%d rejections counted, want 3", n)
	}
	rewrite(t, path, good) // as it was: no new generation
	r.settle(1)
	if s := r.agent.Status(); s.Generation != 1 || s.Error != nil {
		t.Errorf("%+v", s)
	}
	rewrite(t, path, strings.Replace(good, "vf0", "vf1", 1))
	r.settle(1)
	r.proved()
	if s := r.agent.Status(); s.Generation != 2 {
		t.Errorf("generation %d, want 2", s.Generation)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.reconcile(); err == nil || r.agent.Status().Generation != 2 {
		t.Errorf("a missing file: %v, generation %d", err, r.agent.Status().Generation)
	}
}

// TestGenerationOverRestart checks that numbers go on where an earlier run stopped,
// and stay if the files are the same.
func TestGenerationOverRestart(t *testing.T) {
	path, source := rulesFile(t, good)
	first, err := source.Wanted()
	if err != nil || first.Table.Generation() != 1 {
		t.Fatal(first, err)
	}
	status := filepath.Join(t.TempDir(), "status.json")
	if err := WriteObject(status, NewObject("b", &Status{Generation: 41, Digest: source.Digest()})); err != nil {
		t.Fatal(err)
	}
	check := func(want flow.Generation) {
		t.Helper()
		last, digest := LastGeneration(status)
		again := NewFiles([]string{path}, testPorts, nil, last, digest)
		table, err := again.Wanted()
		if err != nil || table.Table.Generation() != want {
			t.Errorf("generation %d, %v, want %d", table.Table.Generation(), err, want)
		}
	}
	check(41)
	rewrite(t, path, strings.Replace(good, "vf0", "vf1", 1))
	check(42)
	if last, digest := LastGeneration(filepath.Join(t.TempDir(), "absent")); last != 0 || digest != "" {
		t.Errorf("%d, %q from no file", last, digest)
	}
}

// TestSettles checks that a file that is just being written is left alone.
func TestSettles(t *testing.T) {
	path, source := rulesFile(t, good)
	if _, err := source.Wanted(); err != nil {
		t.Fatal(err)
	}
	source.settle = time.Hour
	rewrite(t, path, "half a fi")
	if table, err := source.Wanted(); err != nil || table.Table.Generation() != 1 {
		t.Errorf("%v, %v", table, err)
	}
	source.settle = 0
	if _, err := source.Wanted(); err == nil {
		t.Error("a bad file that has settled is no fault")
	}
}

// TestFileOfTheFuture checks that a file is read although its time has not come: it was
// copied from elsewhere, or the clock was set back.
func TestFileOfTheFuture(t *testing.T) {
	path, source := rulesFile(t, good)
	if _, err := source.Wanted(); err != nil {
		t.Fatal(err)
	}
	source.settle = time.Millisecond
	rewrite(t, path, strings.Replace(good, "vf0", "vf1", 1))
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	_, _ = source.Wanted()
	time.Sleep(10 * time.Millisecond)
	if w, err := source.Wanted(); err != nil || w.Table.Generation() != 2 {
		t.Errorf("generation %d, %v", w.Table.Generation(), err)
	}
}

// TestIrregularFiles checks that what is no file neither stops the source nor fills
// the memory.
func TestIrregularFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, zero := filepath.Join(dir, "pipe"), filepath.Join(dir, "zero")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink("/dev/zero", zero)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, zero} {
		_, err := NewFiles([]string{path}, testPorts, nil, 0, "").Wanted()
		if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_RULES_FILE" || !strings.Contains(f.Why, "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestFilesFormats checks that one table can come from files of several forms.
func TestFilesFormats(t *testing.T) {
	path, _ := rulesFile(t, good)
	flows := filepath.Join(t.TempDir(), "more.flows")
	rewrite(t, flows, "name=b,priority=2,in_port=vf1 actions=pass\n")
	table, err := NewFiles([]string{path, flows}, testPorts, nil, 0, "").Wanted()
	if err != nil || table.Table.Len() != 2 || table.Table.Rule(0).Name != "more/b" {
		t.Errorf("%v, %v", table, err)
	}
}
