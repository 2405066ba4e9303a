package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/hwtests"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// daemon is `bladeflow agent` as a process of its own in the namespace of a lab's
// blade, with all it reads and writes in one folder.
type daemon struct {
	t       *testing.T
	chassis *hwtests.Chassis
	blade   *lab.Blade
	dir     string
	ready   *net.UnixConn // what systemd would listen on
	cmd     *exec.Cmd
	ended   chan error
	next    uint64 // sequence number
}

const daemonAddress = "127.0.0.1:9464"

func newDaemon(t *testing.T, datapath string) *daemon {
	needsLab(t)
	l, err := lab.Up(t.Context(), lab.Config{Blades: 1, VFs: 4, Entries: 64, Sequences: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	b := l.Blades[0]
	d := &daemon{t: t, blade: b, chassis: &hwtests.Chassis{Lab: l, Blades: []*hwtests.Blade{{Blade: b}}}, dir: t.TempDir()}
	d.ready, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.ready.Close() })
	lo, err := b.Host.Links().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Host.Links().LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	var config strings.Builder
	fmt.Fprintf(&config, "apiVersion: bladeflow/v1\nkind: Agent\nmetadata: {name: %s}\nspec:\n  rules: [rules.yaml]\n  root: %s\n  uplink: uplink\n  datapath: %s\n", b.Name, b.SysRoot, datapath)
	fmt.Fprintf(&config, "  device: {softnic: %s}\n  interval: 200ms\n  metrics: %s\n  rule_metrics: true\n  status: status.json\n  ports:\n", b.PinDir, daemonAddress)
	for _, at := range b.Attached {
		fmt.Fprintf(&config, "    - {name: %s, netdev: %s}\n", at.Name, at.Representor.Name)
	}
	config.WriteString("  stations:\n")
	for i, w := range b.Workloads {
		fmt.Fprintf(&config, "    - {port: vf%d, mac: %q}\n", i, flow.FormatMAC(w.MAC))
	}
	write(t, d.dir, "agent.yaml", config.String())
	return d
}

// start starts the process and waits until it says that it is ready.
func (d *daemon) start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{"bladeflow", "agent", "--config", filepath.Join(d.dir, "agent.yaml")},
		Stdout: log, Stderr: log, Env: append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.dir, "notify"))}
	if err := d.blade.Host.Do(d.cmd.Start); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	d.ended = ended
	cmd := d.cmd
	go func() { ended <- cmd.Wait() }()
	d.t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it is gone
	said := make([]byte, 64)
	_ = d.ready.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, err := d.ready.Read(said)
	if err != nil || string(said[:n]) != "READY=1" {
		d.t.Fatalf("it did not get ready: %v %q\n%s", err, said[:n], d.log())
	}
}

// stop sends a signal and returns how the process ended.
func (d *daemon) stop(s syscall.Signal) error {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.ended:
		return err
	case <-time.After(20 * time.Second):
		d.t.Fatalf("it does not end:\n%s", d.log())
		return nil
	}
}

func (d *daemon) log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

// status reads the status file.
func (d *daemon) status() agent.Status {
	var o agent.Object
	b, err := os.ReadFile(filepath.Join(d.dir, "status.json"))
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	return o.Status
}

// until waits for a status.
func (d *daemon) until(what string, is func(s agent.Status) bool) agent.Status {
	d.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if s := d.status(); is(s) {
			return s
		}
	}
	d.t.Fatalf("%s: it did not come to that: %+v\n%s", what, d.status(), d.log())
	return agent.Status{}
}

// settled waits until a generation is in force, proved and without trouble.
func (d *daemon) settled(generation uint64) agent.Status {
	d.t.Helper()
	since := time.Now()
	return d.until(fmt.Sprintf("generation %d", generation), func(s agent.Status) bool {
		return s.Generation == generation && s.Proved && s.Error == nil && s.Reconciled.After(since)
	})
}

// get asks the process inside its namespace.
func (d *daemon) get(path string) string {
	d.t.Helper()
	var c net.Conn
	if err := d.blade.Host.Do(func() (err error) { c, err = net.Dial("tcp", daemonAddress); return err }); err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: blade\r\nConnection: close\r\n\r\n", path)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		d.t.Fatalf("%s: %v %s: %s", path, err, r.Status, b)
	}
	return string(b)
}

// want puts rules into the file, whole, and returns the table they mean.
func (d *daemon) want(text string) *flow.Table {
	d.t.Helper()
	if err := os.Rename(write(d.t, d.dir, "rules.new", text), filepath.Join(d.dir, "rules.yaml")); err != nil {
		d.t.Fatal(err)
	}
	sets, err := ruleset.Decode(ruleset.YAML, "rules.yaml", []byte(text), d.blade.Ports)
	if err != nil {
		d.t.Fatal(err)
	}
	table, err := ruleset.Build(1, sure(d.blade.Switch()), d.blade.Ports, sets...)
	if err != nil {
		d.t.Fatal(err)
	}
	return table
}

