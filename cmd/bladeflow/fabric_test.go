package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// Scripts of the fabric run against `bladeflow manager` as a process of its own, with
// its store and with TLS, started by the script's command `manager`. The users are ann
// (admin), oli (operator) and vic (viewer); commands ask as ann unless BLADEFLOW_AS
// says otherwise. `blade NAME VFS` starts what answers for a blade (see [puppet]),
// `manager stop` ends the process as systemd would, and [eventually] waits for output.

// managed is the manager of one script.
type managed struct {
	cmd   *exec.Cmd
	ended chan error
	store string // its endpoint
}

const managerConfig = `apiVersion: bladeflow/v1
kind: Manager
metadata: {name: m1}
spec:
  listen: %s
  certificates: pki
  store: {dir: store, listen: %s}
`

func manage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: manager [stop]")
	}
	if len(args) == 1 {
		ts.Check(ts.Value(managedKey{}).(*managed).stop())
		return
	}
	dir := ts.Getenv("WORK")
	_, err := pki.Init(filepath.Join(dir, "pki"), pki.Options{Blades: []string{"b1", "b2", "b3"},
		Users: []pki.User{{Name: "ann", Role: pki.Admin}, {Name: "oli", Role: pki.Operator}, {Name: "vic", Role: pki.Viewer}}})
	ts.Check(err)
	config := filepath.Join(dir, "manager.yaml")
	if _, err := os.Stat(config); err != nil {
		ts.Check(os.WriteFile(config, fmt.Appendf(nil, managerConfig, freeAddress(ts), freeAddress(ts)), 0o644))
	}
	m, url, err := startManager(config)
	ts.Check(err)
	ts.Defer(func() { _ = m.stop() }) // it may be stopped already
	ts.Setenv("BLADEFLOW_SERVER", url)
	ts.Setenv("BLADEFLOW_PKI", filepath.Join(dir, "pki"))
	ts.Setenv("BLADEFLOW_AS", "ann")
	*ts.Value(managedKey{}).(*managed) = *m
}

type managedKey struct{}

// freeAddress is an address on loopback that nobody listens on.
func freeAddress(ts *testscript.TestScript) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	return l.Addr().String()
}

// startManager starts a manager and returns when it serves.
func startManager(config string) (*managed, string, error) {
	return serving(&exec.Cmd{Path: "/proc/self/exe", Args: []string{"bladeflow", "manager", "--config", config, "--drop-privileges"}, SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
}

// serving starts the process of a manager and returns when it serves.
func serving(cmd *exec.Cmd) (*managed, string, error) {
	m := &managed{cmd: cmd, ended: make(chan error, 1)}
	said, err := m.cmd.StderrPipe()
	if err != nil {
		return nil, "", err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, "", err
	}
	var url, log string
	lines := bufio.NewScanner(said)
	for m.store == "" && lines.Scan() {
		log += lines.Text() + "\n"
		if at, ok := strings.CutPrefix(lines.Text(), "serving "); ok {
			url = at
		}
		if at, ok := strings.CutPrefix(lines.Text(), "store at "); ok {
			m.store = at
		}
	}
	go func() {
		for lines.Scan() { // so that it does not block
		}
		m.ended <- m.cmd.Wait()
	}()
	if m.store == "" {
		return nil, "", errors.New("the manager does not start: " + log)
	}
	return m, url, nil
}

// stop ends the process as systemd does, and returns how it ended.
func (m *managed) stop() error {
	if m.cmd == nil {
		return errors.New("there is no manager")
	}
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-m.ended:
		m.ended <- err
		return err
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the manager does not end"), m.cmd.Process.Kill())
	}
}

// eventually is the command `eventually FILE PATTERN`: it waits until what a command in
// the background writes matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: eventually FILE PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var text []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if text, err = os.ReadFile(ts.MkAbs(args[0])); err == nil && pattern.Match(text) {
			return
		}
	}
	ts.Fatalf("%s never matched %s: %v\n%s", args[0], args[1], err, text)
}

// bladeUp is the command `blade NAME VFS`.
func bladeUp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: blade NAME VFS")
	}
	vfs, err := strconv.Atoi(args[1])
	ts.Check(err)
	m := ts.Value(managedKey{}).(*managed)
	ctx, stop := context.WithCancel(context.Background())
	p := &puppet{blade: args[0], vfs: map[api.VFID]api.VFState{}}
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, filepath.Join(ts.Getenv("WORK"), "pki"), m.store, vfs) }()
	ts.Defer(func() {
		stop()
		if err := <-done; err != nil {
			fmt.Fprintf(os.Stderr, "blade %s: %v\n", p.blade, err)
		}
	})
}

// puppet answers for a blade: it reports an inventory of one card and says of every
// record that it is carried out and proved, at once. The real agent is tested with the
// lab; here it is the command line that matters.
type puppet struct {
	blade  string
	client *store.Client
	vfs    map[api.VFID]api.VFState
}

