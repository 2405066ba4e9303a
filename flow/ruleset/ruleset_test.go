package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bladeflow/bladeflow/flow"
)

func testPorts() *flow.Ports { return flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1") }

// sameSets compares what sets say, not where they were read.
func sameSets(t *testing.T, got, want []*Set) {
	t.Helper()
	opts := cmp.Options{cmpopts.IgnoreUnexported(Set{}), cmpopts.EquateEmpty()}
	if d := cmp.Diff(want, got, opts); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

const webYAML = `# the contract's example
apiVersion: bladeflow/v1
kind: RuleSet
metadata: {name: web}
spec:
  tier: tenant
  default: drop
  rules:
    - name: allow-web
      priority: 100
      match: {in_port: vf0, ip_proto: tcp, dst_ip: 10.0.0.0/24, dst_port: 80-443}
      actions: [normal]
    - name: copy
      match:
        eth_type: 0x0806
        vlan_id: none
      actions:
        - mirror: [vf1, uplink]
        - vlan_push: {id: 5, prio: 3, proto: 0x88a8}
        - vlan_set: 6
        - vlan_pop
        - output: vf1
    - name=line,priority=7,ip_frag=no actions=pass
    - name: nat
      priority: 8
      match: {ip_proto: tcp, src_ip: 10.0.0.0/8, dst_port: 80}
      actions:
        - set: {dst_port: 8080, dst_ip: 192.0.2.7, dst_mac: 02:00:00:00:00:07, ip_tos: 0x10/0xfc, ip_ttl: 9}
        - police: {rate: 100M, burst: 64000}
        - normal
    - name: nat6
      priority: 9
      match: {eth_type: ipv6}
      actions: [{set: {src_ip: "2001:db8::"}}, {set: {src_mac: 02:00:00:00:00:08}}, {police: {burst: 2G, rate: 1500}}, {output: [vf1, uplink]}]
---
{"apiVersion": "bladeflow/v1", "kind": "RuleSet", "metadata": {"name": "base", "uid": "u-1", "tenant": "acme", "labels": {"a": "b c"}},
 "spec": {"tier": "baseline", "rules": [{"name": "no", "priority": 1, "match": {"ip_frag": "no"}, "actions": ["drop"]}]}}
`

func webSets(t *testing.T) []*Set {
	t.Helper()
	rule := func(line string) flow.Rule {
		r, err := flow.ParseRule(line, testPorts())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	web, err := New("web", flow.TierTenant, flow.Actions{{Op: flow.Drop}}, []flow.Rule{
		rule("name=allow-web,priority=100,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=80-443 actions=normal"),
		rule("name=copy,eth_type=arp,vlan_id=none actions=mirror(vf1,uplink),vlan_push(id=5,prio=3,proto=0x88a8),vlan_set:6,vlan_pop,output:vf1"),
		rule("name=line,priority=7,ip_frag=no actions=pass"),
		rule("name=nat,priority=8,ip_proto=tcp,src_ip=10.0.0.0/8,dst_port=80 actions=set(dst_mac=02:00:00:00:00:07,dst_ip=192.0.2.7,ip_tos=0x10/0xfc,ip_ttl=9,dst_port=8080),police(rate=100M,burst=64k),normal"),
		rule("name=nat6,priority=9,eth_type=ipv6 actions=set(src_ip=2001:db8::),set(src_mac=02:00:00:00:00:08),police(rate=1500,burst=2G),output(vf1,uplink)"),
	})
	if err != nil {
		t.Fatal(err)
	}
	base := &Set{Name: "base", UID: "u-1", Tenant: "acme", Labels: map[string]string{"a": "b c"}, Tier: flow.TierBaseline,
		Rules: []flow.Rule{rule("name=no,priority=1,ip_frag=no actions=drop")}}
	if err := base.finish(); err != nil {
		t.Fatal(err)
	}
	return []*Set{web, base}
}

func TestDecodeYAML(t *testing.T) {
	got, err := Decode(YAML, "web.yaml", []byte(webYAML), testPorts())
	if err != nil {
		t.Fatal(err)
	}
	sameSets(t, got, webSets(t))
	if w := got[0].Where(1); w != "web.yaml:13:7" {
		t.Errorf("rule copy is at %s", w)
	}
	r := got[0].Rules[0]
	if r.Name != "web/allow-web" || r.ID != flow.NewRuleID("web", "allow-web") || got[1].Rules[0].ID != flow.NewRuleID("u-1", "no") {
		t.Errorf("names and IDs: %v", r)
	}
}

func TestEncode(t *testing.T) {
	for _, f := range []Format{YAML, JSON, Flows} {
		want := webSets(t)
		if f == Flows {
			want[1].Labels = nil
		}
		for _, sets := range [][]*Set{want, want[:1], want[1:], {{Name: "empty", UID: "empty", Tenant: "default", Tier: flow.TierSystem}}} {
			var b bytes.Buffer
			if err := Encode(&b, f, sets, testPorts()); err != nil {
				t.Fatal(err)
			}
			got, err := Decode(f, "x", b.Bytes(), testPorts())
			if err != nil {
				t.Fatalf("%s: %v\n%s", f, err, b.String())
			}
			sameSets(t, got, sets)
		}
	}
}

// TestRefused feeds documents with one thing wrong. The place and the words are
// what the user sees.
func TestRefused(t *testing.T) {
	head := "apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: web}\nspec:\n  rules:\n"
	check := func(f Format, text, code, place string, words ...string) {
		t.Helper()
		sets, err := Decode(f, "f", []byte(text), testPorts())
		var fault *flow.Fault
		if !errors.As(err, &fault) {
			t.Errorf("%s\ngave %v and %v, want a fault", text, sets, err)
			return
		}
		if fault.Code != code || fault.Why == "" || fault.Remedy == "" || !strings.HasPrefix(fault.Error(), "f:"+place+":") || strings.Contains(fault.Error(), "\n") {
			t.Errorf("%s\ngave %s %q, want %s at %s", text, fault.Code, fault, code, place)
		}
		for _, w := range words {
			if !strings.Contains(fault.Error(), w) {
				t.Errorf("%q does not say %q", fault, w)
			}
		}
	}
	y := func(text, code, place string, words ...string) { t.Helper(); check(YAML, text, code, place, words...) }
	rule := func(text, code, place string, words ...string) {
		t.Helper()
		y(head+"    - {name: a, actions: [drop]}\n    - "+text, code, place, words...)
	}
	y("apiVersion: bladeflow/v1\nkind: [", "E_YAML", "2:1")
	y("apiVersion: bladeflow/v1\nkind: [}\n# end\n", "E_YAML", "2:1")
	y("a: b: c\n", "E_YAML", "1:1")
	y("- a\n", "E_TYPE", "1:1", "list", "mapping")
	y("kind: RuleSet\n", "E_FIELD_MISSING", "1:1", "add apiVersion: bladeflow/v1")
	y("apiVersion: v1\nkind: RuleSet\n", "E_VERSION", "1:13", "use bladeflow/v1")
	y("apiVersion: bladeflow/v1\nkind: Rule\n", "E_VERSION", "2:7", "use RuleSet")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetdata: {}\n", "E_FIELD_UNKNOWN", "3:1", "did you mean metadata?")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nspec: {}\n", "E_FIELD_MISSING", "1:1", "metadata")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a}\n", "E_FIELD_MISSING", "1:1", "spec")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {nane: a}\nspec: {}\n", "E_FIELD_UNKNOWN", "3:12", "metadata.nane", "did you mean name?")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a/b}\nspec: {}\n", "E_NAME", "3:18")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: [a]}\nspec: {}\n", "E_TYPE", "3:18")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {uid: a}\nspec: {}\n", "E_FIELD_MISSING", "3:11", "metadata.name")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a}\nspec: {tier: tenants}\n", "E_TIER", "4:14", "tenant")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a}\nspec: {default: output}\n", "E_DEFAULT", "4:17", "normal, pass or drop")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a}\nspec: {rules: {}}\n", "E_TYPE", "4:15", "list")
	y("apiVersion: bladeflow/v1\nkind: RuleSet\nmetadata: {name: a}\nspec: {tier: system, tier: admin}\n", "E_FIELD_TWICE", "4:22", "spec.tier")
	rule("name: b\n      match: {dst_prot: 80}\n      actions: [drop]", "E_FIELD_UNKNOWN", "8:15", "spec.rules[1].match", "did you mean dst_port?")
	rule("name: b\n      match: {dst_port: 70000}\n      actions: [drop]", "E_FIELD_VALUE", "8:25", "dst_port", "0 to 65535")
	rule("name: b\n      match: {dst_port: [80]}\n      actions: [drop]", "E_TYPE", "8:25", "dst_port")
	rule("name: b\n      match: {dst_port: }\n      actions: [drop]", "E_TYPE", "8:25", "empty")
	rule("name: b\n      match: {in_port: vf7}\n      actions: [drop]", "E_PORT_UNKNOWN", "8:24", "nic0/pf0/vf1")
	rule("name: b\n      match: {icmp_type: 8}\n      actions: [drop]", "E_FIELD_NEEDS", "8:26", "ip_proto=icmp")
	rule("name: b\n      match: {dst_port: 1, dst_port: 2}\n      actions: [drop]", "E_FIELD_TWICE", "8:28")
	rule("name: b\n      match: dst_port=80\n      actions: [drop]", "E_TYPE", "8:14")
	rule("name: b\n      prio: 4\n      actions: [drop]", "E_FIELD_UNKNOWN", "8:7", "spec.rules[1].prio")
	rule("name: b\n      priority: high\n      actions: [drop]", "E_PRIORITY", "8:17")
	rule("name: b\n      priority: -1\n      actions: [drop]", "E_PRIORITY", "8:17")
	rule("name: b\n      priority: 2147483648\n      actions: [drop]", "E_PRIORITY", "8:17", "2147483647")
	rule("name: b\n", "E_FIELD_MISSING", "7:7", "spec.rules[1].actions")
	rule("actions: [drop]\n", "E_FIELD_MISSING", "7:7", "spec.rules[1].name")
	rule("name: a\n      actions: [drop]", "E_RULE_TWICE", "7:7", "line 6")
	rule("name: b\n      actions: []", "E_ACTION", "8:16", "no end")
	rule("name: b\n      actions: [vlan_pop]", "E_ACTION", "8:16", "end it with")
	rule("name: b\n      actions: normal", "E_TYPE", "8:16", "write actions: [normal]")
	rule("name: b\n      actions: [norml]", "E_ACTION", "8:17", "spec.rules[1].actions[0]", "did you mean normal?")
	rule("name: b\n      actions: [output: vf9]", "E_PORT_UNKNOWN", "8:25")
	rule("name: b\n      actions: [{output: [vf0, vf9]}]", "E_PORT_UNKNOWN", "8:32")
	rule("name: b\n      actions: [{vlan_push: {id: 5, prio: 9}}, drop]", "E_ACTION", "8:43")
	rule("name: b\n      actions: [{set: {src_ip: 1.2.3}}, drop]", "E_ACTION", "8:32", "spec.rules[1].actions[0]", "src_ip")
	rule("name: b\n      actions: [{set: {src_ib: 1.2.3.4}}, drop]", "E_ACTION", "8:32", "did you mean src_ip?")
	rule("name: b\n      actions: [{set: {dst_port: 80}}, drop]", "E_SET_NEEDS", "8:16", "dst_port", "flags=+l4")
	rule("name: b\n      match: {src_ip: 10.0.0.0/8}\n      actions: [{set: {dst_ip: 2001:db8::1}}, drop]", "E_SET_NEEDS", "9:16", "version")
	rule("name: b\n      actions: [{police: {rate: 100M}}, drop]", "E_ACTION", "8:17", "no burst")
	rule("name: b\n      actions: [{police: {rate: fast, burst: 64k}}, drop]", "E_ACTION", "8:33", "bits a second")
	rule("name: b\n      actions: [{police: {rate: 100M, brst: 64k}}, drop]", "E_ACTION", "8:45", "did you mean burst?")
	rule("name: b\n      actions: [[drop]]", "E_TYPE", "8:17")
	rule("7", "E_TYPE", "7:7")
	rule("name=b,dst_port=x actions=drop", "E_FIELD_VALUE", "7:7")

	// Aliases stand for a thousand lists of a thousand, or for themselves.
	thousand := func(word string) string { return "[" + word + strings.Repeat(", "+word, 999) + "]\n" }
	y(head+"    - &a "+thousand("x")+"    - "+thousand("*a"), "E_ALIAS", "7:4004", "alias *a", "1000000")
	y(head+"    - &a [x, *a]\n", "E_ALIAS", "6:14", "alias *a")
	y(head+"    []\nspec: {}\n", "E_FIELD_TWICE", "7:1", "7:1: spec:")

	check(Flows, "# c\n\n  name=a,dst_port=70000 actions=drop\n", "E_FIELD_VALUE", "3:10")
	check(Flows, "set=a,tier=tenant,default=x\n", "E_DEFAULT", "1:19")
	check(Flows, "set=a,teir=tenant\n", "E_FIELD_UNKNOWN", "1:7", "did you mean tier?")
	check(Flows, "name=a actions=drop\nname=a actions=drop\n", "E_RULE_TWICE", "2:1", "line 1")
	check(ClassBench, "@1.2.3.4/32 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFF\n@1.2.3.4/33 0.0.0.0/0 0 : 65535 0 : 65535 0x06/0xFF\n", "E_LINE", "2:2", "source address")
	check(ClassBench, "1.2.3.4/32\n", "E_LINE", "1:1", "@")
	check(ClassBench, "@1.2.3.4/32 0.0.0.0/0 9 : 5 0 : 65535 0x06/0xFF\n", "E_LINE", "1:26", "empty")
	check(ClassBench, "@1.2.3.4/32 0.0.0.0/0 0 - 5 0 : 65535 0x06/0xFF\n", "E_LINE", "1:25", "colon")
	check(ClassBench, "@1.2.3.4/32 0.0.0.0/0 0 : 5 0 : 65535 6/0xFF\n", "E_LINE", "1:39", "hexadecimal")
	check(ClassBench, "@1.2.3.4/32 0.0.0.0/0 0 : 5 0 : 65535 0x06/0xFF 0x0/0x0 x\n", "E_LINE", "1:57", "after the last column")
	check(OVS, " cookie=0x0, metadata=0x1 actions=drop\n", "E_OVS", "1:14", "metadata=0x1")
	check(OVS, " priority=1,ip actions=resubmit(,1)\n", "E_OVS", "1:24", "resubmit")
	check(OVS, " in_port=LOCAL actions=drop\n", "E_OVS", "1:2", "in_port=LOCAL", "host")
	check(OVS, " priority=1,priority=2 actions=drop\n", "E_OVS", "1:13", "1 and 2")
	check(OVS, " table=3 actions=drop\n", "E_OVS", "1:2", "table=3")
	check(OVS, " ip,nw_proto=300 actions=drop\n", "E_FIELD_VALUE", "1:5")
}