// daemonRules are answered by the card, but for dns to vf3, which gets two copies, and
// host.
func daemonRules(webTo string) string {
	return `apiVersion: bladeflow/v1
kind: RuleSet
metadata: {name: r}
spec:
  rules:
    - {name: web, priority: 50, match: {in_port: vf0, ip_proto: tcp, dst_port: 80}, actions: [{output: ` + webTo + `}]}
    - {name: telnet, priority: 40, match: {ip_proto: tcp, dst_port: 23}, actions: [drop]}
    - {name: tag, priority: 30, match: {in_port: vf0, ip_proto: udp, dst_port: 1000-2000}, actions: [{vlan_push: {id: 5}}, {output: uplink}]}
    - {name: dns, priority: 20, match: {in_port: vf1, ip_proto: udp, dst_port: 53}, actions: [{mirror: vf3}, normal]}
    - {name: host, priority: 10, match: {in_port: vf2, ip_proto: icmp}, actions: [pass]}
`
}

// hot are packets that the card answers; cold ones need software.
var (
	hot  = []string{"in_port=vf0,ip_proto=tcp,dst_port=80", "in_port=vf0,ip_proto=udp,dst_port=1500", "in_port=vf1,ip_proto=tcp,dst_port=23"}
	cold = []string{"in_port=vf1,ip_proto=udp,dst_port=53", "in_port=vf2,ip_proto=icmp,icmp_type=8"}
)

// streams makes frames of packets.
func (d *daemon) streams(packets ...[]string) []hwtests.Stream {
	d.t.Helper()
	w := d.blade.Workloads
	byPort := map[flow.Port][][]byte{}
	for _, text := range slices.Concat(packets...) {
		text += fmt.Sprintf(",src_ip=%s,dst_ip=%s,src_mac=%s,dst_mac=%s", w[0].IP4, w[3].IP4, flow.FormatMAC(w[0].MAC), flow.FormatMAC(w[3].MAC))
		k, err := flow.ParseKey(text, d.blade.Ports)
		if err != nil {
			d.t.Fatal(err)
		}
		in := flow.Port(k.Get(flow.InPort))
		byPort[in] = append(byPort[in], sure(flow.Frame(k, make([]byte, 64))))
	}
	var out []hwtests.Stream
	for in, frames := range byPort {
		out = append(out, hwtests.Stream{Port: in, Frames: frames})
	}
	return out
}

// send sends frames until stop is closed or count are sent.
func (d *daemon) send(streams []hwtests.Stream, count, rate int, stop <-chan struct{}) *hwtests.Burst {
	d.t.Helper()
	burst, err := d.chassis.Send(d.t.Context(), streams, d.next, count, rate, stop)
	if err != nil {
		d.t.Fatal(err)
	}
	d.next += uint64(count)
	return burst
}

// judged sends frames and holds what comes of them against the table. A try on which
// a netdev lost frames says nothing, and is repeated at half the rate.
func (d *daemon) judged(t *flow.Table, streams []hwtests.Stream, count int) hwtests.Tally {
	d.t.Helper()
	for rate := 10_000; rate > 1000; rate /= 2 {
		before := sure(d.chassis.Drops())
		burst := d.send(streams, count, rate, nil)
		if lost := sure(d.chassis.Drops()).Since(before); lost.Total() > 0 {
			d.t.Logf("lost at %d per second: %v", rate, lost)
			continue
		}
		diffs, total, counted, err := d.chassis.Compare(burst, []*flow.Table{t})
		if err != nil {
			d.t.Fatal(err)
		}
		if total > 0 {
			d.t.Errorf("%d of %d packets are not judged as they should: %s", total, count, diffs[0].String())
		}
		return counted
	}
	d.t.Fatal("frames are lost at every rate")
	return nil
}

// TestAgent runs the daemon through its life: it converges, serves, judges packets,
// follows its rules under traffic, refuses broken ones, heals, and survives its death.
func TestAgent(t *testing.T) {
	for _, datapath := range []string{"afxdp", "afpacket"} {
		t.Run(datapath, func(t *testing.T) {
			if datapath != "afxdp" {
				must.Long(t, "the other datapath is tried")
			}
			testAgent(t, newDaemon(t, datapath))
		})
	}
}

