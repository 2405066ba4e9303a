package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// TestObservedText pins what people see.
func TestObservedText(t *testing.T) {
	at := time.Date(2026, 11, 30, 9, 1, 2, 345_678_000, time.UTC)
	for want, l := range map[string]agent.Observed{
		"09:01:02.345678 software drop    - : 60 bytes in_port=nic0/pf0/vf0 (7 skipped)": {Time: at, Tier: "software", Verdict: "drop", Rule: "-", Bytes: 60, Packets: 1, Packet: "in_port=nic0/pf0/vf0", Skipped: 7},
		"09:01:02.345678 software output  web/in to nic0/pf0: 60 bytes in_port=vf0":      {Time: at, Tier: "software", Verdict: "output", Rule: "web/in", Bytes: 60, Packets: 1, Packet: "in_port=vf0", Out: []string{"nic0/pf0"}},
		"09:01:02.345678 cache    normal  web/in: 12 packets, 720 bytes":                 {Time: at, Tier: "cache", Verdict: "normal", Rule: "web/in", Bytes: 720, Packets: 12},
	} {
		if got := observedText(&l); got != strings.Replace(want, "- :", "-:", 1) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestObservedPcap reads back what was written, a frame that was cut included.
func TestObservedPcap(t *testing.T) {
	var b bytes.Buffer
	write, err := observedWriter(&b, "pcap")
	if err != nil {
		t.Fatal(err)
	}
	frames := [][]byte{bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, agent.FrameBytes)}
	for i, f := range frames {
		if err := write(&agent.Observed{Time: time.Unix(int64(i), 5), Frame: f, Length: len(f) + 100*i}); err != nil {
			t.Fatal(err)
		}
	}
	whole := b.Bytes()
	got, err := ruleset.ReadPcap("x.pcap", whole[:24+16+60])
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], frames[0]) {
		t.Errorf("%v: %x", err, got)
	}
	if _, err := ruleset.ReadPcap("x.pcap", whole); err == nil || !strings.Contains(err.Error(), "cut") && !strings.Contains(err.Error(), "2") {
		t.Errorf("a frame of which a part is missing: %v", err)
	}
}

// watch has people look on at what the process does, in every form, and somebody who may not.
func (d *daemon) watch() {
	d.t.Log("somebody looks on")
	socket := filepath.Join(d.dir, "status.observe")
	start := func(as *syscall.Credential, args ...string) (*exec.Cmd, *bufio.Reader, io.Reader) {
		d.t.Helper()
		cmd := exec.CommandContext(d.t.Context(), "/proc/self/exe", append([]string{"observe", "--socket", socket}, args...)...)
		cmd.Args[0] = "bladeflow"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		said, out := sure(cmd.StderrPipe()), sure(cmd.StdoutPipe())
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		return cmd, bufio.NewReader(said), out
	}
	for form, check := range map[string]func([]byte){
		"text": func(b []byte) {
			for line := range bytes.Lines(b) {
				if !bytes.Contains(line, []byte(" software normal  r/dns to ")) {
					d.t.Errorf("%s", line)
				}
			}
		},
		"json": func(b []byte) {
			for line := range bytes.Lines(b) {
				var o agent.Observed
				if err := json.Unmarshal(line, &o); err != nil || o.Rule != "r/dns" || o.Tier != "software" || o.Port != "nic0/pf0/vf1" || len(o.Out) == 0 {
					d.t.Errorf("%v: %s", err, line)
				}
			}
		},
		"pcap": func(b []byte) {
			if frames, err := ruleset.ReadPcap("out", b); err != nil || len(frames) != 5 {
				d.t.Errorf("%v: %d frames", err, len(frames))
			}
		},
	} {
		cmd, said, out := start(nil, "--rule", "dns", "--port", "vf1", "--verdict", "normal", "--tier", "software", "--count", "5", "-o", form)
		if line, err := said.ReadString('\n'); err != nil || !strings.HasPrefix(line, "looking on") {
			d.t.Fatalf("%v: %s", err, line)
		}
		d.send(d.streams(cold), 20, 1000, nil)
		b := sure(io.ReadAll(out))
		if err := cmd.Wait(); err != nil || form != "pcap" && bytes.Count(b, []byte("\n")) != 5 {
			d.t.Errorf("-o %s: %v, %s", form, err, b)
		}
		check(b)
	}
	if d.status().Cache != nil {
		cmd, said, out := start(nil, "--rule", "host", "--tier", "cache", "--count", "1", "-o", "json")
		if line, err := said.ReadString('\n'); err != nil || !strings.HasPrefix(line, "looking on") {
			d.t.Fatalf("%v: %s", err, line)
		}
		d.send(d.streams(cold), 200, 1000, nil)
		var o agent.Observed
		if err := json.NewDecoder(out).Decode(&o); err != nil || o.Rule != "r/host" || o.Tier != "cache" || o.Packets == 0 {
			d.t.Errorf("%v: %+v", err, o)
		}
		if err := cmd.Wait(); err != nil {
			d.t.Error(err)
		}
	}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		d.t.Fatal(err)
	}
	cmd, said, _ := start(&syscall.Credential{Uid: 65534, Gid: 65534}, "--for", "1m")
	text := string(sure(io.ReadAll(said)))
	if cmd.Wait(); cmd.ProcessState.ExitCode() != exitDenied || !strings.Contains(text, "[E_DENIED]") {
		d.t.Errorf("nobody looks on: exit code %d: %s", cmd.ProcessState.ExitCode(), text)
	}
}
