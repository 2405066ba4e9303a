package manager

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestRates: what counters grew is what was counted, exactly if none began anew, and never
// more than that if some did.
func TestRates(t *testing.T) {
	r := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for range 10_000 {
		before := r.Uint64N(1 << 40)
		first, second := r.Uint64N(1<<20), r.Uint64N(1<<20) // counted before and after the moment at which it may begin anew
		if got := grown(before, before+first+second); got != first+second {
			t.Fatalf("%d to %d: %d, want %d", before, before+first+second, got, first+second)
		}
		if got := grown(before, second); got > first+second {
			t.Fatalf("%d, then anew to %d: %d, and %d were counted", before, second, got, first+second)
		}
	}
	if got := grown(100, 7); got != 7 {
		t.Errorf("a counter that began anew and shows 7 grew by %d", got)
	}
}

// TestStanding: what two readings are worth.
func TestStanding(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		what        string
		alive       bool
		before, ago time.Duration // before the last reading, and since it; -1 for no reading
		want        string
		seconds     float64
	}{
		{"new", true, second, second, api.ReadingMeasured, 1},
		{"a moment late", true, second, 8 * second, api.ReadingMeasured, 1},
		{"nothing new", true, second, 8*second + 1, api.ReadingQuiet, 1},
		{"a long list is late by nature", true, 37 * second, 100 * second, api.ReadingMeasured, 37},
		{"and quiet later", true, 37 * second, 117 * second, api.ReadingQuiet, 37},
		{"one only", true, -1, second, api.ReadingOnce, 0},
		{"one only, and nothing since", true, -1, 61 * second, api.ReadingQuiet, 0},
		{"the blade's clock was put back", true, -5 * second, second, api.ReadingOnce, 0},
		{"agent gone", false, second, second, api.ReadingSilent, 1},
	} {
		before := noon.Add(-c.before)
		if c.before == -1 {
			before = time.Time{}
		}
		got := standing(c.alive, before, noon, c.ago)
		if got.State != c.want || got.Seconds != c.seconds || !got.At.Equal(noon) {
			t.Errorf("%s: %+v, want %s of %v s", c.what, got, c.want, c.seconds)
		}
		perSecond, known := rate(got, true, 74)
		want := map[string]float64{api.ReadingMeasured: 74 / max(c.seconds, 1), api.ReadingQuiet: 0}
		if value, has := want[c.want]; known != has || perSecond != value {
			t.Errorf("%s: rate %v, %v", c.what, perSecond, known)
		}
	}
	if got := standing(true, time.Time{}, time.Time{}, second); got.State != api.ReadingNone {
		t.Errorf("never reported: %+v", got)
	}
}

// reports is what blades reported at moments of a clock that the test has.
type reports struct {
	*testing.T
	follower *follower
	now      time.Time
	revision int64
}

func newReports(t *testing.T, blades ...string) *reports {
	r := &reports{T: t, now: noon}
	r.follower = newFollower(func() time.Time { return r.now }, nil)
	for _, b := range blades {
		r.put(store.Wanted(api.KindBlade, "default", b), api.Blade{Head: api.NewHead(api.KindBlade, b)})
	}
	return r
}

func (r *reports) put(key store.Key, v any) {
	r.Helper()
	value, err := json.Marshal(v)
	if err != nil {
		r.Fatal(err)
	}
	r.revision++
	if err := r.follower.take(r.revision, store.Event{KV: store.KV{Key: key, Value: value, Modified: r.revision}}); err != nil {
		r.Fatal(err)
	}
}

func (r *reports) status(blade, part string, v any) { r.put(store.Status(blade, part), v) }

// alive makes a blade report, with so many VFs.
func (r *reports) alive(blade string, vfs int) {
	r.status(blade, api.PartAlive, api.Alive{Head: api.NewHead(api.KindAlive, blade)})
	r.status(blade, api.PartInventory, inventoryOf(blade, vfs))
}

// gone ends a blade's lease.
func (r *reports) gone(blade string) {
	r.revision++
	if err := r.follower.take(r.revision, store.Event{KV: store.KV{Key: store.Status(blade, api.PartAlive)}, Deleted: true}); err != nil {
		r.Fatal(err)
	}
}

// rules reports counters of rules by tier, and how many are left out.
func (r *reports) rules(blade string, omitted int, rules ...api.RuleState) {
	s := api.RulesStatus{At: r.now, Omitted: omitted, Rules: rules}
	all := map[api.TierPackets]uint64{}
	for i := range rules {
		rules[i].ID = fmt.Sprintf("%016x", len(rules[i].Name))
		all[api.TierPackets{Tier: "hardware", Verdict: "normal"}] += rules[i].Hardware.Packets
		all[api.TierPackets{Tier: "cache", Verdict: "drop"}] += rules[i].Cache.Packets
		all[api.TierPackets{Tier: "software", Verdict: "drop"}] += rules[i].Software.Packets
	}
	for key, n := range all {
		s.Packets = append(s.Packets, api.TierPackets{Tier: key.Tier, Verdict: key.Verdict, Packets: n})
	}
	r.status(blade, api.PartRules, api.Rules{Head: api.NewHead(api.KindRules, blade), Status: s})
}

