package agent

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/offload/device"
)

// What a card can do, as `describe nic` lists it: each claim of its model with where that is
// from, what it refused when the claims were tried on it (tcflower's Probe), and what its
// packets have shown since (leak.go, peek.go). To take an entry shows nothing of what a card
// does with it; a packet that was counted does.

// claims says what a device of model m can do, with the evidence for each. s says which kinds
// of its entries have been met by packets.
func claims(m *device.Model, answers []device.Answer, s *DeviceStatus) []ClaimStatus {
	number := func(n int) string {
		if n == 0 {
			return "no known limit"
		}
		return strconv.Itoa(n)
	}
	var fields, actions []string
	for p, how := range m.Fields {
		if how != device.No {
			fields = append(fields, fmt.Sprintf("%s %s", device.Part(p), how))
		}
	}
	for _, op := range m.Actions {
		actions = append(actions, op.String())
	}
	if m.Punt {
		actions = append(actions, "punt")
	}
	counted := "none"
	if m.Counters {
		counted = fmt.Sprintf("each entry, %s late at most", m.CounterLag)
	}
	trust := "yes"
	if m.Barred != nil && m.Barred.Code == "E_DEVICE_LIES" {
		trust = "no: " + m.Barred.Reason
	}
	out := []ClaimStatus{{Name: "model", Value: fmt.Sprintf("%s, version %d", m.Name, m.Version), Source: m.About}}
	for _, c := range [][2]string{{"entries", number(m.Entries)}, {"masks", number(m.Masks)}, {"priorities", number(m.Priorities)}, {"order", string(m.Order)},
		{"fields", strings.Join(fields, ", ")}, {"actions", strings.Join(actions, ", ")}, {"counters", counted}, {"missed", "fragments and odd frames"}, {"miss_falls", strconv.FormatBool(m.MissFalls)}} {
		e := m.Evidence[c[0]]
		out = append(out, ClaimStatus{c[0], c[1], string(e.Tier), e.Source})
	}
	out = append(out, ClaimStatus{device.Trust, trust, string(device.Learned), "what leaves by its ports is compared with what its entries say, and it is looked under entries for packets that others above should have taken"},
		ClaimStatus{"met", fmt.Sprintf("%d of %d kinds of entries", s.Met, s.Kinds), string(device.Learned), "packets that an entry of the kind has counted"})
	for _, kind := range s.Unmet {
		out = append(out, ClaimStatus{"unverified", "entries that match " + kind, string(device.Unknown), "the card took them, and no packet has shown that it answers by them"})
	}
	for _, a := range answers {
		switch {
		case a.Taken:
		case a.Sure:
			out = append(out, ClaimStatus{"refused", a.Claim, string(device.Learned), a.Words})
		default:
			out = append(out, ClaimStatus{"not known", a.Claim, string(device.Unknown), "asked, and refused for another reason: " + a.Words})
		}
	}
	return out
}