// TestByteOrderMark reads what editors of Windows write.
func TestByteOrderMark(t *testing.T) {
	for f, text := range map[Format]string{Flows: "name=a actions=drop\r\n", ClassBench: "@1.2.3.4/32 0.0.0.0/0 0 : 5 0 : 65535 0x06/0xFF\r\n",
		OVS: " priority=1 actions=drop\r\n", YAML: "apiVersion: bladeflow/v1\r\nkind: RuleSet\r\nmetadata: {name: x}\r\nspec: {rules: [name=a actions=drop]}\r\n"} {
		sets, err := Decode(f, "x", []byte("\ufeff"+text), testPorts())
		if err != nil || len(sets) != 1 || len(sets[0].Rules) != 1 {
			t.Errorf("%s: %v, %v", f, sets, err)
		}
	}
}

// TestManyLabels reads as many labels as fit into a file in a moment.
func TestManyLabels(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: bladeflow/v1\nkind: RuleSet\nspec: {}\nmetadata:\n  name: a\n  labels:\n")
	const n = 50_000
	for i := range n {
		fmt.Fprintf(&b, "    k%d: v\n", i)
	}
	began := time.Now()
	sets, err := Decode(YAML, "f", []byte(b.String()), testPorts())
	if err != nil || len(sets[0].Labels) != n {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("%d labels took %s", n, took)
	}
}