func testAgent(t *testing.T, d *daemon) {
	one := d.want(daemonRules("vf1"))
	d.start()
	s := d.settled(1)
	if len(s.Devices) != 1 || s.Devices[0].Entries == 0 || s.Devices[0].Limit != 64 {
		t.Errorf("devices: %+v", s.Devices)
	}
	for rule, whole := range map[string]bool{"r/web": true, "r/telnet": true, "r/tag": true, "r/dns": false, "r/host": false} {
		if r, ok := s.Rule(rule); !ok || r.Whole != whole || whole != (r.Code == "") || whole && r.Place != "hardware" {
			t.Errorf("rule %s: %+v, want it in hardware: %t", rule, r, whole)
		}
	}

	t.Log("traffic, and what it counts")
	counted := d.judged(one, d.streams(hot, cold), 6000)
	s = d.until("counters", func(s agent.Status) bool { // kept, and so shown, once a second at most
		var shown, sent uint64
		for i := range one.Len() {
			r, _ := s.Rule(one.Rule(i).Name)
			shown += r.Hardware.Packets + r.Cache.Packets + r.Software.Packets
			sent += counted[0][one.Rule(i).ID].Packets
		}
		return shown >= sent
	})
	for i := range one.Len() {
		r, _ := s.Rule(one.Rule(i).Name)
		want := counted[0][one.Rule(i).ID]
		if n := r.Hardware.Packets + r.Cache.Packets + r.Software.Packets; n != want.Packets || r.Hardware.Bytes+r.Cache.Bytes+r.Software.Bytes != want.Bytes {
			t.Errorf("rule %s counted %+v, %+v and %+v, want %+v", r.Name, r.Hardware, r.Cache, r.Software, want)
		}
		if r.Name == "r/web" && r.Software.Packets > 0 || r.Name == "r/dns" && r.Hardware.Packets > 0 {
			t.Errorf("rule %s was answered elsewhere: %+v", r.Name, r)
		}
	}

	t.Log("what it serves")
	metrics := d.get("/metrics")
	for _, line := range []string{"bladeflow_generation 1", "bladeflow_consistency_mismatch_total 0", `bladeflow_packets_total{tier="software",verdict="pass"}`, "bladeflow_rule_packets_total{"} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("/metrics has no %s:\n%s", line, metrics)
		}
	}
	var o agent.Object
	if err := json.Unmarshal([]byte(d.get("/status")), &o); err != nil || o.Metadata.Name != d.blade.Name || o.Status.Generation != 1 || o.Status.Digest != s.Digest {
		t.Errorf("/status: %v %+v", err, o)
	}
	if inventory := d.get("/inventory"); !strings.Contains(inventory, `"nic0/pf0/vf3"`) {
		t.Errorf("/inventory: %s", inventory)
	}

	d.watch()
	d.rival()
	two := d.changeUnderTraffic(one)
	d.breakRules(two)
	d.tamper(two)
	d.survive(two)
}

// changeUnderTraffic changes the rules while packets flow: each is judged by the old
// table or the new one.
func (d *daemon) changeUnderTraffic(old *flow.Table) *flow.Table {
	d.t.Log("other rules under traffic")
	stop, sent := make(chan struct{}), make(chan *hwtests.Burst, 1)
	streams := d.streams(hot, cold)
	before := sure(d.chassis.Drops())
	go func() { sent <- d.send(streams, 200_000, 4000, stop) }()
	time.Sleep(300 * time.Millisecond)
	next := d.want(daemonRules("vf2"))
	d.settled(2)
	time.Sleep(300 * time.Millisecond)
	close(stop)
	burst := <-sent
	if lost := sure(d.chassis.Drops()).Since(before); lost.Total() > 0 {
		d.t.Logf("nothing can be said of this traffic: %v", lost)
		return next
	}
	var asOld, asNew, neither int
	for i, p := range burst.Packets {
		if p.Frame == nil {
			continue
		}
		alone := &hwtests.Burst{First: burst.First + uint64(i), Packets: burst.Packets[i : i+1]}
		_, wrongOld, _, err1 := d.chassis.Compare(alone, []*flow.Table{old})
		_, wrongNew, _, err2 := d.chassis.Compare(alone, []*flow.Table{next})
		switch {
		case err1 != nil || err2 != nil:
			d.t.Fatal(err1, err2)
		case wrongOld > 0 && wrongNew > 0:
			neither++
		case wrongOld > 0:
			asNew++
		case wrongNew > 0:
			asOld++
		}
	}
	d.t.Logf("%d packets only the old table explains, %d only the new one", asOld, asNew)
	if neither > 0 || asOld == 0 || asNew == 0 {
		d.t.Errorf("%d packets no table explains, %d the old one, %d the new one", neither, asOld, asNew)
	}
	return next
}

