package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// inNamespace runs f on a thread with a network namespace of its own, in which rep0
// and rep1 are up and their other ends are far0 and far1.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	var probe error
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, the namespace with it
		if _, probe = netns.New(); probe != nil {
			return
		}
		for i := range 2 {
			if probe = veth(fmt.Sprintf("rep%d", i), fmt.Sprintf("far%d", i)); probe != nil {
				return
			}
		}
		if probe = setUp("lo"); probe != nil {
			return
		}
		f(t)
	}()
	<-done
	must.Have(t, "veth", probe)
}

// veth makes a pair of netdevs that are up, in the namespace of the calling thread.
func veth(name, far string) error { return wideVeth(name, far, 1) }

// wideVeth is veth with so many queues at both ends.
func wideVeth(name, far string, queues int) error {
	attrs := netlink.LinkAttrs{Name: name, NumRxQueues: queues, NumTxQueues: queues}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNumRxQueues: uint32(queues), PeerNumTxQueues: uint32(queues)}); err != nil {
		return err
	}
	return errors.Join(setUp(name), setUp(far))
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// configuration writes a configuration and its rules and reads it back.
func configuration(t *testing.T, more string) File {
	t.Helper()
	dir := t.TempDir()
	text := `apiVersion: bladeflow/v1
kind: Agent
metadata: {name: b1}
spec:
  rules: [rules.yaml]
  metrics: 127.0.0.1:0
  status: status.json
  interval: 100ms
` + more
	for name, content := range map[string]string{"agent.yaml": text, "rules.yaml": strings.Replace(good, "in_port: vf0", "in_port: vf0, ip_proto: udp", 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := ReadFile(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sysTree writes the tree of a card with one VF whose representors are rep0 and rep1.
func sysTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(path, target string) {
		t.Helper()
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.Symlink(target, full)); err != nil {
			t.Fatal(err)
		}
	}
	const pf, vf = "sys/bus/pci/devices/0000:03:00.0", "sys/bus/pci/devices/0000:03:00.1"
	write(pf+"/class", "0x020000")
	write(pf+"/sriov_totalvfs", "1")
	write(pf+"/sriov_numvfs", "1")
	link(pf+"/virtfn0", "../0000:03:00.1")
	write(vf+"/class", "0x020000")
	link(vf+"/physfn", "../0000:03:00.0")
	for dev, port := range map[string]string{"rep0": "p0", "rep1": "pf0vf0"} {
		link("sys/class/net/"+dev+"/device", "../../../0000:03:00.0")
		write("sys/class/net/"+dev+"/phys_switch_id", "beef")
		write("sys/class/net/"+dev+"/phys_port_name", port)
	}
	return root
}

var quiet = slog.New(slog.DiscardHandler)

// running runs a daemon; the function that it returns ends and closes it.
func running(t *testing.T, d *Daemon) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := errors.Join(<-ended, d.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestDaemon runs an agent with everything but a card on two representors that it
// finds in the inventory, changes its rules, and ends it.
func TestDaemon(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		f := configuration(t, "  datapath: afpacket\n  uplink: nic0/pf0\n  root: "+sysTree(t)+"\n")
		d, err := Open(f, quiet)
		if err != nil {
			t.Error(err)
			return
		}
		end := running(t, d)
		until(t, d, "the first generation", func(s *Status) bool { return s.Generation == 1 })
		rewrite(t, f.Rules[0], good)
		until(t, d, "the second generation", func(s *Status) bool { return s.Generation == 2 })
		until(t, d, "the status file", func(*Status) bool { gen, _ := LastGeneration(f.Status); return gen == 2 })

		get := func(path string) string {
			t.Helper()
			w := httptest.NewRecorder()
			d.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != 200 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
			return w.Body.String()
		}
		if m := get("/metrics"); !strings.Contains(m, "\nbladeflow_generation 2\n") || !strings.Contains(m, "\ngo_goroutines ") {
			t.Errorf("metrics:\n%s", m)
		}
		var o Object
		if err := json.Unmarshal([]byte(get("/status")), &o); err != nil || o.Kind != "BladeStatus" || o.Metadata.Name != "b1" || o.Status.Generation != 2 {
			t.Errorf("%v: %+v", err, o)
		}
		if inv := get("/inventory"); !strings.Contains(inv, `"nic0/pf0/vf0"`) {
			t.Errorf("inventory: %s", inv)
		}
		// The server listens in the namespace of this thread, where the dial has to start.
		conn, err := net.Dial("tcp", d.Address())
		if err != nil {
			t.Error(err)
		} else {
			fmt.Fprintf(conn, "GET /status HTTP/1.0\r\n\r\n")
			if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200 OK") {
				t.Errorf("%v: %.80s", err, answer)
			}
			conn.Close()
		}
		end()
	})
}

