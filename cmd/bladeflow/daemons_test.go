package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/hwtests"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// daemons are `bladeflow manager` and, in the namespaces of a lab's blades, `bladeflow
// agent`, each a process of its own, with the configurations that README.md shows.
type daemons struct {
	*testing.T
	*hwtests.Fabric
	readme      document
	dir         string
	page, entry string               // addresses of the manager and its store
	running     map[string]*exec.Cmd // by the name of the configuration
}

func newDaemons(t *testing.T) *daemons {
	needsLab(t)
	l, err := lab.Up(t.Context(), lab.Config{Blades: 2, VFs: 2, Entries: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	d := &daemons{T: t, dir: t.TempDir(), running: map[string]*exec.Cmd{}, Fabric: &hwtests.Fabric{Chassis: &hwtests.Chassis{Lab: l}},
		readme: readDocument(string(sure(os.ReadFile("../../README.md")))), page: unusedAddress(t), entry: unusedAddress(t)}
	t.Cleanup(func() {
		for name := range d.running {
			d.kill(name)
		}
	})
	listen := strings.NewReplacer("0.0.0.0:8443", d.page, "0.0.0.0:2379", d.entry)
	for name, text := range d.readme.files {
		write(t, d.dir, name, listen.Replace(text))
	}
	for _, b := range l.Blades {
		d.Blades = append(d.Blades, &hwtests.Blade{Blade: b})
		write(t, d.dir, b.Name+".yaml", d.agentConfig(b))
	}
	return d
}

// agentConfig is the configuration of the first blade in README.md, for this one and its
// way to the store, and with what an emulated card and a recorded inventory need.
func (d *daemons) agentConfig(b *lab.Blade) string {
	text := d.readme.files["b1.yaml"]
	for from, to := range map[string]string{"https://fabric.example:2379": d.line(b), "{name: b1}": "{name: " + b.Name + "}", "generation.json": b.Name + ".json"} {
		if !strings.Contains(text, from) {
			d.Fatalf("README.md shows no %s in b1.yaml", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	c := strings.Builder{}
	fmt.Fprintf(&c, "%s  root: %s\n  metrics: \"\"\n  interval: 500ms\n  device:\n    softnic: %s\n    vfs:\n", text, b.SysRoot, b.PinDir)
	for _, at := range b.Attached {
		if at.Workload != nil {
			fmt.Fprintf(&c, "      - {port: %s, workload: %s/%s, card: %s/%s}\n", at.Name, at.Outside.NS.Name, at.Outside.Name, at.Front.NS.Name, at.Front.Name)
		}
	}
	return c.String()
}

// readmeCommands runs the commands that README.md shows for a fabric, in their order.
func (d *daemons) readmeCommands() {
	d.Helper()
	ran := 0
	for _, line := range d.readme.commands {
		switch verb := strings.Fields(line)[1]; {
		case verb == "manager":
			d.start("manager")
			d.connect()
		case verb == "agent":
			d.start("b1")
			d.start("b2")
		case verb == "pki" || slices.Contains(ofFabric, verb):
			ran++
			cmd := exec.Command("bash", "-c", line)
			cmd.Dir = d.dir
			cmd.Env = append(os.Environ(), "BLADEFLOW_SERVER=https://"+d.page, "BLADEFLOW_PKI=pki", "BLADEFLOW_AS=ann")
			out, err := cmd.CombinedOutput()
			if err != nil {
				d.Fatalf("%s: %v\n%s\n%s", line, err, out, d.logs())
			}
			d.Logf("$ %s\n%.400s", line, out)
		}
	}
	if ran < 8 {
		d.Errorf("only %d commands of a fabric were found in README.md", ran)
	}
}

// connect makes the client of the manager that was just started, when it answers.
func (d *daemons) connect() {
	d.Helper()
	tls, err := pki.ClientTLS(pki.FilesOf(filepath.Join(d.dir, "pki"), "ann"))
	if err != nil {
		d.Fatal(err)
	}
	if d.API, err = client.New(client.Config{Server: "https://" + d.page, TLS: tls}); err != nil {
		d.Fatal(err)
	}
	d.insist("asking the manager", func() error {
		_, err := client.Blades.List(d.Context(), d.API, client.Query{})
		return err
	})
}

// unusedAddress is an address that nobody listens on.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// line lays the blade's way out of its namespace: what a management network is to a
// server. It returns the store's URL as the blade sees it.
func (d *daemons) line(b *lab.Blade) string {
	d.Helper()
	lo, err := b.Host.Links().LinkByName("lo")
	if err == nil {
		err = b.Host.Links().LinkSetUp(lo)
	}
	var listener net.Listener
	if err == nil {
		err = b.Host.Do(func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	}
	if err != nil {
		d.Fatal(err)
	}
	line := hwtests.LineFrom(listener, d.entry)
	d.Cleanup(line.Close)
	return line.URL("https")
}

// start starts a daemon, in its namespace if it is a blade's.
func (d *daemons) start(name string) {
	d.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		d.Fatal(err)
	}
	defer log.Close()
	args := []string{"bladeflow", "agent", "--config", filepath.Join(d.dir, name+".yaml")}
	enter := func(f func() error) error { return f() }
	if name == "manager" {
		args[1] = name
		args = append(args, "--drop-privileges")
	}
	for _, b := range d.Blades {
		if b.Name == name {
			enter = b.Host.Do
		}
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: args, Stdout: log, Stderr: log}
	if err := enter(cmd.Start); err != nil {
		d.Fatal(err)
	}
	d.running[name] = cmd
}

// kill kills a daemon with no chance to say goodbye.
func (d *daemons) kill(name string) {
	_ = d.running[name].Process.Signal(syscall.SIGKILL) // an error says that it is gone
	_ = d.running[name].Wait()                          // killed
	delete(d.running, name)
}

// logs returns the ends of what daemons said.
func (d *daemons) logs() string {
	var out strings.Builder
	for _, name := range []string{"manager", "b1", "b2"} {
		text, _ := os.ReadFile(filepath.Join(d.dir, name+".log"))
		lines := bytes.Split(text, []byte("\n"))
		fmt.Fprintf(&out, "%s:\n%s\n", name, bytes.Join(lines[max(0, len(lines)-12):], []byte("\n")))
	}
	return out.String()
}

// insist repeats f until it succeeds: managers come and go.
func (d *daemons) insist(what string, f func() error) {
	d.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			d.Fatalf("%s: %v\n%s", what, err, d.logs())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// settled waits until the profile is active on a blade, on any if that is empty.
func (d *daemons) settled(blade string) (where api.ProfileStatus) {
	d.Helper()
	d.insist("settling", func() (err error) {
		if where, err = d.Settled(d.Context(), "web"); err == nil && blade != "" && where.Blade != blade {
			err = fmt.Errorf("the profile is on %s", where.Blade)
		}
		return err
	})
	return where
}

// daemonsTarget is where the profile of README.md is reached.
var daemonsTarget = hwtests.Target{MAC: 0x02_00_00_00_aa_01, Port: 80}

// TestDaemons runs manager and agents as README.md says and the commands it shows; then
// kills each of them while a profile moves under traffic: no packet ever comes at two
// places, and when the killed one is started again everything is as it is wanted.
func TestDaemons(t *testing.T) {
	d := newDaemons(t)
	d.readmeCommands()
	here := d.settled("").Blade
	d.only(here)
	d.sameVFs()
	d.busiest(here)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	other := map[string]string{"b1": "b2", "b2": "b1"}
	for _, victim := range []string{"manager", "old", "new", "manager", "old", "new"} {
		there := other[here]
		name := map[string]string{"manager": "manager", "old": here, "new": there}[victim]
		after := time.Duration(rng.IntN(150)) * time.Millisecond
		begin := time.Now()
		deliveries, err := d.Deliver(t.Context(), 1000, func() error {
			if _, err := d.API.Move(t.Context(), "web", api.Move{Blade: there}, false); err != nil {
				return err
			}
			time.Sleep(after)
			d.kill(name)
			time.Sleep(200 * time.Millisecond)
			d.start(name)
			d.settled(there)
			return nil
		}, daemonsTarget)
		if err != nil {
			t.Fatalf("%v\n%s", err, d.logs())
		}
		came := deliveries[0]
		t.Logf("%s killed %s after the command to move: %d packets, %d at neither place, settled after %.1f s", name, after, came.Sent, came.Lost, time.Since(begin).Seconds())
		if came.Twice+came.Changed > 0 || len(came.Ports()) > 2 {
			t.Errorf("%s killed: %d packets came twice, %d changed, at %v", name, came.Twice, came.Changed, came.At)
		}
		here = there
		d.only(here)
	}
}

// only checks that the profile answers at one place alone, once for each packet.
func (d *daemons) only(blade string) {
	d.Helper()
	came, err := d.Deliver(d.Context(), 1000, func() error { return nil }, daemonsTarget)
	if err != nil {
		d.Fatal(err)
	}
	if i := slices.IndexFunc(d.Blades, func(b *hwtests.Blade) bool { return b.Name == blade }); !came[0].Once(i) {
		d.Errorf("settled on %s, and then: %+v\n%s", blade, came[0], d.logs())
	}
}

// sameVFs compares what `bladeflow get vf` lists with what `bladeflow inventory` says on
// each blade, VF by VF and field by field.
func (d *daemons) sameVFs() {
	d.Helper()
	fields := func(v any) string { return string(sure(json.Marshal(v))) }
	var want, got []string
	for _, b := range d.Blades {
		var inv api.Inventory
		d.print(&inv, "inventory", "--root", b.SysRoot, "--name", b.Name)
		for _, nic := range inv.Status.NICs {
			for _, pf := range nic.PFs {
				for _, vf := range pf.VFs {
					want = append(want, b.Name+" "+fields(vf))
				}
			}
		}
	}
	var vfs api.List[api.VFView]
	d.print(&vfs, "get", "vf", "--server", d.API.Server(), "--pki", filepath.Join(d.dir, "pki"), "--as", "ann")
	for _, vf := range vfs.Items {
		got = append(got, vf.Status.Blade+" "+fields(vf.Status.VF))
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 4 {
		d.Errorf("%d VFs on the blades, (-inventory +get):\n%s", len(want), diff)
	}
}

// busiest checks that `wait policy` returns when agents have reported where all rules live,
// and that under traffic `top` has rates of it, by what agents really report.
func (d *daemons) busiest(blade string) {
	d.Helper()
	ask := []string{"--server", d.API.Server(), "--pki", filepath.Join(d.dir, "pki"), "--as", "ann"}
	var done waited
	d.print(&done, append([]string{"wait", "policy"}, ask...)...)
	var rules api.List[api.RuleView]
	d.print(&rules, append([]string{"get", "rules"}, ask...)...)
	for _, r := range rules.Items {
		if r.Status.Place == api.Unreported {
			d.Errorf("rule %s is not reported after wait policy", r.Metadata.Name)
		}
	}
	_, err := d.Deliver(d.Context(), 1000, func() error {
		for kind, name := range map[string]string{"blade": blade, "rule": blade + "/"} {
			d.insist("rates of a "+kind, func() error {
				var top api.List[api.Busy]
				d.print(&top, append([]string{"top", kind, "--once"}, ask...)...)
				if len(top.Items) == 0 || !strings.HasPrefix(top.Items[0].Metadata.Name, name) || top.Items[0].Status.Figures["packets"] <= 0 {
					return fmt.Errorf("the busiest are %+v", top.Items)
				}
				return nil
			})
		}
		return nil
	}, daemonsTarget)
	if err != nil {
		d.Error(err)
	}
}

// print runs bladeflow and decodes the JSON that it prints.
func (d *daemons) print(into any, args ...string) {
	d.Helper()
	stdout, stderr, err := invoke("", append(args, "-o", "json")...)
	if err == nil {
		err = json.Unmarshal([]byte(stdout), into)
	}
	if err != nil {
		d.Fatalf("%v: %v: %s", args, err, stderr)
	}
}
