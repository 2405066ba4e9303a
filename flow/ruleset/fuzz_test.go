package ruleset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/bladeflow/bladeflow/flow"
)

// roundTrip reads data, writes what it read and reads that: no panic, faults that
// are whole and on one line, and the same sets twice.
func roundTrip(t *testing.T, f Format, data []byte) {
	ports := flow.OpenPorts()
	sets, err := Decode(f, "f", data, ports)
	if err != nil {
		var fault *flow.Fault
		if !errors.As(err, &fault) || fault.Code == "" || fault.Why == "" || fault.Remedy == "" || !strings.HasPrefix(fault.What, "f") {
			t.Fatalf("%q: %#v is not a whole fault", data, err)
		}
		return
	}
	var b bytes.Buffer
	if err := Encode(&b, f, sets, ports); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	again, err := Decode(f, "f", b.Bytes(), ports)
	if err != nil {
		t.Fatalf("%q is written %q: %v", data, b.String(), err)
	}
	if d := cmp.Diff(sets, again, cmpopts.IgnoreUnexported(Set{}), cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%q is written %q, which is something else:\n%s", data, b.String(), d)
	}
}

func FuzzYAML(f *testing.F)  { f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, YAML, data) }) }
func FuzzFlows(f *testing.F) { f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, Flows, data) }) }

// FuzzJSON writes what it reads as JSON.
func FuzzJSON(f *testing.F) { f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, JSON, data) }) }

// FuzzClassBench round-trips sets and checks that the first line wins. The last
// column is not kept.
func FuzzClassBench(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, ClassBench, data) })
}

// FuzzOVS reads lines, and what Open vSwitch can say is read again the same: names
// and IDs count lines, and ranges become several.
func FuzzOVS(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		ports := flow.OpenPorts()
		sets, err := Decode(OVS, "f", data, ports)
		var b bytes.Buffer
		if err != nil || Encode(&b, OVS, sets, ports) != nil {
			return
		}
		again, err := Decode(OVS, "f", b.Bytes(), ports)
		if err != nil {
			t.Fatalf("%q is written %q: %v", data, b.String(), err)
		}
		var second bytes.Buffer
		if err := Encode(&second, OVS, again, ports); err != nil {
			t.Fatalf("%q is written %q: %v", data, b.String(), err)
		}
		if withoutCookies(b.String()) != withoutCookies(second.String()) {
			t.Fatalf("%q is written\n%s, then\n%s", data, b.String(), second.String())
		}
	})
}

func withoutCookies(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		_, rest, _ := strings.Cut(line, ",")
		out = append(out, rest)
	}
	return strings.Join(out, "")
}

func FuzzTrace(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		trace, err := ReadTrace("f", data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := trace.Write(&b); err != nil {
			t.Fatal(err)
		}
		again, err := ReadTrace("f", b.Bytes())
		if err != nil || !cmp.Equal(trace, again) {
			t.Fatalf("%q is written %q: %v", data, b.String(), err)
		}
	})
}

func FuzzPcap(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		frames, err := ReadPcap("f", data)
		total := 24
		for _, frame := range frames {
			total += 16 + len(frame)
		}
		if err == nil && total != len(data) {
			t.Fatalf("%x: %d bytes are in frames, %d in the file", data, total, len(data))
		}
	})
}

func TestReadPcap(t *testing.T) {
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65_536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	want := [][]byte{{1, 2, 3}, {}, bytes.Repeat([]byte{7}, 1500)}
	for _, p := range want {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(p), Length: len(p)}, p); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadPcap("x.pcap", b.Bytes())
	if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%x %v", got, err)
	}
	swapped := slices.Clone(b.Bytes()[:24+16+3]) // as a machine of the other byte order writes it
	for at := 0; at < 24+16; at += 4 {
		binary.BigEndian.PutUint32(swapped[at:], binary.LittleEndian.Uint32(swapped[at:]))
	}
	if got, err := ReadPcap("x.pcap", swapped); err != nil || len(got) != 1 || !bytes.Equal(got[0], want[0]) {
		t.Errorf("%x %v", got, err)
	}
	check := func(data []byte, word string) {
		t.Helper()
		if _, err := ReadPcap("x.pcap", data); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
	check(b.Bytes()[:20], "too short")
	check(b.Bytes()[:30], "within the header of packet 1")
	check(b.Bytes()[:42], "within packet 1")
	check(append([]byte{0x0a, 0x0d, 0x0d, 0x0a}, make([]byte, 30)...), "pcapng")
	check(make([]byte, 30), "not a pcap file")
	cut := slices.Clone(b.Bytes())
	cut[24+12] = 9
	check(cut, "cut to 3 of 9")
	wifi := slices.Clone(b.Bytes())
	wifi[20] = 105
	check(wifi, "not Ethernet")
}
