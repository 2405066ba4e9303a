package manager

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestWholeFabric: a whole fabric is applied in one change, reverted to nothing, and
// reverted to, on a real store with its own limits. BLADEFLOW_APPLY=FILE does it with 256
// blades, 2,000 profiles and 100,000 rules, and writes what it took.
func TestWholeFabric(t *testing.T) {
	must.Long(t, "dozens of blades")
	blades, profiles, rules := 16, 120, 50
	file := os.Getenv("BLADEFLOW_APPLY")
	if file != "" {
		blades, profiles = 256, 2000
	}
	server, err := store.Start(t.Context(), store.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r := newRigWith(t, server.Local(), Config{Lease: time.Minute, Capacity: DefaultCapacity()})
	items := []string{object("Network", "front", `{"vlan":10}`)}
	for i := range blades {
		name, chassis := fmt.Sprintf("b%03d", i), fmt.Sprintf("c%02d", i/16)
		if i%16 == 0 {
			items = append(items, object("Chassis", chassis, `{"slots":16}`))
		}
		items = append(items, object("Blade", name, fmt.Sprintf(`{"chassis":%q,"slot":%d}`, chassis, 1+i%16)))
		r.blade(name, 16, 0)
	}
	for i := range profiles {
		name := fmt.Sprintf("p%04d", i)
		var set []string
		for j := range rules {
			set = append(set, fmt.Sprintf(`{"name":"r%d","priority":%d,"match":{"in_port":"eth0","dst_ip":"10.%d.%d.%d/32","dst_port":"%d","ip_proto":"tcp"},"actions":["normal"]}`, j, 1+j, i/256, i%256, j, 1000+j))
		}
		items = append(items, object("RuleSet", name, `{"tier":"tenant","rules":[`+strings.Join(set, ",")+`]}`),
			object("Profile", name, fmt.Sprintf(`{"vnics":[{"name":"eth0","mac":"02:00:00:00:%02x:%02x","network":"front","qos":{"guaranteed":"1G","maximum":"5G"}}],"ruleSets":[%q]}`, i/256, i%256, name)))
	}
	body := `{"items":[` + strings.Join(items, ",") + `]}`
	took := map[string]float64{}
	timed := func(what string, do func()) {
		begin := time.Now()
		do()
		took[what] = math.Round(100*time.Since(begin).Seconds()) / 100
		t.Logf("%s: %.2f s", what, took[what])
	}
	eventually(t, "all blades report", func() bool { return r.m.latest() != nil && len(r.m.latest().blades) == blades })
	settled := func(n int) func() bool {
		return func() bool {
			v, active := r.m.latest(), 0
			for _, b := range v.blades {
				if b.status != nil && b.status.Status.Proved {
					for _, f := range b.status.Status.VFs {
						if f.Link {
							active++
						}
					}
				}
			}
			return active == n
		}
	}
	var p api.Preview
	timed("dry run", func() {
		if status, text := r.do("POST", "apply?dryRun=true", body, &p); status != 200 || len(p.Changes) != len(items)+profiles {
			t.Fatalf("%d %.300s", status, text)
		}
	})
	timed("apply", func() { r.want(200, "POST", "apply", body) })
	timed("in force", func() { eventually(t, "all vNICs work", settled(profiles)) })
	one := strings.Replace(items[len(items)-2], `"dst_port":"1000"`, `"dst_port":"7"`, 1)
	timed("change of one rule", func() { r.want(200, "PUT", fmt.Sprintf("rulesets/p%04d", profiles-1), one) })
	timed("list of profiles", func() { r.want(200, "GET", "profiles", "") })
	timed("diff with the beginning", func() {
		var diff api.List[api.Difference]
		if r.do("GET", "diff?revision=1", "", &diff); len(diff.Items) != 1 {
			t.Errorf("%d differences", len(diff.Items))
		}
	})
	r.want(200, "PUT", "snapshots/full", object("Snapshot", "full", `{}`))
	nothing := strings.ReplaceAll(`{"items":[`+strings.Join(items, ",")+`]}`, `"vnics"`, `"off":true,"vnics"`)
	timed("switch all off", func() { r.want(200, "POST", "apply", nothing) })
	eventually(t, "no vNIC works", settled(0))
	timed("revert", func() { r.want(200, "POST", "revert", `{"snapshot":"full"}`) })
	timed("in force again", func() { eventually(t, "all vNICs work again", settled(profiles)) })
	var diff api.List[api.Difference]
	if r.do("GET", "diff?snapshot=full", "", &diff); len(diff.Items) != 0 {
		t.Errorf("after the revert %d things differ", len(diff.Items))
	}
	l := asLeader(t, r.m, r.store)
	timed("sweep", func() {
		if err := l.tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	wantSwept(t, l, r.store)
	if file == "" {
		return
	}
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(map[string]any{"commit": strings.TrimSpace(string(commit)), "machine": fmt.Sprintf("%d processors, %s, load %s", runtime.NumCPU(), runtime.Version(), strings.Join(strings.Fields(string(load))[:3], " ")),
		"blades": blades, "profiles": profiles, "rules": profiles * rules, "objects": len(items) + profiles, "bytes": len(body), "seconds": took}, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
