package manager

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestStrangeReports: a blade that reports what cannot be is held, with the reason, until it
// reports something else, whatever other parts of its report come; and the fabric's report, its
// metrics and changes of other blades go on.
func TestStrangeReports(t *testing.T) {
	r := newRigWith(t, store.NewMemory(), Config{Capacity: DefaultCapacity()})
	r.blade("b1", 4, 0)
	odd := r.blade("b2", 4, 0)
	r.basics("b1", "b2")
	waitSettled(r, "b1", "b2")
	r.want(200, "PUT", "profiles/there", object("Profile", "there", `{"vnics":[{"name":"eth0","mac":"02:00:00:00:00:09","network":"front"}],"where":{"blades":["b2"]}}`))
	r.profile("there", "active", "b2")
	put := func(part string, v any) {
		t.Helper()
		if err := odd.put(t.Context(), part, v, nil); err != nil {
			t.Fatal(err)
		}
	}
	// reason waits until the blade is held, or is not, and returns the code of the reason.
	reason := func(held bool) string {
		t.Helper()
		var b api.Blade
		for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(time.Millisecond) {
			b = api.Blade{}
			if r.do("GET", "blades/b2", "", &b); (b.Status.State == "held") == held {
				break
			}
		}
		if (b.Status.State == "held") != held {
			t.Fatalf("the blade is %s: %+v", b.Status.State, b.Status.Reason)
		}
		if b.Status.Reason == nil {
			return ""
		}
		return b.Status.Reason.Code
	}
	inventory := func(change func(*api.InventoryStatus)) func() {
		return func() {
			inv := inventoryOf("b2", 4)
			change(&inv.Status)
			put(api.PartInventory, inv)
		}
	}
	pf := func(change func(*api.PF)) func() {
		return inventory(func(s *api.InventoryStatus) { change(&s.NICs[0].PFs[0]) })
	}
	device := func(limit, entries int) func() {
		return func() {
			s := api.BladeStatus{Head: api.NewHead(api.KindBladeStatus, "b2"), Status: odd.status}
			s.Status.Devices = []api.Device{{Name: "nic0", PFs: []string{"nic0/pf0"}, Limit: limit, Entries: entries}}
			put(api.PartGeneration, s)
		}
	}
	for name, report := range map[string]func(){
		"speed":             pf(func(p *api.PF) { p.Netdev.BitsPerSecond = math.MaxUint64 }),
		"VFs without end":   pf(func(p *api.PF) { p.TotalVFs = math.MaxInt }),
		"VFs below 0":       pf(func(p *api.PF) { p.TotalVFs, p.NumVFs = -1, -1 }),
		"PF of another NIC": pf(func(p *api.PF) { p.Name = "nic1/pf0" }),
		"VF of no PF":       pf(func(p *api.PF) { p.VFs[0].Name = "vf0" }),
		"VF twice":          pf(func(p *api.PF) { p.VFs[0].Name = p.VFs[1].Name }),
		"name with a line":  inventory(func(s *api.InventoryStatus) { s.NICs[0].Name = "nic0\n" }),
		"NIC twice":         inventory(func(s *api.InventoryStatus) { s.NICs = append(s.NICs, s.NICs[0]) }),
		"entries below 0":   device(4, -9),
		"limit without end": device(math.MaxInt, 0),
	} {
		report()
		if code := reason(true); code != "E_BLADE_REPORT" {
			t.Errorf("%s: held because of %q", name, code)
		}
		var there api.Profile
		if r.do("GET", "profiles/there", "", &there); there.Status.Reason == nil || there.Status.Reason.Code != "E_BLADE_REPORT" {
			t.Errorf("%s: a profile that is there: %+v", name, there.Status)
		}
		put(api.PartPorts, &api.Ports{Head: api.NewHead(api.KindPorts, "b2"), Status: api.PortsStatus{At: noon, Ports: []api.PortCount{{Port: "x"}}}})
		r.want(200, "GET", "reports/capacity", "")
		r.want(200, "PUT", "profiles/web?dryRun=true", webProfile("web", 1))
		if got := r.scrape()["bladeflow_capacity_report_failed{}"]; got != 0 {
			t.Errorf("%s: the report of metrics failed", name)
		}
		if code := reason(true); code != "E_BLADE_REPORT" {
			t.Errorf("%s: after a report of ports held because of %q", name, code)
		}
		inventory(func(*api.InventoryStatus) {})()
		if err := odd.report(t.Context()); err != nil {
			t.Fatal(err)
		}
		if code := reason(false); code != "" {
			t.Errorf("%s: in the end %q", name, code)
		}
	}
}

// TestOddParts: what of a report cannot be understood is held against a blade until that part
// comes anew, or goes.
func TestOddParts(t *testing.T) {
	f := newFollower(func() time.Time { return noon }, nil)
	revision := int64(0)
	take := func(part, text string) error {
		revision++
		e := store.Event{KV: store.KV{Key: store.Status("b1", part), Value: []byte(text), Modified: revision}, Deleted: text == ""}
		if err := f.take(revision, e); err != nil {
			t.Fatal(err)
		}
		return f.blades["b1"].err
	}
	good, err := json.Marshal(inventoryOf("b1", 2))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		part, text string
		odd        bool
	}{
		{api.PartInventory, string(good), false},
		{api.PartRules, "{", true},
		{api.PartPorts, "{}", true},
		{api.PartInventory, strings.ReplaceAll(string(good), "0000:03:00.0", "x"), true},
		{api.PartRules, "{}", true},
		{api.PartPorts, "{", true},
		{api.PartInventory, string(good), true},
		{api.PartPorts, "", false},
	} {
		if err := take(step.part, step.text); (err != nil) != step.odd {
			t.Errorf("after %s %.20s: %v", step.part, step.text, err)
		}
	}
}

// TestRecordStrangeCounters: counters of functions that a blade has not, or that nothing can have
// counted, are not recorded.
func TestRecordStrangeCounters(t *testing.T) {
	inv, err := modelInventory(inventoryOf("b1", 2))
	if err != nil {
		t.Fatal(err)
	}
	r := newRecording(nil, 0)
	for i := range uint64(31) {
		r.traffic("b1", inv, []api.PortCount{
			{Port: "x", Received: api.Count{Bytes: i}}, {Port: "nic9/pf9", Received: api.Count{Bytes: i}}, {Port: "nic0/pf0/vf0", Sent: api.Count{Packets: i}},
			{Port: "nic0/pf0", Received: api.Count{Bytes: i % 2 * math.MaxUint64}, Sent: api.Count{Bytes: 1250 * i}},
		}, noon.Add(time.Duration(i)*10*time.Second))
	}
	var names []string
	for _, s := range r.polls.Take(noon.Add(history.Minutes)) {
		if names = append(names, s.Series); s.Max > 1000 {
			t.Errorf("%+v", s)
		}
	}
	want := history.Name(capacity.Bandwidth, capacity.PortLevel, "b1/nic0/pf0") + " " + history.Name(capacity.Slots, capacity.PFLevel, "b1/nic0/pf0")
	if got := strings.Join(names, " "); got != want {
		t.Errorf("recorded are %s, want %s", got, want)
	}
}
