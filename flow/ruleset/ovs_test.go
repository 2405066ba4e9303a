package ruleset

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestOVS reads lines as ovs-ofctl prints them, and compares with our one line.
func TestOVS(t *testing.T) {
	check := func(line, want string) {
		t.Helper()
		text := "NXST_FLOW reply (xid=0x4):\n cookie=0x0, duration=4.2s, table=0, n_packets=0, n_bytes=0, idle_age=4, " + line + "\n"
		sets, err := Decode(OVS, "br0", []byte(text), testPorts())
		if err != nil {
			t.Errorf("%s: %v", line, err)
			return
		}
		got := flow.FormatRule(&sets[0].Rules[0], nil)
		if want = "name=r0," + want; got != want {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
	check("priority=100,tcp,in_port=1,nw_dst=10.0.0.0/24,tp_dst=80 actions=NORMAL", "priority=100,in_port=#1,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=80 actions=normal")
	check("actions=drop", "priority=32768 actions=drop")
	check(`in_port="vf0" actions=output:"vf1"`, "priority=32768,in_port=#2 actions=output:#3")
	check("arp,dl_src=02:00:00:00:00:01,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=output:2,output:3", "priority=32768,src_mac=02:00:00:00:00:01,dst_mac=01:00:00:00:00:00/01:00:00:00:00:00,eth_type=arp actions=output(#2,#3)")
	check("dl_vlan=5,dl_vlan_pcp=3 actions=strip_vlan,output:2", "priority=32768,vlan_id=5,vlan_prio=3 actions=vlan_pop,output:#2")
	check("dl_vlan=0xffff actions=LOCAL", "priority=32768,vlan_id=none actions=pass")
	check("vlan_tci=0x0000/0x1fff actions=drop", "priority=32768,vlan_id=none actions=drop")
	check("vlan_vid=0x1000/0x1000 actions=output:3,mod_vlan_vid:7,output:2", "priority=32768,vlan_id=any actions=mirror:#3,vlan_set:7,output:#2")
	check("vlan_tci=0x0000/0x1fff actions=mod_vlan_vid:7,output:2", "priority=32768,vlan_id=none actions=vlan_push(id=7),output:#2")
	check("actions=push_vlan:0x88a8,set_field:4101->vlan_vid,set_field:3->vlan_pcp,output:2", "priority=32768 actions=vlan_push(id=5,prio=3,proto=0x88a8),output:#2")
	check("udp6,ipv6_src=fe80::/10,tp_src=0x400/0xfc00 actions=2", "priority=32768,ip_proto=udp,src_ip=fe80::/10,src_port=1024-2047 actions=output:#2")
	check("icmp,icmp_type=8,icmp_code=0 actions=NORMAL", "priority=32768,eth_type=ipv4,ip_proto=icmp,icmp_type=8,icmp_code=0 actions=normal")
	check("icmp6,icmp_type=135 actions=NORMAL", "priority=32768,eth_type=ipv6,ip_proto=icmpv6,icmp_type=135 actions=normal")
	check("tcp,tcp_flags=+syn-ack actions=NORMAL", "priority=32768,eth_type=ipv4,ip_proto=tcp,tcp_flags=+syn-ack actions=normal")
	check("ip,nw_tos=184,nw_ecn=1,nw_ttl=64,nw_frag=later actions=NORMAL", "priority=32768,eth_type=ipv4,ip_frag=later,ip_tos=185,ip_ttl=64 actions=normal")
	check("ip,ip_dscp=46 actions=NORMAL", "priority=32768,eth_type=ipv4,ip_tos=0xb8/0xfc actions=normal")
	check("dl_type=0x0800,nw_proto=6 actions=NORMAL", "priority=32768,eth_type=ipv4,ip_proto=tcp actions=normal")
	check("in_port=2 actions=output:2,output:3", "priority=32768,in_port=#2 actions=output:#3")
	check("in_port=2 actions=IN_PORT", "priority=32768,in_port=#2 actions=output:#2")

	check("tcp,nw_dst=10.0.0.1,tp_dst=80 actions=mod_dl_dst:02:00:00:00:00:07,mod_nw_dst:10.0.0.7,mod_tp_dst:8080,NORMAL",
		"priority=32768,ip_proto=tcp,dst_ip=10.0.0.1,dst_port=80 actions=set(dst_mac=02:00:00:00:00:07,dst_port=8080,dst_ip=10.0.0.7),normal")
	check("udp6,udp_src=53 actions=set_field:2001:db8::7->ipv6_src,set_field:54->udp_src,output:2", "priority=32768,eth_type=ipv6,ip_proto=udp,src_port=53 actions=set(src_port=54,src_ip=2001:db8::7),output:#2")
	check("ip actions=mod_nw_tos:184,set_field:1->nw_ecn,mod_nw_ttl:9,output:2", "priority=32768,eth_type=ipv4 actions=set(ip_tos=185,ip_ttl=9),output:#2")
	check("ip actions=set_field:46->ip_dscp,output:3,set_field:02:00:00:00:00:07->eth_src,set_field:1->nw_ecn,output:2",
		"priority=32768,eth_type=ipv4 actions=set(ip_tos=0xb8/0xfc),mirror:#3,set(src_mac=02:00:00:00:00:07,ip_tos=0x01/0x03),output:#2")
	check("ip actions=mod_nw_ttl:9,mod_nw_ttl:8,output:2", "priority=32768,eth_type=ipv4 actions=set(ip_ttl=9),set(ip_ttl=8),output:#2")

	refuse := func(line, word string) {
		t.Helper()
		if _, err := Decode(OVS, "br0", []byte(line), testPorts()); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v does not say %q", line, err, word)
		}
	}
	refuse("ct_state=+est actions=NORMAL", "ct_state")
	refuse("actions=CONTROLLER:65535", "CONTROLLER")
	refuse("actions=mod_nw_src:1.2.3,output:1", "mod_nw_src")
	refuse("arp actions=mod_nw_src:1.2.3.4,output:1", "src_ip")
	refuse("tcp actions=mod_tp_dst:80,output:1", "packets without ports")
	refuse("ip actions=mod_nw_tos:185,output:1", "out of range")
	refuse("ip actions=meter:1,output:1", "meter:1")
	refuse("ip actions=mod_nw_foo:1,output:1", "mod_nw_foo")
	refuse("actions=set_field:1->reg0", "reg0")
	refuse("actions=mod_vlan_vid:5,output:1", "two rules")
	refuse("actions=IN_PORT", "IN_PORT")
	refuse("actions=NORMAL,output:2", "nothing after")
	refuse("ip,ip_frag=yes actions=drop", "ip_frag=yes")
	refuse("ip,dl_type=0x0806 actions=drop", "eth_type")
	refuse("dl_vlan=5000 actions=drop", "4095")
	refuse("priority=70000 actions=drop", "65535")
	refuse("tp_dst=80", "no actions")
}

// TestOVSRoundTrip writes rules as OVS lines and reads them again.
func TestOVSRoundTrip(t *testing.T) {
	lines := []string{
		"name=r0,priority=9,in_port=#1,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=80 actions=normal",
		"name=r1,priority=8,vlan_id=5,vlan_prio=3 actions=mirror:#3,vlan_pop,output:#2",
		"name=r2,priority=8,vlan_id=none,eth_type=arp actions=vlan_push(id=5,prio=3,proto=0x88a8),output(#2,#3)",
		"name=r3,priority=7,vlan_id=any actions=vlan_set:7,output:#2",
		"name=r4,priority=6,ip_proto=icmpv6,eth_type=ipv6,icmp_type=135 actions=pass",
		"name=r5,priority=5,eth_type=ipv4,ip_tos=185,ip_ttl=64,ip_frag=first actions=drop",
		"name=r6,priority=4,ip_proto=udp,src_ip=fe80::/10,src_port=1024-2047 actions=output:#2",
		"name=r7,priority=3,in_port=#2 actions=output:#2",
		"name=r8,priority=2,eth_type=ipv4,tcp_flags=+syn-ack actions=drop",
		"name=r9,priority=1,src_mac=02:00:00:00:00:01/ff:ff:ff:00:00:00 actions=drop",
		"name=r10,priority=0,ip_proto=tcp,src_ip=10.0.0.0/8,dst_port=80 actions=set(src_mac=02:00:00:00:00:01,dst_mac=02:00:00:00:00:07,src_port=9,dst_port=8080,src_ip=192.0.2.1,dst_ip=10.0.0.7,ip_tos=185,ip_ttl=9),normal",
		"name=r11,priority=0,ip_proto=udp,src_ip=fe80::/10,dst_port=80 actions=set(dst_port=81,dst_ip=2001:db8::7,ip_tos=0x10/0xfc),mirror:#3,set(ip_tos=0x01/0x03),output:#2",
	}
	sets, err := Decode(Flows, "s.flows", []byte(strings.Join(lines, "\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Encode(&b, OVS, sets, nil); err != nil {
		t.Fatal(err)
	}
	again, err := Decode(OVS, "s", b.Bytes(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	sameSets(t, again, sets)

	one := func(line string) (string, error) {
		r, err := flow.ParseRule(line, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New("s", flow.TierTenant, nil, []flow.Rule{r})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		err = Encode(&b, OVS, []*Set{s}, nil)
		return b.String(), err
	}
	// 1-6 is 1, 2-3, 4-5, 6: four masks.
	if s, err := one("name=a,ip_proto=tcp,eth_type=ipv4,dst_port=1-6 actions=drop"); err != nil || strings.Count(s, "\n") != 4 || !strings.Contains(s, "tp_dst=0x2/0xfffe ") {
		t.Errorf("range: %v\n%s", err, s)
	}
	for line, word := range map[string]string{
		"name=a,dst_port=80 actions=drop":                          "field ip_proto",
		"name=a,ip_proto=tcp actions=drop":                         "field eth_type",
		"name=a,cvlan_id=5 actions=drop":                           "field cvlan_id",
		"name=a,flags=+odd actions=drop":                           "field flags",
		"name=a,bare,dst_port=80 actions=drop":                     "field bare",
		"name=a,eth_type=ipv4,ip_ttl=0x01/0x01 actions=drop":       "field ip_ttl",
		"name=a,eth_type=ipv4,ip_tos=0x01/0x01 actions=drop":       "field ip_tos",
		"name=a actions=vlan_set:5,output:#1":                      "action vlan_set",
		"name=a,vlan_id=any actions=vlan_pop,vlan_set:5,output:#1": "action vlan_set",
		"name=a,dst_port=80 actions=set(dst_port=81),drop":         "field ip_proto",
		"name=a actions=set(ip_ttl=8),drop":                        "action set: ip_ttl",
		"name=a,eth_type=ipv4 actions=set(ip_tos=1/1),drop":        "action set: ip_tos",
		"name=a actions=police(rate=1M,burst=64k),drop":            "action police",
	} {
		if _, err := one(line); err == nil || !strings.Contains(err.Error(), "rule s/a: "+word) {
			t.Errorf("%s: %v does not name %s", line, err, word)
		}
	}
}

// TestOVSPriorities checks that tiers and large priorities become ranks in order.
func TestOVSPriorities(t *testing.T) {
	sets, err := Decode(Flows, "s", []byte("set=a,tier=admin\nname=x,priority=1 actions=drop\nset=b,tier=tenant\nname=x,priority=2000000 actions=drop\nname=y,priority=5,eth_type=arp actions=pass\nname=z,priority=5,eth_type=ipv4 actions=normal\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Encode(&b, OVS, sets, nil); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		_, rest, _ := strings.Cut(line, "priority=")
		got = append(got, strings.TrimSpace(rest))
	}
	if s := strings.Join(got, ";"); s != "2 actions=drop;1 actions=drop;0,dl_type=0x0806 actions=LOCAL;0,dl_type=0x0800 actions=NORMAL" {
		t.Error(s)
	}
}