func TestBuild(t *testing.T) {
	read := func(name, text string) *Set {
		t.Helper()
		sets, err := Decode(Flows, name, []byte(text), testPorts())
		if err != nil {
			t.Fatal(err)
		}
		return sets[0]
	}
	a := read("a.flows", "set=a,tier=tenant,default=normal\nname=x,priority=5,dst_port=80 actions=drop\n")
	b := read("b.flows", "set=b,tier=admin\nname=x,priority=1 actions=pass\n")
	table, err := Build(3, nil, testPorts(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	if table.Generation() != 3 || table.Len() != 2 || table.Rule(0).Name != "b/x" || table.Rule(1).Name != "a/x" || !table.Default().Equal(flow.Actions{{Op: flow.Normal}}) {
		t.Errorf("table %v %v", table.Rule(0), table.Rule(1))
	}
	check := func(code string, words []string, sets ...*Set) {
		t.Helper()
		_, err := Build(1, nil, testPorts(), sets...)
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != code {
			t.Errorf("got %v, want %s", err, code)
			return
		}
		for _, w := range words {
			if !strings.Contains(f.Error(), w) {
				t.Errorf("%q does not say %q", f, w)
			}
		}
	}
	check("E_SET_TWICE", []string{"a.flows"}, a, a)
	check("E_DEFAULT", []string{"a and c", "normal", "pass"}, a, read("c.flows", "set=c,default=pass\n"))
	check("E_TIE", []string{"a.flows:2:1: rule a/x", "d.flows:2:3: rule d/y", "src_port=0,dst_port=80"}, a, read("d.flows", "set=d,tier=tenant\n  name=y,priority=5,ip_proto=tcp actions=pass\n"))
	check("E_RULE_TWICE", []string{"a/x"}, a, read("e.flows", "set=e,uid=a\nname=x actions=drop\n"))
	if _, err := Build(1, nil, nil); err != nil {
		t.Error(err)
	}
}

const classBenchText = `@10.0.0.0/8	192.168.1.1/32	0 : 65535	80 : 80	0x06/0xFF	0x0000/0x0000
@0.0.0.0/0	10.1.0.0/16	1024 : 65535	0 : 65535	0x11/0xFF
@0.0.0.0/0	0.0.0.0/0	0 : 65535	0 : 65535	0x00/0x00
`

func TestClassBench(t *testing.T) {
	sets, err := Decode(ClassBench, "dir/acl.cb", []byte(classBenchText), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := Encode(&got, Flows, sets, nil); err != nil {
		t.Fatal(err)
	}
	want := `set=acl,tier=tenant
name=r0,priority=2,ip_proto=tcp,src_ip=10.0.0.0/8,dst_ip=192.168.1.1,dst_port=80 actions=output:#1
name=r1,priority=1,ip_proto=udp,dst_ip=10.1.0.0/16,src_port=1024-65535 actions=output:#2
name=r2,priority=0,eth_type=ipv4 actions=output:#3
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Error(d)
	}
	var back bytes.Buffer
	if err := Encode(&back, ClassBench, sets, nil); err != nil {
		t.Fatal(err)
	}
	again, err := Decode(ClassBench, "dir/acl.cb", back.Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sameSets(t, again, sets)
	if a, b := classBenchAction(0), classBenchAction(65_535); a.Equal(b) || b[0].Ports[1] != 1 {
		t.Errorf("actions %v %v", a, b)
	}
	for match, field := range map[string]string{"in_port=#1": "in_port", "src_ip=fe80::1": "src_ip", "dst_port=1/1": "dst_port", "src_ip=10.0.0.1/255.0.0.255": "src_ip", "flags=-odd": "flags", "eth_type=arp": "eth_type"} {
		r, err := flow.ParseRule("name=a,"+match+" actions=drop", nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New("s", flow.TierTenant, nil, []flow.Rule{r})
		if err != nil {
			t.Fatal(err)
		}
		if err := Encode(&back, ClassBench, []*Set{s}, nil); err == nil || !strings.Contains(err.Error(), "rule s/a: field "+field) {
			t.Errorf("%s: %v", match, err)
		}
	}
}

func TestTrace(t *testing.T) {
	trace, err := ReadTrace("t", []byte("# c\n167772161\t3232235777 5 80 6 0\n1 2 3 4 5 -1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s := flow.FormatKey(trace.Keys[0], nil); s != "ip_proto=tcp,src_ip=10.0.0.1,dst_ip=192.168.1.1,src_port=5,dst_port=80" || !cmp.Equal(trace.Expected, []int32{0, -1}) {
		t.Errorf("%s %v", s, trace.Expected)
	}
	var b bytes.Buffer
	if err := trace.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := ReadTrace("t", b.Bytes())
	if err != nil || !cmp.Equal(trace, again) {
		t.Errorf("%v %v", again, err)
	}
	sets, err := Decode(ClassBench, "c", []byte(classBenchText), nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := Build(1, nil, nil, sets...)
	if err != nil {
		t.Fatal(err)
	}
	if i, j := table.Lookup(&trace.Keys[0]), table.Lookup(&trace.Keys[1]); i != 0 || j != 2 {
		t.Errorf("lookups give %d and %d", i, j)
	}
	for text, place := range map[string]string{"1 2 3 4\n": "t:1:8", "1 2 3 4 5\n1 2 3 4 5 6\n": "t:2:11", "1 2 3 4 5 6\n1 2 3 4 5\n": "t:2:10", "1 2 65536 4 5": "t:1:5", "1 2 3 4 5 -2": "t:1:11", "1 2 3 4 5 1 x": "t:1:13", "10.0.0.1 2 3 4 5": "t:1:1"} {
		if _, err := ReadTrace("t", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), place+": ") {
			t.Errorf("%q: %v, want it at %s", text, err, place)
		}
	}
}

// BenchmarkDecode reads 100,000 rules in each format.
func BenchmarkDecode(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for range 100_000 {
		lo := rng.IntN(65_536)
		fmt.Fprintf(&text, "@10.%d.%d.0/24\t10.%d.0.0/16\t0 : 65535\t%d : %d\t0x06/0xFF\t0x0000/0x0000\n", rng.IntN(256), rng.IntN(256), rng.IntN(256), lo, lo+rng.IntN(65_536-lo))
	}
	sets, err := Decode(ClassBench, "big", text.Bytes(), nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range []Format{ClassBench, Flows, YAML} {
		b.Run(string(f), func(b *testing.B) {
			var data bytes.Buffer
			if err := Encode(&data, f, sets, nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(data.Len()))
			for b.Loop() {
				if _, err := Decode(f, "big", data.Bytes(), flow.OpenPorts()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