// rival starts a second agent on the same card, which must not run: it would answer
// packets by its own rules.
func (d *daemon) rival() {
	d.t.Log("a second agent")
	config := string(sure(os.ReadFile(filepath.Join(d.dir, "agent.yaml"))))
	for from, to := range map[string]string{"rules: [rules.yaml]": "rules: [rival-rules.yaml]", "metrics: " + daemonAddress: `metrics: ""`, "status: status.json": `status: ""`} {
		config = strings.Replace(config, from, to, 1)
	}
	path := write(d.t, d.dir, "rival.yaml", config)
	write(d.t, d.dir, "rival-rules.yaml", daemonRules("vf3"))
	cmd := exec.CommandContext(d.t.Context(), "/proc/self/exe", "agent", "--config", path)
	cmd.Args[0] = "bladeflow"
	var said strings.Builder
	cmd.Stderr = &said
	err := d.blade.Host.Do(cmd.Run)
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(said.String(), "E_SOFTNIC_CLAIMED") {
		d.t.Errorf("%v: %s", err, said.String())
	}
}

// breakRules writes rules that are none: the generation in force stays, and the status
// says why.
func (d *daemon) breakRules(t *flow.Table) {
	d.t.Log("broken rules")
	good := sure(os.ReadFile(filepath.Join(d.dir, "rules.yaml")))
	for _, text := range []string{"spec: {", strings.Replace(string(good), "dst_port: 80", "dst_prt: 80", 1), ""} {
		write(d.t, d.dir, "rules.yaml", text)
		s := d.until("trouble", func(s agent.Status) bool { return s.Error != nil })
		if s.Generation != 2 || !strings.Contains(s.Error.Text, "rules.yaml") || !strings.HasPrefix(s.Error.Code, "E_") || s.Rejected == 0 {
			d.t.Errorf("generation %d, trouble %+v", s.Generation, s.Error)
		}
		write(d.t, d.dir, "rules.yaml", string(good))
		d.settled(2)
	}
	write(d.t, d.dir, "rules.yaml", "spec: {")
	d.until("trouble", func(s agent.Status) bool { return s.Error != nil })
	d.judged(t, d.streams(hot, cold), 2000)
	write(d.t, d.dir, "rules.yaml", string(good))
	d.settled(2)
}

// tamper deletes an entry behind the agent's back, while nothing flows: its counters
// would be lost with it.
func (d *daemon) tamper(t *flow.Table) {
	d.t.Log("an entry deleted behind its back")
	entries := d.entries()
	if err := d.blade.NIC.Evict(entries[0].ID); err != nil {
		d.t.Fatal(err)
	}
	s := d.until("healing", func(s agent.Status) bool { return s.Drift.Healed == 1 && s.Proved && s.Error == nil })
	if s.Drift.Missing != 1 || s.Drift.Added != 0 || s.Drift.Altered != 0 {
		d.t.Errorf("drift: %+v", s.Drift)
	}
	d.same(entries)
	d.judged(t, d.streams(hot, cold), 2000)
}

// survive kills the process: the card goes on, and the next process takes it over as
// it is, without touching an entry.
func (d *daemon) survive(t *flow.Table) {
	d.t.Log("killed")
	entries, generation := d.entries(), d.blade.NIC.Generation()
	before := d.settled(2)
	if err := d.stop(syscall.SIGKILL); err == nil {
		d.t.Error("killed, and ended well")
	}
	d.same(entries)
	d.judged(t, d.streams(hot), 2000)
	d.start()
	after := d.settled(2)
	if after.Digest != before.Digest || after.Drift != (agent.DriftStatus{}) {
		d.t.Errorf("after: %+v", after)
	}
	d.same(entries)
	if now := d.blade.NIC.Generation(); now != generation {
		d.t.Errorf("the card's table changed %d times", now-generation)
	}
	d.judged(t, d.streams(hot, cold), 2000)

	d.t.Log("told to end")
	if err := d.stop(syscall.SIGTERM); err != nil {
		d.t.Errorf("%v\n%s", err, d.log())
	}
	d.same(entries)
}

func (d *daemon) entries() []flow.Entry {
	d.t.Helper()
	all, err := d.blade.NIC.Installed(d.t.Context())
	if err != nil || len(all) == 0 {
		d.t.Fatalf("%d entries, %v", len(all), err)
	}
	slices.SortFunc(all, func(a, b flow.Entry) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// same checks that the card holds these entries and no others.
func (d *daemon) same(want []flow.Entry) {
	d.t.Helper()
	if got := d.entries(); !slices.EqualFunc(got, want, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		d.t.Errorf("the card holds %v, want %v", got, want)
	}
}
