package flow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// tieByDefinition compares all pairs.
func tieByDefinition(rules []Rule) bool {
	for i := range rules {
		for j := i + 1; j < len(rules); j++ {
			a, b := &rules[i], &rules[j]
			if a.Tier != b.Tier || a.Priority != b.Priority || a.Actions.Equal(b.Actions) || !a.Match.Overlaps(&b.Match) {
				continue
			}
			if _, ok := Shared(&a.Match, &b.Match); ok {
				return true
			}
		}
	}
	return false
}

// randomMatch looks at few fields with few values, so that overlaps are common.
func randomMatch(rng *rand.Rand) Match {
	texts := []string{"in_port=#1", "in_port=#2", "ip_proto=icmp", "ip_proto=tcp", "ip_proto=udp", "ip_proto=icmpv6,icmp_type=128",
		"dst_port=80", "dst_port=80-90", "dst_port=1024-65535", "dst_port=0x0001/0x0001", "src_port=0x0100/0x0101", "src_port=5-6",
		"eth_type=ipv4", "eth_type=arp", "eth_type=ipv6", "src_ip=10.0.0.0/8", "src_ip=10.1.0.0/16", "dst_ip=10.1.2.3", "dst_ip=fe80::/10",
		"vlan_id=none", "vlan_id=5", "vlan_prio=3", "cvlan_id=7", "ip_frag=no", "ip_frag=later", "tcp_flags=+syn-ack", "flags=-odd", "ip_ttl=0x01/0x01"}
	for {
		var terms []Term
		for range rng.IntN(4) {
			part, _ := splitTerms(texts[rng.IntN(len(texts))], 0)
			terms = append(terms, part...)
		}
		if m, err := NewMatch(terms, nil); err == nil {
			return m
		}
	}
}

func sorted(rules []Rule) []Rule {
	slices.SortFunc(rules, func(a, b Rule) int { return a.Before(&b) })
	return rules
}

func TestFindTie(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	found := 0
	for i := range 3_000 {
		rules := make([]Rule, 2+rng.IntN(60))
		for j := range rules {
			rules[j] = Rule{ID: RuleID(j + 1), Name: fmt.Sprint(j), Priority: int32(rng.IntN(1 + i%3*4)), Match: randomMatch(rng),
				Actions: Actions{{Op: Output, Ports: []Port{1}}}}
			if rng.IntN(1+i%20) == 0 {
				rules[j].Actions = Actions{{Op: Drop}}
			}
		}
		rules = sorted(rules)
		tie := FindTie(rules)
		if want := tieByDefinition(rules); want != (tie != nil) {
			for _, r := range rules {
				t.Log(FormatRule(&r, nil))
			}
			t.Fatalf("set %d: found %v, by definition %v", i, tie, want)
		}
		if tie == nil {
			continue
		}
		found++
		if !tie.A.Match.Matches(&tie.Key) || !tie.B.Match.Matches(&tie.Key) || !Possible(&tie.Key) ||
			tie.A.Actions.Equal(tie.B.Actions) || tie.A.Priority != tie.B.Priority {
			t.Fatalf("set %d: %v is no tie", i, tie)
		}
	}
	if found < 300 || found > 2_700 {
		t.Errorf("%d of 3000 sets have a tie; the test shows little", found)
	}
}

// TestFindTieSplits makes sets that are large enough to be split, with one tie or
// none hidden in them.
func TestFindTieSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for name, rules := range disjointSets(400) {
		if tieByDefinition(rules) {
			t.Fatalf("%s: not disjoint", name)
		}
		if tie := FindTie(rules); tie != nil {
			t.Fatalf("%s: found %v where there is none", name, tie)
		}
		for i := range 40 { // a rule takes the place of another one and acts as a third
			changed := slices.Clone(rules)
			victim := rng.IntN(len(rules))
			other := &changed[(victim+1+rng.IntN(len(rules)-1))%len(rules)]
			other.Match = rules[victim].Match
			other.Actions = Actions{{Op: Pass}}
			if FindTie(changed) == nil {
				t.Fatalf("%s %d: the tie with rule %d was not found", name, i, victim)
			}
		}
	}
}

// disjointSets returns sets of n rules of one priority without a tie: hard ones, in
// which many overlap with equal actions or are disjoint in a way of their own.
func disjointSets(n int) map[string][]Rule {
	rng := rand.New(rand.NewPCG(9, uint64(n)))
	out := map[string][]Rule{}
	add := func(name string, f func(i int) (string, string)) {
		rules := make([]Rule, n)
		for i := range rules {
			match, actions := f(i)
			m, err := ParseMatch(match, nil)
			if err != nil {
				panic(err)
			}
			a, err := ParseActions(actions, nil)
			if err != nil {
				panic(err)
			}
			rules[i] = Rule{ID: RuleID(i + 1), Name: fmt.Sprintf("%s/%d", name, i), Match: m, Actions: a}
		}
		out[name] = rules
	}
	own := func(i int) string { return fmt.Sprintf("output:#%d", 1+i%60_000) }
	addr := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255) }
	add("hosts", func(i int) (string, string) { return "dst_ip=" + addr(i), own(i) })
	add("pairs", func(i int) (string, string) {
		return fmt.Sprintf("src_ip=%s,dst_ip=%s,ip_proto=tcp", addr(i/300), addr(i%300)), own(i)
	})
	add("low bits", func(i int) (string, string) {
		return fmt.Sprintf("src_ip=0.%d.%d.%d/0.255.255.255", i>>16&255, i>>8&255, i&255), own(i)
	})
	add("overlapping allies", func(i int) (string, string) { // firewall-like: two camps on two port ranges
		if i%2 == 0 {
			return fmt.Sprintf("src_ip=%s/%d,dst_port=%d-1023", addr(rng.IntN(1<<24)), rng.IntN(33), rng.IntN(512)), "drop"
		}
		return fmt.Sprintf("dst_ip=%s/%d,dst_port=1024-%d", addr(rng.IntN(1<<24)), rng.IntN(33), 1024+rng.IntN(60_000)), "normal"
	})
	add("no packet", func(i int) (string, string) { // overlap in keys that no packet has
		if i%2 == 0 {
			return fmt.Sprintf("ip_proto=icmp,src_ip=%s/%d", addr(rng.IntN(1<<24)), rng.IntN(33)), "drop"
		}
		return fmt.Sprintf("dst_port=%d", rng.IntN(65_536)), "normal"
	})
	add("rare action", func(i int) (string, string) {
		if i == n/3 {
			return "eth_type=arp", "normal"
		}
		return fmt.Sprintf("src_ip=%s/%d", addr(rng.IntN(1<<24)), rng.IntN(33)), "drop"
	})
	add("ranges", func(i int) (string, string) {
		lo := i % 4000 * 16
		return fmt.Sprintf("dst_port=%d-%d,src_ip=%s", lo, lo+15, addr(i/4000)), own(i)
	})
	return out
}

func BenchmarkFindTie(b *testing.B) {
	for name, rules := range disjointSets(100_000) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if tie := FindTie(rules); tie != nil {
					b.Fatal(tie)
				}
			}
		})
	}
}
