package fallback

import (
	"crypto/sha256"
	"reflect"
	"testing"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// TestDigest changes every field of a rule and of what it consists of: each that decides
// about a frame, or for which rule it counts, changes the digest, and no other does.
func TestDigest(t *testing.T) {
	whole := func() flow.Rule {
		r := flow.Rule{ID: 1, Name: "set/rule", Priority: 1, Actions: flow.Actions{
			{Op: flow.Set, Settings: []flow.Setting{{Field: flow.SrcMAC, Value: 1, Mask: flow.SrcMAC.Max()}}},
			{Op: flow.Output, Ports: []flow.Port{1}},
		}}
		r.Match.Pin(flow.InPort, 1, 0xffff)
		return r
	}
	sum := func(r flow.Rule) string {
		w := digester{hash: sha256.New()}
		w.rule(&r)
		w.flush()
		return string(w.hash.Sum(nil))
	}
	want := sum(whole())
	if sum(whole()) != want {
		t.Error("the same rule has two digests")
	}
	silent := map[string]bool{"Name": true, "Tier": true, "Priority": true}
	var change func(path string, of func(*flow.Rule) reflect.Value)
	change = func(path string, of func(*flow.Rule) reflect.Value) {
		r := whole()
		v := of(&r)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				change(path+"."+v.Type().Field(i).Name, func(r *flow.Rule) reflect.Value { return of(r).Field(i) })
			}
			return
		case reflect.Array, reflect.Slice:
			for i := range v.Len() {
				change(path+"[]", func(r *flow.Rule) reflect.Value { return of(r).Index(i) })
			}
			if v.Kind() == reflect.Array {
				return
			}
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		case reflect.String:
			v.SetString("changed")
		default:
			if v.CanInt() {
				v.SetInt(v.Int() + 1)
			} else {
				v.SetUint(v.Uint() + 1)
			}
		}
		if changed := sum(r) != want; changed == silent[path[1:]] {
			t.Errorf("%s: changed %t", path, changed)
		}
	}
	change("", func(r *flow.Rule) reflect.Value { return reflect.ValueOf(r).Elem() })
}

// TestTableDigest changes what is not a rule.
func TestTableDigest(t *testing.T) {
	table := func(uplink flow.Port, def flow.Op, stations ...flow.Station) *flow.Table {
		sw, err := flow.NewSwitch(uplink, stations...)
		if err != nil {
			t.Fatal(err)
		}
		tab, err := flow.NewTable(flow.TableSpec{Generation: 1, Switch: sw, Default: flow.Actions{{Op: def}}})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	}
	at := func(vlan uint16, mac uint64, port flow.Port) flow.Station {
		return flow.Station{VLAN: vlan, MAC: mac, Port: port}
	}
	two := &Datapath{links: [][]Link{{}, {sink{}}, {sink{}}}}
	seen := map[flowcache.Digest]int{}
	for i, sum := range []flowcache.Digest{
		two.digest(table(1, flow.Drop, at(0, 2, 2))),
		two.digest(table(2, flow.Drop, at(0, 2, 2))),
		two.digest(table(1, flow.Normal, at(0, 2, 2))),
		two.digest(table(1, flow.Drop, at(1, 2, 2))),
		two.digest(table(1, flow.Drop, at(0, 4, 2))),
		two.digest(table(1, flow.Drop, at(0, 2, 1))),
		two.digest(table(1, flow.Drop)),
		(&Datapath{links: two.links[:2]}).digest(table(1, flow.Drop, at(0, 2, 2))),
		(&Datapath{links: two.links, kernel: nobody{}}).digest(table(1, flow.Drop, at(0, 2, 2))),
	} {
		if j, twice := seen[sum]; twice {
			t.Errorf("cases %d and %d have the same digest", j, i)
		}
		seen[sum] = i
	}
	again, err := flow.NewTable(flow.TableSpec{Generation: 2, Switch: table(1, flow.Drop, at(0, 2, 2)).Switch()})
	if err != nil {
		t.Fatal(err)
	}
	if _, known := seen[two.digest(again)]; !known {
		t.Error("a number of its own makes a table another one")
	}
}

type nobody struct{}

func (nobody) Deliver(flow.Port, []byte) error { return nil }
