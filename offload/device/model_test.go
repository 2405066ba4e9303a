package device

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

func TestShipped(t *testing.T) {
	if len(List()) < 3 {
		t.Errorf("only %v", List())
	}
	for _, name := range List() {
		m, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if m.Name != name || m.About == "" || len(m.Missed) == 0 {
			t.Errorf("%s: %+v", name, m)
		}
		if !m.MissFalls && !strings.Contains(m.About, "lost to software") && !strings.Contains(m.About, "enforces nothing") {
			t.Errorf("%s: nothing can be offloaded, and it does not say so", name)
		}
	}
}

// TestStrict breaks a good file in one place at a time, and expects to be told where.
func TestStrict(t *testing.T) {
	good, err := os.ReadFile("models/hash64.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse("x.yaml", good); err != nil {
		t.Fatal(err)
	}
	check := func(old, new, want string) {
		t.Helper()
		if !strings.Contains(string(good), old) {
			t.Fatalf("the file has no %q", old)
		}
		_, err := Parse("x.yaml", []byte(strings.Replace(string(good), old, new, 1)))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "x.yaml") {
			t.Errorf("%q for %q: error %v does not say %q", new, old, err, want)
		}
	}
	check("version: 1", "verzion: 1", "x.yaml:4: unknown field verzion")
	check("version: 1", "version: one", "x.yaml:4: ")
	check("version: 1", "version: 0", "x.yaml: version: missing")
	check("order: honoured", "order: random", `order "random": unknown`)
	check("entries: 64", "entries: -1", "below zero")
	check("  dst_mac: exact", "  dst_mak: exact", "x.yaml:13: field dst_mak: unknown")
	check("  dst_mac: exact", "  dst_mac: fuzzy", `x.yaml:13: field dst_mac: "fuzzy"`)
	check("[drop, output, punt]", "[drop, normal]", "x.yaml:23: action normal")
	check("missed: [odd", "missed: [even", "x.yaml:25: missed even: unknown")
	check("  masks: {tier: emulated", "  masks: {tier: sure", `unknown tier "sure"`)
	check("  order: {tier: emulated, source: invented}", "", "evidence: none for order")
	check("  outputs: {tier: emulated, source: \"invented\"}", "", "evidence: none for outputs")
	check("  masks: {tier: emulated", "  masks: {tier: unknown", "unknown, and the limit is 4")
	check("kind: DeviceModel", "kind: RuleSet", "not a device model")
	if _, err := Parse("x.yaml", nil); err == nil {
		t.Error("an empty file is no model")
	}
	if _, err := Parse("x.yaml", append(good, "---\nname: b\n"...)); err == nil {
		t.Error("two documents are no model")
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load("nosuch"); err == nil || !strings.Contains(err.Error(), "softnic") {
		t.Errorf("an unknown name should list the known: %v", err)
	}
	if _, err := Load("./nosuch.yaml"); err == nil {
		t.Error("loaded a file that is not there")
	}
	b, err := os.ReadFile("models/softnic.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if m, err := Load(file); err != nil || m.Name != "softnic" {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestAdmit checks refusals: the code, and that the words name the thing.
func TestAdmit(t *testing.T) {
	hash, _ := Load("hash64")
	soft, _ := Load("softnic")
	flat, _ := Load("flat1k")
	soft.Ports = []flow.Port{1, 2}
	drop := flow.Actions{{Op: flow.Drop}}
	match := func(text string) *flow.Match {
		t.Helper()
		m, err := flow.ParseMatch(text, flow.NewPorts("a", "b", "c"))
		if err != nil {
			t.Fatal(err)
		}
		return &m
	}
	check := func(m Model, text string, a flow.Actions, kind flow.EntryKind, code, names string) {
		t.Helper()
		err := m.Admit(match(text), a, kind)
		r, refused := err.(*Refusal)
		switch {
		case code == "" && err != nil:
			t.Errorf("%s, %s: %v", m.Name, text, err)
		case code != "" && (!refused || r.Code != code || !strings.Contains(r.Reason, names) || r.Fix == ""):
			t.Errorf("%s, %s: %+v, want %s that names %s", m.Name, text, err, code, names)
		}
	}
	for _, text := range []string{"", "in_port=a", "dst_ip=10.0.0.1,dst_port=80,ip_proto=tcp", "vlan_id=5", "vlan_id=none", "dst_mac=02:00:00:00:00:01"} {
		check(hash, text, drop, flow.RuleEntry, "", "")
		check(soft, text, drop, flow.RuleEntry, "", "")
		check(flat, text, drop, flow.RuleEntry, "", "")
	}
	check(flat, "dst_ip=10.0.0.0/9,dst_port=0-1023", drop, flow.RuleEntry, "", "")
	check(flat, "dst_ip=2001:db8::/32", drop, flow.RuleEntry, "", "")
	check(soft, "dst_port=80-443,ip_tos=4/0xfc,ip_frag=no", drop, flow.PieceEntry, "", "")
	check(hash, "dst_ip=10.0.0.0/9", drop, flow.RuleEntry, "E_MASK_UNSUPPORTED", "dst_ip")
	check(flat, "dst_ip=10.0.0.1/255.0.0.255", drop, flow.RuleEntry, "E_MASK_UNSUPPORTED", "dst_ip")
	check(hash, "vlan_prio=3", drop, flow.RuleEntry, "E_FIELD_UNSUPPORTED", "vlan_prio")
	check(hash, "cvlan_id=3", drop, flow.RuleEntry, "E_FIELD_UNSUPPORTED", "cvlan_id")
	check(hash, "ip_ttl=1", drop, flow.RuleEntry, "E_FIELD_UNSUPPORTED", "ip_ttl")
	check(hash, "ip_frag=first", drop, flow.RuleEntry, "E_FIELD_UNSUPPORTED", "ip_frag=first")
	check(flat, "dst_port=80-443", drop, flow.RuleEntry, "E_RANGE_UNSUPPORTED", "dst_port")
	check(hash, "dst_port=0-1023", drop, flow.RuleEntry, "E_RANGE_UNSUPPORTED", "dst_port")
	check(soft, "in_port=c", drop, flow.RuleEntry, "E_PORT_ELSEWHERE", "3")
	check(flat, "", nil, flow.GuardEntry, "E_PUNT_UNSUPPORTED", "flat1k")
	check(hash, "", nil, flow.GuardEntry, "", "")

	out := func(ports ...flow.Port) flow.Actions { return flow.Actions{{Op: flow.Output, Ports: ports}} }
	check(soft, "", flow.Actions{{Op: flow.Pass}}, flow.RuleEntry, "E_ACTION_PASS", "kernel")
	check(soft, "", flow.Actions{{Op: flow.Normal}}, flow.RuleEntry, "E_ACTION_NORMAL", "switch")
	check(soft, "", out(1, 2), flow.RuleEntry, "", "")
	check(soft, "", out(3), flow.RuleEntry, "E_PORT_ELSEWHERE", "3")
	check(soft, "", out(1, 1), flow.RuleEntry, "E_COPIES", "more than one copy to port #1")
	check(hash, "", out(1, 2), flow.RuleEntry, "E_OUTPUTS", "2 copies")
	check(hash, "", flow.Actions{{Op: flow.VLANPop}, {Op: flow.Drop}}, flow.RuleEntry, "E_ACTION_UNSUPPORTED", "vlan_pop")
	set := flow.Actions{{Op: flow.Set, Settings: []flow.Setting{{Field: flow.TTL, Value: 9, Mask: 255}}}, {Op: flow.Drop}}
	police := flow.Actions{{Op: flow.Police, Rate: 1, Burst: 1}, {Op: flow.Drop}}
	check(hash, "", set, flow.RuleEntry, "E_ACTION_UNSUPPORTED", "cannot set")
	check(hash, "", police, flow.RuleEntry, "E_ACTION_UNSUPPORTED", "cannot police")
	check(hash, "", police, flow.PieceEntry, "E_POLICE_PART", "one meter")
	check(soft, "", flow.Actions{{Op: flow.VLANPop}, {Op: flow.VLANPop}, {Op: flow.VLANPop}, {Op: flow.Drop}}, flow.RuleEntry, "E_VLAN_OPS", "3")
	soft.MissFalls = false
	check(soft, "", drop, flow.RuleEntry, "E_MISS_LOST", "softnic")
}

var softnic = sync.OnceValue(func() Model {
	m, err := Load("softnic")
	if err != nil {
		panic(err)
	}
	return m
})

// randomModel is a shipped model with other fields.
func randomModel(rng *rand.Rand) Model {
	m := softnic()
	for p := range m.Fields {
		m.Fields[p] = How(rng.IntN(4))
	}
	m.Ranges = rng.IntN(2) == 0
	return m
}

// TestWiden checks on whole small universes that a widened match holds every key
// of the match, that the device takes it, and that what the device takes already
// stays as it is.
func TestWiden(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	widened := 0
	for range 200 {
		m := randomModel(rng)
		for _, u := range flowtest.Universes() {
			match := u.Match(rng)
			wide := m.Widen(&match)
			if err := wide.Valid(); err != nil {
				t.Fatal(err)
			}
			if err := m.Admit(&wide, nil, flow.GuardEntry); err != nil {
				t.Fatalf("%+v widened to %+v: %v", match, wide, err)
			}
			if m.Admit(&match, nil, flow.GuardEntry) == nil {
				if wide != match {
					t.Fatalf("%+v fits and is widened to %+v", match, wide)
				}
				continue
			}
			widened++
			if !wide.Covers(&match) {
				t.Fatalf("%+v widened to %+v, which lacks some of it", match, wide)
			}
			for i := range u.Keys {
				if match.Matches(&u.Keys[i]) && !wide.Matches(&u.Keys[i]) {
					t.Fatalf("%+v widened to %+v lacks %x", match, wide, u.Keys[i])
				}
			}
		}
	}
	if widened == 0 {
		t.Error("nothing was widened")
	}
}

// TestSplit checks every range of a few ports at the edges: the parts are disjoint,
// together exactly the range, and the device takes each.
func TestSplit(t *testing.T) {
	m, _ := Load("flat1k")
	ends := []uint16{0, 1, 2, 3, 7, 8, 79, 80, 443, 1023, 1024, 32767, 32768, 65533, 65534, 65535}
	for _, lo := range ends {
		for _, hi := range ends {
			if lo > hi {
				continue
			}
			var match flow.Match
			match.SetPorts(flow.DstPort, lo, hi)
			match.SetPorts(flow.SrcPort, 1, 6) // takes four prefixes: 1, 2-3, 4-5, 6
			parts := m.Split(&match)
			ports := map[uint16]int{}
			for i := range parts {
				if err := m.Admit(&parts[i], flow.Actions{{Op: flow.Drop}}, flow.RuleEntry); err != nil {
					t.Fatalf("%d-%d: %v", lo, hi, err)
				}
				if !match.Covers(&parts[i]) {
					t.Fatalf("%d-%d: part %+v sticks out", lo, hi, parts[i])
				}
				for _, p := range ends {
					var k flow.Key
					k.Set(flow.SrcPort, 3)
					k.Set(flow.DstPort, uint64(p))
					if parts[i].Matches(&k) {
						ports[p]++
					}
				}
			}
			for _, p := range ends {
				if in := lo <= p && p <= hi; in && ports[p] != 1 || !in && ports[p] != 0 {
					t.Fatalf("%d-%d: port %d is in %d parts", lo, hi, p, ports[p])
				}
			}
			if len(parts) > 30*4 {
				t.Errorf("%d-%d: %d parts", lo, hi, len(parts))
			}
		}
	}
}

// FuzzParse feeds the reader of model files: it answers or refuses, and never panics.
func FuzzParse(f *testing.F) {
	for _, name := range List() {
		b, err := shipped.ReadFile("models/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("fields: {in_port: {}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse("x.yaml", b)
		if err == nil && (m.Name == "" || len(m.Evidence) < len(claims)) {
			t.Errorf("%+v", m)
		}
	})
}

// TestPlanned has models of tc flower's drivers be less than their files say, and others not.
func TestPlanned(t *testing.T) {
	for name, typed := range map[string]bool{"mlx5": true, "tcamsim": true, "softnic": false, "flat1k": false} {
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		p := Planned(m)
		if p.Typed != typed || !typed && p.Fields != m.Fields {
			t.Errorf("%s: %+v", name, p)
		}
		var ip, open flow.Match
		ip.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		open.Pin(flow.DstMAC, 2, flow.DstMAC.Max())
		for _, m := range []*flow.Match{&ip, &open} {
			m.Pin(flow.VLAN, 0, flow.TagPresent)
		}
		for _, one := range []struct {
			match flow.Match
			may   bool
		}{{ip, true}, {open, !typed}} {
			if err := p.Admit(&one.match, flow.Actions{{Op: flow.Drop}}, flow.RuleEntry); (err == nil) != one.may {
				t.Errorf("%s: %+v: %v", name, one.match, err)
			}
		}
	}
}
