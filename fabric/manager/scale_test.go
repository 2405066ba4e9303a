package manager

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestManyVFs: all VFs of 256 blades of 64 are told in less than a second, at best: what else
// the machine does is not the manager's.
func TestManyVFs(t *testing.T) {
	must.Long(t, "256 blades")
	s := store.NewMemory()
	for i := range 256 {
		name := fmt.Sprintf("b%03d", i)
		text, err := json.Marshal(inventoryOf(name, 64))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(store.Status(name, api.PartInventory), text)}); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, s)
	r.want(200, "GET", "blades", "")
	took := time.Hour
	var list api.List[api.VFView]
	for range 5 {
		begin := time.Now()
		list = api.List[api.VFView]{}
		r.do("GET", "vfs", "", &list)
		if took = min(took, time.Since(begin)); took <= time.Second {
			break
		}
	}
	t.Logf("%d VFs in %v, decoded", len(list.Items), took)
	if len(list.Items) != 256*64 || took > time.Second {
		t.Errorf("%d VFs in %v", len(list.Items), took)
	}
}

// TestManyBlades: on 100 blades of 1,000 rules, a change of ten rules of all blades is
// in force everywhere soon. What it measures is the manager: the store is memory, and
// the blades do nothing with rules but read them and check the digest.
func TestManyBlades(t *testing.T) {
	must.Long(t, "100 blades")
	const blades, rules = 100, 1000
	r := newRig(t, store.NewMemory())
	var names []string
	for i := range blades {
		names = append(names, fmt.Sprintf("b%03d", i))
	}
	set := func(version int) string {
		var out []string
		for i := range rules {
			v := 0
			if i < 10 {
				v = version
			}
			out = append(out, fmt.Sprintf(`{"name":"r%d","priority":%d,"match":{"src_ip":"10.%d.%d.0/24","dst_port":"%d","ip_proto":"tcp"},"actions":["normal"]}`, i, i, i/256, i%256, 1000+v))
		}
		return object("RuleSet", "all", `{"tier":"network","rules":[`+strings.Join(out, ",")+`]}`)
	}
	items := []string{object("Chassis", "c1", `{"slots":128}`), set(0)}
	for i, b := range names {
		items = append(items, object("Blade", b, fmt.Sprintf(`{"chassis":"c1","slot":%d}`, i+1)))
		r.blade(b, 4, 0)
	}
	r.want(200, "POST", "apply", `{"items":[`+strings.Join(items, ",")+`]}`)
	settled := func(what string, begin time.Time) {
		t.Helper()
		for {
			v, done := r.m.latest(), 0
			for _, b := range v.blades {
				if b.status != nil && b.status.Status.Proved {
					done++
				}
			}
			same := done == blades
			for id, o := range v.orders {
				b := v.blades[id]
				same = same && o.record.Spec.Revision == v.revision && b != nil && b.status != nil && b.status.Status.Record == o.kv.Modified
			}
			if same && len(v.orders) == blades {
				t.Logf("%s: %v", what, time.Since(begin))
				return
			}
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%s: %d of %d blades", what, done, blades)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	settled("first generation", time.Now())
	begin := time.Now()
	r.want(200, "PUT", "rulesets/all", set(1))
	t.Logf("answered after %v", time.Since(begin))
	settled("ten rules changed everywhere", begin)
}