// ports reports what has passed a PF and its first VF: so many packets of 1,000 bytes in,
// and half as many out.
func (r *reports) ports(blade string, pf, vf uint64) {
	of := func(port string, n uint64) api.PortCount {
		return api.PortCount{Port: port, Received: api.Count{Packets: n, Bytes: 1000 * n}, Sent: api.Count{Packets: n / 2, Bytes: 500 * n}}
	}
	r.status(blade, api.PartPorts, api.Ports{Head: api.NewHead(api.KindPorts, blade), Status: api.PortsStatus{At: r.now, Ports: []api.PortCount{of("nic0/pf0", pf), of("nic0/pf0/vf0", vf)}}})
}

// busy returns the figures by name, and the names sorted by a column.
func (r *reports) busy(kind, by string) (figures map[string]map[string]float64, names string) {
	r.Helper()
	all := r.follower.view(nil).busy(kind, "", r.now)
	byFigure(all, by)
	figures = map[string]map[string]float64{}
	for _, b := range all {
		figures[b.Metadata.Name] = b.Status.Figures
		names += " " + b.Metadata.Name
	}
	return figures, strings.TrimSpace(names)
}

func (r *reports) want(what string, got, want map[string]float64) {
	r.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })); diff != "" {
		r.Errorf("%s: -want +got\n%s", what, diff)
	}
}

func rule(name string, hardware, cache, software uint64) api.RuleState {
	c := func(n uint64) api.Count { return api.Count{Packets: n, Bytes: 100 * n} }
	return api.RuleState{Name: name, Place: "mixed", Hardware: c(hardware), Cache: c(cache), Software: c(software)}
}

// TestBusy: rates are of two readings, worked out here by hand.
func TestBusy(t *testing.T) {
	r := newReports(t, "b1", "b2", "b3")
	r.alive("b1", 2)
	r.alive("b2", 2)
	r.rules("b1", 0, rule("web/in", 1000, 100, 10))
	r.rules("b2", 0, rule("web/in", 5, 0, 0))
	r.ports("b1", 10, 4)
	if got, _ := r.busy("blade", "packets"); len(got) != 3 || len(got["b1"]) != 0 {
		t.Errorf("with one reading: %v", got)
	}
	r.now = r.now.Add(2 * time.Second)
	r.rules("b1", 0, rule("web/in", 3000, 300, 10), rule("web/more", 40, 0, 0))
	r.rules("b2", 0, rule("web/in", 25, 0, 2000))
	r.now = r.now.Add(8 * time.Second)
	r.ports("b1", 1010, 504)
	r.now = r.now.Add(time.Second)

	got, names := r.busy("blade", "packets")
	if want := "b1 b2 b3"; names != want { // (2000 + 200 + 40) / 2 a second, 2020 / 2, unknown
		t.Errorf("%s, want %s", names, want)
	}
	r.want("b1", got["b1"], map[string]float64{"packets": 1120, "hardware": 1020, "cache": 100, "software": 0, "dropped": 100, "bits": (1000*1000*8 + 1000*500*8) / 10})
	if _, names = r.busy("blade", "software"); names != "b2 b1 b3" {
		t.Errorf("by software: %s", names)
	}
	got, names = r.busy("rule", "packets")
	if want := "b1/web/in b2/web/in b1/web/more"; names != want {
		t.Errorf("%s, want %s", names, want)
	}
	r.want("rule", got["b1/web/in"], map[string]float64{"packets": 1100, "hardware": 1000, "cache": 100, "software": 0, "bits": 1100 * 800, "total": 3310})
	r.want("a rule that was not there", got["b1/web/more"], map[string]float64{"packets": 20, "hardware": 20, "cache": 0, "software": 0, "bits": 16000, "total": 40})
	got, _ = r.busy("verdict", "packets")
	r.want("verdict", got["b2/software/drop"], map[string]float64{"packets": 1000, "total": 2000})
	got, _ = r.busy("pf", "bits")
	r.want("pf", got["b1/nic0/pf0"], map[string]float64{"bits": 1.2e6, "received": 8e5, "sent": 4e5, "packets": 150, "load": 100 * 8e5 / 25e9})
	got, _ = r.busy("vf", "bits")
	r.want("vf", got["b1/nic0/pf0/vf0"], map[string]float64{"bits": 6e5, "received": 4e5, "sent": 2e5, "packets": 75})

	r.now = r.now.Add(time.Minute) // nothing came: b1 counted nothing
	r.gone("b2")
	got, names = r.busy("blade", "packets")
	r.want("quiet", got["b1"], map[string]float64{"packets": 0, "hardware": 0, "cache": 0, "software": 0, "dropped": 0, "bits": 0})
	r.want("silent", got["b2"], map[string]float64{})
	if names != "b1 b2 b3" {
		t.Errorf("what nobody knows is behind what is nothing: %s", names)
	}

	r.rules("b1", 0, rule("web/in", 10, 0, 0)) // the agent lost what it had counted
	got, _ = r.busy("rule", "packets")
	if n := got["b1/web/in"]["hardware"]; math.Abs(n*(61+8)-10) > 1e-6 {
		t.Errorf("10 packets in 69 s are %v a second", n)
	}
}