func (p *puppet) run(ctx context.Context, dir, endpoint string, vfs int) error {
	config, err := pki.ClientTLS(pki.FilesOf(dir, p.blade))
	if err != nil {
		return err
	}
	for p.client == nil { // until the manager has admitted it
		c, err := store.Dial(ctx, store.DialConfig{Endpoints: []string{endpoint}, TLS: config})
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			p.client = c
			defer c.Close()
		} else {
			time.Sleep(20 * time.Millisecond)
		}
	}
	lease, err := p.client.Lease(ctx, 2*time.Second)
	if err != nil {
		return stopped(ctx, err)
	}
	alive, err := json.Marshal(api.Alive{Head: api.NewHead(api.KindAlive, p.blade)})
	if err != nil {
		return err
	}
	if err := p.report(ctx, api.GenerationStatus{VFs: []api.VFState{}, Devices: []api.Device{}}, inventory(p.blade, vfs), store.PutLeased(store.Status(p.blade, api.PartAlive), alive, lease)); err != nil {
		return stopped(ctx, err)
	}
	at := store.Generation(p.blade)
	list, revision, err := p.client.List(ctx, store.Prefix(at))
	if err != nil {
		return stopped(ctx, err)
	}
	for _, kv := range list {
		if err := p.carryOut(ctx, kv); err != nil {
			return stopped(ctx, err)
		}
	}
	for b := range p.client.Watch(ctx, store.Prefix(at), revision) {
		for _, e := range b.Events {
			if e.Deleted {
				continue
			}
			if err := p.carryOut(ctx, e.KV); err != nil {
				return stopped(ctx, err)
			}
		}
	}
	return nil
}

// stopped is nil for what goes wrong because the test is over.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, store.ErrUnreachable) {
		return nil
	}
	return err
}

func (p *puppet) carryOut(ctx context.Context, kv store.KV) error {
	var g api.Generation
	if err := json.Unmarshal(kv.Value, &g); err != nil {
		return err
	}
	s := api.GenerationStatus{Record: kv.Modified, Generation: g.Spec.Number, Digest: g.Spec.Digest, Since: time.Now().UTC(), Proved: true, VFs: []api.VFState{},
		Devices: []api.Device{{Name: "nic0", Model: "softnic", PFs: []string{"nic0/pf0"}, Entries: g.Spec.Rules, Limit: 64}},
		Links:   []api.Link{{Port: "nic0/pf0", Netdev: "rep0", Mode: "afxdp", Since: time.Now().UTC(), Reason: "its netdev is not there"}},
		Events:  []api.BladeEvent{{At: time.Now().UTC(), Code: "E_ENTRY_MISSING", Object: "nic0", Text: "entries are gone: b1ad000000000001"}}}
	for _, o := range g.Spec.VNICs {
		s.VFs = append(s.VFs, api.VFState{VFID: o.VFID, Setting: o.Setting, Link: o.Connect, Ours: true})
	}
	rules := &api.Rules{Head: api.NewHead(api.KindRules, p.blade), Status: api.RulesStatus{Generation: g.Spec.Number, At: time.Now().UTC(), Packets: []api.TierPackets{}, Rules: []api.RuleState{}}}
	var parts []api.TableRule
	for _, sum := range g.Spec.Shards {
		parts = append(parts, p.rulesOf(ctx, sum)...)
	}
	for _, r := range g.Spec.Edited(parts) {
		if strings.HasSuffix(r.Name, "/quiet") { // it counts too little to be listed
			rules.Status.Omitted++
			continue
		}
		rules.Status.Rules = append(rules.Status.Rules, api.RuleState{Name: r.Name, ID: r.ID})
	}
	for i := range rules.Status.Rules { // every second one finds a place in the card
		r := &rules.Status.Rules[i]
		if r.Place = "hardware"; i%2 == 1 {
			r.Place, r.Code, r.Reason, r.Fix = "software", "E_TABLE_FULL", "all 64 entries are used", "use fewer rules"
			rules.Status.Software++
			continue
		}
		r.Entries, r.Hardware = 1, api.Count{Packets: 5, Bytes: 500}
		rules.Status.Hardware++
	}
	return p.report(ctx, s, rules)
}

// rulesOf returns the rules of a shard; none if it was replaced meanwhile.
func (p *puppet) rulesOf(ctx context.Context, sum string) []api.TableRule {
	var out []api.TableRule
	list, _, err := p.client.List(ctx, store.Shards(p.blade))
	if err != nil {
		return nil
	}
	for _, kv := range list {
		var s api.Shard
		if strings.HasSuffix(string(kv.Key), sum) && json.Unmarshal(kv.Value, &s) == nil {
			out = append(out, s.Rules...)
		}
	}
	return out
}

// report writes parts of the blade's status in one transaction.
func (p *puppet) report(ctx context.Context, s api.GenerationStatus, other any, more ...store.Op) error {
	part := api.PartRules
	if _, is := other.(*api.Inventory); is {
		part = api.PartInventory
	}
	status, err1 := json.Marshal(api.BladeStatus{Head: api.NewHead(api.KindBladeStatus, p.blade), Status: s})
	second, err2 := json.Marshal(other)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := p.client.Txn(ctx, nil, append(more, store.Put(store.Status(p.blade, api.PartGeneration), status), store.Put(store.Status(p.blade, part), second)))
	return err
}

// inventory is a blade with one card of one PF.
func inventory(blade string, vfs int) *api.Inventory {
	pf := api.PF{Name: "nic0/pf0", PCI: "0000:03:00.0", TotalVFs: vfs, NumVFs: vfs, ESwitch: "switchdev", Netdev: &api.Netdev{Name: "p0", BitsPerSecond: 25e9, Link: "up"}}
	for i := range vfs {
		pf.VFs = append(pf.VFs, api.VF{Name: fmt.Sprintf("nic0/pf0/vf%d", i), Index: i, PCI: fmt.Sprintf("0000:03:%02x.%d", 1+i/8, i%8), Representor: &api.Netdev{Name: fmt.Sprintf("r%d", i)}})
	}
	nic := api.NIC{Name: "nic0", Slot: "0000:03:00", Serial: "S-" + blade, Vendor: "0x15b3", Device: "0x1017", PFs: []api.PF{pf}}
	return &api.Inventory{Head: api.NewHead(api.KindInventory, blade), Status: api.InventoryStatus{NICs: []api.NIC{nic}, Findings: []api.Finding{}}}
}