// TestDaemonJoins runs a daemon whose rules come from a store.
func TestDaemonJoins(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "store.sock")
	server, err := store.Start(t.Context(), store.ServerConfig{Dir: t.TempDir(), Listen: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	local := server.Local()
	defer local.Close()
	g, shards := published(5, content(t, "b1", nil, "name=a,priority=1,in_port=vf0 actions=drop"), 16)
	if err := write(t.Context(), local, "b1", g, shards); err != nil {
		t.Fatal(err)
	}
	inNamespace(t, func(t *testing.T) {
		f := configuration(t, "  datapath: afpacket\n  root: "+sysTree(t)+"\n")
		f.Rules, f.Store = nil, &StoreSpec{Endpoints: []string{"unix://" + socket}, Name: "b1", Keep: filepath.Join(t.TempDir(), "kept.json")}
		d, err := Open(f, quiet)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			kv, err := local.Read(ctx, store.Status("b1", api.PartGeneration))
			if err == nil && strings.Contains(string(kv.Value), `"generation":5`) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("reported is %s, %v; the status is %+v", kv.Value, err, d.Agent().Status())
				break
			}
		}
		if kv, err := local.Read(ctx, store.Status("b1", api.PartInventory)); err != nil || !strings.Contains(string(kv.Value), `"nic0/pf0/vf0"`) {
			t.Errorf("%s, %v", kv.Value, err)
		}
		cancel()
		if err := errors.Join(<-ended, d.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestDaemonAFXDP opens and closes the same with AF_XDP.
func TestDaemonAFXDP(t *testing.T) {
	var err error
	inNamespace(t, func(t *testing.T) {
		var d *Daemon
		if d, err = Open(configuration(t, "  datapath: afxdp\n  root: "+sysTree(t)+"\n"), quiet); err == nil {
			err = d.Close()
		}
	})
	must.Have(t, "afxdp", err)
}

// TestOpenRefuses checks that what is wrong with a configuration is found before
// anything is done, with one fault that says what.
func TestOpenRefuses(t *testing.T) {
	check := func(code, why string, f File) {
		t.Helper()
		d, err := Open(f, quiet)
		var fault *flow.Fault
		if d != nil || !errors.As(err, &fault) || fault.Code != code || !strings.Contains(err.Error(), why) || fault.Remedy == "" {
			t.Errorf("%v, want %s … %s", err, code, why)
		}
	}
	const ports = "  ports: [{name: nic0/pf0, netdev: ghost0}, {name: nic0/pf0/vf0, netdev: ghost1}]\n"
	check("E_ROOT", "no sys folder", configuration(t, "  root: "+t.TempDir()+"\n"))
	check("E_NO_PORTS", "no NIC", configuration(t, "  root: "+emptySys(t)+"\n"))
	check("E_NETDEV", "port nic0/pf0: netdev ghost0", configuration(t, ports))
	check("E_PORT_UNKNOWN", "spec.uplink", configuration(t, ports+"  uplink: pf7\n"))
	check("E_SOFTNIC_OPEN", "create it first", configuration(t, ports+"  device: {softnic: /nowhere}\n"))
	f := configuration(t, ports)
	rewrite(t, f.Rules[0], "nonsense")
	check("E_TYPE", f.Rules[0]+":1:1", f)
	f = configuration(t, ports)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	f.Metrics = busy.Addr().String()
	check("E_LISTEN", "in use", f)
	legacy := sysTree(t)
	if err := os.Remove(filepath.Join(legacy, "sys/class/net/rep1/phys_port_name")); err != nil {
		t.Fatal(err)
	}
	check("E_NO_REPRESENTOR", "nic0/pf0/vf0", configuration(t, "  root: "+legacy+"\n"))
}

func emptySys(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "sys"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}