// TestBusyOmitted: a rule that was only not listed is not one that counted nothing.
func TestBusyOmitted(t *testing.T) {
	r := newReports(t, "b1")
	r.alive("b1", 1)
	r.rules("b1", 7, rule("web/in", 1, 0, 0))
	r.now = r.now.Add(time.Second)
	r.rules("b1", 7, rule("web/in", 2, 0, 0), rule("web/other", 500, 0, 0))
	got, names := r.busy("rule", "packets")
	r.want("other", got["b1/web/other"], map[string]float64{"total": 500})
	if names != "b1/web/in b1/web/other" {
		t.Errorf("%s", names)
	}
}

// TestBusyDevices: how full a device is, and its blade by its fullest.
func TestBusyDevices(t *testing.T) {
	r := newReports(t, "b1")
	r.alive("b1", 1)
	devices := []api.Device{{Name: "nic0", Entries: 48, Limit: 64, Guards: 3}, {Name: "nic1", Entries: 5}, {Name: "nic2", Entries: 1, Limit: 100, Foreign: 1}}
	r.status("b1", api.PartGeneration, api.BladeStatus{Head: api.NewHead(api.KindBladeStatus, "b1"), Status: api.GenerationStatus{Devices: devices}})
	got, names := r.busy("device", "table")
	if names != "b1/nic0 b1/nic2 b1/nic1" {
		t.Errorf("%s", names)
	}
	r.want("nic0", got["b1/nic0"], map[string]float64{"entries": 48, "limit": 64, "table": 75, "guards": 3, "foreign": 0})
	r.want("a limit that nobody knows", got["b1/nic1"], map[string]float64{"entries": 5, "guards": 0, "foreign": 0})
	got, _ = r.busy("blade", "table")
	r.want("blade", got["b1"], map[string]float64{"table": 75})
}

// TestBusyVNICs: a function's figures are its vNIC's, and its load is of what it may send.
func TestBusyVNICs(t *testing.T) {
	r := newRigWith(t, store.NewMemory(), Config{Now: func() time.Time { return noon }})
	p := r.blade("b1", 2, 0)
	r.basics("b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	for i := range uint64(2) {
		count := api.Count{Packets: 1000 * i, Bytes: 125_000_000 * i}
		ports := api.Ports{Head: api.NewHead(api.KindPorts, "b1"), Status: api.PortsStatus{At: noon.Add(time.Duration(i) * time.Second), Ports: []api.PortCount{{Port: "nic0/pf0/vf0", Received: count, Sent: count}, {Port: "nic0/pf0/vf1"}}}}
		if err := p.put(t.Context(), api.PartPorts, ports, nil); err != nil {
			t.Fatal(err)
		}
	}
	var got api.List[api.Busy]
	eventually(t, "both reports are there", func() bool {
		r.do("GET", "busy/vnic", "", &got)
		return len(got.Items) == 1 && len(got.Items[0].Status.Figures) > 0
	})
	b := got.Items[0]
	if want := map[string]float64{"bits": 2e9, "received": 1e9, "sent": 1e9, "packets": 2000, "load": 20}; b.Metadata.Name != "web/eth0" || b.Status.Words["port"] != "nic0/pf0/vf0" || !cmp.Equal(b.Status.Figures, want) {
		t.Errorf("%+v, want %v", b, want)
	}
	r.do("GET", "busy/vf?limit=1&sort=packets", "", &got)
	if len(got.Items) != 1 || got.Metadata.Remaining != 1 || got.Items[0].Status.Words["vnic"] != "web/eth0" {
		t.Errorf("one of two VFs: %+v", got)
	}
	if text := r.want(404, "GET", "busy/vnics", ""); !strings.Contains(text, "did you mean vnic?") {
		t.Error(text)
	}
	for path, code := range map[string]string{"busy/vnic?sort=hardware": "E_VALUE", "busy/vnic?limit=-1": "E_VALUE"} {
		if text := r.want(422, "GET", path, ""); !strings.Contains(text, code) {
			t.Errorf("%s: %s", path, text)
		}
	}
}
