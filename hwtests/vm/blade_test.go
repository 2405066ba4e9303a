package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// A whole agent on the machine's card and both sides of each of its ports: what the tests of
// agents in this package share.

// bladePorts are the ports of the agents here: the uplink and three VFs.
const bladePorts = 4

// blade is an agent and both sides of each of its ports.
type blade struct {
	*testing.T
	file   agent.File
	agent  *agent.Agent
	ends   [bladePorts]*tap // what is outside
	cancel func() error
}

// newBlade prepares an agent for the card. It has no rules yet and does not run.
func newBlade(t *testing.T) *blade {
	t.Helper()
	must.InMachine(t)
	if have, err := os.ReadFile("/sys/bus/pci/devices/" + card + "/sriov_numvfs"); err != nil || strings.TrimSpace(string(have)) != cardVFs {
		setVFs(t, 0)
		setVFs(t, 7)
	}
	dir := t.TempDir()
	b := &blade{T: t, file: bladeFile(dir)}
	b.open()
	t.Cleanup(func() {
		b.stop()
		b.flush()
	})
	return b
}

// open opens both sides of the ports, until the end of this part of the test.
func (b *blade) open() {
	for i := range b.ends {
		b.ends[i] = openPort(b.T, i).outside
	}
}

// bladeFile is the configuration of the agents here.
func bladeFile(dir string) agent.File {
	f := agent.File{Blade: "b1", Rules: []string{filepath.Join(dir, "rules.flows")}, Root: "/", Uplink: "nic0/pf0", NIC: card, Datapath: "afpacket", Fail: "closed",
		Interval: 100 * time.Millisecond, Status: filepath.Join(dir, "status.json")}
	for i := range bladePorts {
		name := "nic0/pf0"
		if i > 0 {
			name += "/vf" + strconv.Itoa(i-1)
		}
		f.Ports = append(f.Ports, agent.PortMap{Name: name, Netdev: "simr" + strconv.Itoa(i)})
	}
	return f
}

// rules writes the rules that are wanted.
func (b *blade) rules(lines ...string) {
	b.Helper()
	if err := writeRules(b.file.Rules[0], lines); err != nil {
		b.Fatal(err)
	}
}

func writeRules(file string, lines []string) error {
	if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// start runs the agent, and waits until all is as it is wanted.
func (b *blade) start() {
	b.Helper()
	b.run()
	b.await("all is proved", func(s *agent.Status) bool { return s.Proved && s.Error == nil })
}

// run runs the agent.
func (b *blade) run() {
	b.Helper()
	d, err := agent.Open(b.file, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := d.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	b.agent, b.cancel = d.Agent(), sync.OnceValue(func() error {
		cancel()
		ended.Wait()
		return d.Close()
	})
}

// stop ends the agent, if it runs. Entries stay.
func (b *blade) stop() {
	b.Helper()
	if b.cancel == nil {
		return
	}
	if err := b.cancel(); err != nil {
		b.Error(err)
	}
}

// await waits until the status is as wanted and returns it.
func (b *blade) await(what string, ok func(*agent.Status) bool) *agent.Status {
	b.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s := b.agent.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			b.Fatalf("not in a minute: %s: error %+v, devices %+v, links %+v, events %+v", what, s.Error, s.Devices, s.Links, s.Events)
		}
	}
}

// representors are the driver's ports of the card, as far as they are there.
func representors() (out []tcflower.Port, err error) {
	for i := range bladePorts {
		text, err := os.ReadFile("/sys/class/net/simr" + strconv.Itoa(i) + "/ifindex")
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, err
		}
		out = append(out, tcflower.Port{Port: flow.Port(i + 1), Device: uint32(n)})
	}
	return out, nil
}

// watcher is a driver of the card beside the agent's.
func watcher(t *testing.T) *tcflower.Driver {
	t.Helper()
	m, err := device.Load("tcamsim")
	if err != nil {
		t.Fatal(err)
	}
	d, err := tcflower.Open(tcflower.Options{Model: m, Find: func() []tcflower.Port {
		at, err := representors()
		if err != nil {
			t.Error(err)
		}
		return at
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// installed is what the card holds.
func installed(t *testing.T, d *tcflower.Driver) []flow.Entry {
	t.Helper()
	have, err := d.Installed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// flush takes all that is bladeflow's out of the card.
func (b *blade) flush() {
	b.Helper()
	d := watcher(b.T)
	have := slices.DeleteFunc(installed(b.T, d), func(e flow.Entry) bool { return !offload.Ours(e.ID) })
	for _, out := range d.Apply(context.Background(), ops(offload.Remove, have)) {
		if out.Status != offload.Done {
			b.Errorf("flush: %+v", out)
		}
	}
}

// send sends a frame for a station from the first VF.
func (b *blade) send(to uint64) { b.ends[1].send(frame(station|0xfe00, to)) }

// passed waits until all that was sent before has gone through software, where it is all
// answered: a frame of another station, for the one that rule 0 of forwards is for, comes
// behind it.
func (b *blade) passed() {
	b.Helper()
	last := frame(station|0xfe01, station)
	b.ends[1].send(last)
	for {
		switch f := b.ends[2].receive(); {
		case f == nil:
			b.Fatal("the frame that was sent last did not come")
		case bytes.Equal(f[:12], last[:12]):
			return
		}
	}
}

// drain returns the stations of all frames that have come in at an end, sorted.
func (p *tap) drain() (out []uint64) {
	p.Helper()
	if err := unix.SetNonblock(p.fd, true); err != nil {
		p.Fatal(err)
	}
	defer unix.SetNonblock(p.fd, false)
	for to := p.next(); to != 0; to = p.next() {
		out = append(out, to)
	}
	slices.Sort(out)
	return out
}

// judged returns how many packets the rules have answered, wherever.
func judged(s *agent.Status) (n uint64) {
	for _, r := range s.Rules {
		n += r.Hardware.Packets + r.Software.Packets
	}
	return n
}

// forward is a rule for what is for one station, from the first VF to the second, or a
// drop if the station is odd.
func forward(name string, i int) string {
	does := "output:vf1"
	if i%2 == 1 {
		does = "drop"
	}
	return fmt.Sprintf("name=%s%d,priority=100,in_port=vf0,eth_type=0x88b5,dst_mac=%s actions=%s", name, i, flow.FormatMAC(station|uint64(i)), does)
}

func forwards(name string, n int) (out []string) {
	for i := range n {
		out = append(out, forward(name, i))
	}
	return out
}

// right sends a frame for each of the n stations of forwards and for nobody, and checks
// that those of even number left by the second VF, once each, and no other by any port.
// Nobody of ours counts those of others.
func (b *blade) right(n int, others ...int) *agent.Status {
	b.Helper()
	for _, end := range b.ends {
		end.drain()
	}
	before := judged(b.agent.Status())
	var want []uint64
	for i := range n {
		b.send(station | uint64(i))
		if i%2 == 0 {
			want = append(want, station|uint64(i))
		}
	}
	b.send(nobody)
	s := b.await("all frames are judged", func(s *agent.Status) bool { return judged(s) >= before+uint64(n+1-len(others)) })
	for i, end := range b.ends {
		have := end.drain()
		if i != 2 && len(have) > 0 || i == 2 && !slices.Equal(have, want) {
			b.Errorf("by port %d left %x, for port 2 were %x", i, have, want)
		}
	}
	return s
}
