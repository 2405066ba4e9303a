package flow

import (
	"bytes"
	"errors"
	"testing"
)

// The fuzz targets run their corpus (testdata/fuzz) in every `go test`.

// FuzzParse: the parser never panics, returns possible keys only, does not look
// past the frame nor change it, and Frame inverts it.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, frame []byte) {
		longer := append(bytes.Clone(frame), 0xff, 0xff, 0xff, 0xff)
		k, err := Parse(longer[:len(frame):len(frame)], 7)
		if err != nil {
			if len(frame) >= 14 {
				t.Fatalf("%x: %v", frame, err)
			}
			return
		}
		if !bytes.Equal(longer[:len(frame)], frame) {
			t.Fatalf("%x was changed", frame)
		}
		if again, _ := Parse(longer[:len(frame)], 7); again != k {
			t.Fatalf("%x: the key depends on what is behind the frame", frame)
		}
		if !Possible(&k) {
			t.Fatalf("%x: impossible key %s", frame, FormatKey(k, nil))
		}
		back, err := Frame(k, nil)
		if err != nil {
			t.Fatalf("%x: %v", frame, err)
		}
		if got, err := Parse(back, 7); err != nil || got != k {
			t.Fatalf("%x has key %s, its frame %x has %s", frame, FormatKey(k, nil), back, FormatKey(got, nil))
		}
		for _, edit := range []Actions{{{Op: VLANPop}, {Op: Normal}}, {{Op: VLANSet, Tag: 5}, {Op: Normal}}, {{Op: VLANPush, Proto: EthVLAN}, {Op: Output, Ports: []Port{1}}}} {
			for _, e := range Act(edit, &Switch{uplink: 1}, 1, frame, 7) {
				if _, err := Parse(e.Bytes, 1); err != nil {
					t.Fatalf("%x: %v leaves %x: %v", frame, edit, e.Bytes, err)
				}
			}
		}
	})
}

// mustFault checks that an error of a reader is a fault for people.
func mustFault(t *testing.T, text string, err error) {
	t.Helper()
	var f *Fault
	if !errors.As(err, &f) || f.Code == "" || f.Why == "" || f.Remedy == "" || f.Offset < 0 || f.Offset > len(text) {
		t.Fatalf("%q: %#v is not a whole fault within the text", text, err)
	}
}

func FuzzMatchText(f *testing.F) {
	ports := testPorts()
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMatch(text, ports)
		if err != nil {
			mustFault(t, text, err)
			return
		}
		if err := m.Valid(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		s := FormatMatch(&m, ports)
		if again, err := ParseMatch(s, ports); err != nil || again != m {
			t.Fatalf("%q is written %q, which reads %v %v", text, s, again, err)
		}
	})
}

func FuzzRuleText(f *testing.F) {
	ports := testPorts()
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text, ports)
		if err != nil {
			mustFault(t, text, err)
			return
		}
		if err := r.valid(false); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		s := FormatRule(&r, ports)
		again, err := ParseRule(s, ports)
		if err != nil || again.Name != r.Name || again.Priority != r.Priority || again.Match != r.Match || !again.Actions.Equal(r.Actions) {
			t.Fatalf("%q is written %q, which reads %v %v", text, s, again, err)
		}
		if s2 := FormatRule(&again, ports); s2 != s {
			t.Fatalf("%q is written %q, then %q", text, s, s2)
		}
	})
}

func FuzzPacketText(f *testing.F) {
	ports := testPorts()
	f.Fuzz(func(t *testing.T, text string) {
		frame, in, err := ParsePacket(text, ports)
		if err != nil {
			mustFault(t, text, err)
			return
		}
		k, err := Parse(frame, in)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		s := FormatKey(k, ports)
		frame, in, err = ParsePacket(s, ports)
		if err != nil {
			t.Fatalf("%q is written %q: %v", text, s, err)
		}
		if again, err := Parse(frame, in); err != nil || again != k {
			t.Fatalf("%q is written %q, which has key %s %v", text, s, FormatKey(again, ports), err)
		}
	})
}
