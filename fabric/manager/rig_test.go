package manager

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// inventoryOf is a blade with one card of one PF and n VFs.
func inventoryOf(blade string, n int) *api.Inventory {
	inv := &api.Inventory{Head: api.NewHead(api.KindInventory, blade)}
	numa := 0
	pf := api.PF{Name: "nic0/pf0", PCI: "0000:03:00.0", TotalVFs: n, NumVFs: n, ESwitch: "switchdev", Netdev: &api.Netdev{Name: "p0", BitsPerSecond: 25e9, Link: "up", MTU: 1500}}
	for i := range n {
		pf.VFs = append(pf.VFs, api.VF{Name: fmt.Sprintf("nic0/pf0/vf%d", i), Index: i, PCI: fmt.Sprintf("0000:03:%02x.%d", 1+i/8, i%8), Representor: &api.Netdev{Name: fmt.Sprintf("r%d", i)}})
	}
	inv.Status = api.InventoryStatus{NICs: []api.NIC{{Name: "nic0", Slot: "0000:03:00", Serial: "S-" + blade, Vendor: "0x15b3", Device: "0x1017", NUMA: &numa, PFs: []api.PF{pf}}}, Findings: []api.Finding{}}
	return inv
}

// air is where stations are heard: it notices two VFs with one address.
type air struct {
	mu    sync.Mutex
	at    map[address]map[string]bool
	twice []string
}

func (a *air) set(where string, s fabric.Setting, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := addressOf(s)
	if a.at[key] == nil {
		a.at[key] = map[string]bool{}
	}
	if !on {
		delete(a.at[key], where)
		return
	}
	a.at[key][where] = true
	if len(a.at[key]) > 1 {
		a.twice = append(a.twice, fmt.Sprintf("%v at %v", key, a.at[key]))
	}
}

// puppet plays an agent: it does what a record says, in the order of package api, and
// reports. It keeps the rules of the protocol and nothing else.
type puppet struct {
	blade  string
	store  store.Store
	air    *air
	delay  time.Duration // at most, between steps
	vfs    map[api.VFID]api.VFState
	status api.GenerationStatus
	lease  time.Duration
	faults []string    // what a record did wrong
	cut    atomic.Bool // it does not act any more
}

func (p *puppet) run(ctx context.Context, vfs int) error {
	lease, err := p.store.Lease(ctx, cmp.Or(p.lease, 2*time.Second))
	if err != nil {
		return err
	}
	inv := inventoryOf(p.blade, vfs)
	if err := p.put(ctx, api.PartInventory, inv, nil); err != nil {
		return err
	}
	if err := p.report(ctx); err != nil {
		return err
	}
	if err := p.put(ctx, api.PartAlive, api.Alive{Head: api.NewHead(api.KindAlive, p.blade)}, lease); err != nil {
		return err
	}
	ports := flow.NewPorts("nic0/pf0")
	for _, v := range inv.Status.NICs[0].PFs[0].VFs {
		ports.Declare(v.Name)
	}
	list, revision, err := p.store.List(ctx, store.Prefix(store.Generation(p.blade)))
	if err != nil {
		return err
	}
	for _, kv := range list {
		if err := p.carryOut(ctx, kv, ports); err != nil {
			return err
		}
	}
	for b := range p.store.Watch(ctx, store.Prefix(store.Generation(p.blade)), revision) {
		if b.Err != nil {
			return b.Err
		}
		for _, e := range b.Events {
			if p.cut.Load() { // the store is out of reach: go on as told last
				return nil
			}
			if e.Deleted {
				continue
			}
			if err := p.carryOut(ctx, e.KV, ports); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
	return nil
}

func (p *puppet) wait() {
	if p.delay > 0 {
		time.Sleep(rand.N(p.delay))
	}
}

func (p *puppet) set(v api.VFState, s api.Setting, link bool) {
	old, _ := modelSetting(v.Setting)
	p.air.set(p.blade+strconv.Itoa(v.Index), old, false)
	v.Setting, v.Link, v.Ours = s, link, true
	now, _ := modelSetting(s)
	if link {
		p.air.set(p.blade+strconv.Itoa(v.Index), now, true)
	}
	if s == (api.Setting{}) {
		delete(p.vfs, v.VFID)
		return
	}
	p.vfs[v.VFID] = v
}

func (p *puppet) carryOut(ctx context.Context, kv store.KV, ports *flow.Ports) error {
	var g api.Generation
	if err := json.Unmarshal(kv.Value, &g); err != nil {
		return err
	}
	if g.Spec.Number < p.status.Generation {
		p.faults = append(p.faults, fmt.Sprintf("%s: generation %d after %d", p.blade, g.Spec.Number, p.status.Generation))
		return nil
	}
	c, err := p.content(ctx, &g, ports)
	if err == errReplaced {
		return nil
	}
	if err != nil {
		p.faults = append(p.faults, p.blade+": "+err.Error())
		return nil
	}
	p.wait()
	wanted := map[api.VFID]api.Order{}
	for _, o := range g.Spec.VNICs {
		wanted[o.VFID] = o
	}
	for id, v := range p.vfs {
		if o, ok := wanted[id]; !ok {
			p.set(v, api.Setting{}, false)
		} else if v.MAC != o.MAC || v.VLAN != o.VLAN || !o.Connect {
			p.set(v, v.Setting, false)
		}
	}
	p.wait()
	for id, o := range wanted {
		v := p.vfs[id]
		v.VFID = id
		p.set(v, o.Setting, v.Link && v.MAC == o.MAC)
	}
	p.wait()
	p.status.Generation, p.status.Digest, p.status.Proved = g.Spec.Number, c.Digest.String(), true
	p.wait()
	for id, o := range wanted {
		p.set(p.vfs[id], o.Setting, o.Connect)
	}
	p.status.Record = kv.Modified
	return p.report(ctx)
}

var errReplaced = errors.New("the record was replaced")

// replaced reports whether there is a newer record than g.
func (p *puppet) replaced(ctx context.Context, g *api.Generation) bool {
	var now api.Generation
	kv, err := p.store.Read(ctx, store.Generation(p.blade))
	return err == nil && json.Unmarshal(kv.Value, &now) == nil && now.Spec.Number > g.Spec.Number
}

// content rebuilds what a record says and compares its digest.
func (p *puppet) content(ctx context.Context, g *api.Generation, ports *flow.Ports) (fabric.Content, error) {
	c := fabric.Content{Blade: fabric.BladeID(p.blade)}
	c.Table.Ports = ports
	port := func(name string) flow.Port {
		n, err := ports.Find(name)
		if err != nil {
			p.faults = append(p.faults, err.Error())
		}
		return n
	}
	var parts []api.TableRule
	for _, sum := range g.Spec.Shards {
		digest, err := fabric.ParseDigest(sum)
		if err != nil {
			return c, err
		}
		key := [32]byte(digest)
		kv, err := p.store.Read(ctx, store.Shard(p.blade, key))
		if errors.Is(err, store.ErrNotFound) && p.replaced(ctx, g) {
			return c, errReplaced
		}
		if err != nil {
			return c, err
		}
		if sha256.Sum256(kv.Value) != key {
			return c, fmt.Errorf("shard %s is not what it says", sum)
		}
		var part api.Shard
		if err := json.Unmarshal(kv.Value, &part); err != nil {
			return c, err
		}
		parts = append(parts, part.Rules...)
	}
	for _, r := range g.Spec.Edited(parts) {
		id, err := strconv.ParseUint(r.ID, 16, 64)
		if err != nil {
			return c, err
		}
		rule := flow.Rule{ID: flow.RuleID(id), Name: r.Name, Priority: r.Priority}
		var err1, err2, err3 error
		rule.Tier, err1 = flow.ParseTier(r.Tier)
		rule.Match, err2 = flow.ParseMatch(r.Match, ports)
		rule.Actions, err3 = flow.ParseActions(r.Actions, ports)
		if err := cmp.Or(err1, err2, err3); err != nil {
			return c, err
		}
		c.Table.Rules = append(c.Table.Rules, rule)
	}
	var err error
	if g.Spec.Default != "" {
		if c.Table.Default, err = flow.ParseActions(g.Spec.Default, ports); err != nil {
			return c, err
		}
	}
	var stations []flow.Station
	for _, s := range g.Spec.Stations {
		mac, err := flow.ParseMAC(s.MAC)
		if err != nil {
			return c, err
		}
		stations = append(stations, flow.Station{VLAN: s.VLAN, MAC: mac, Port: port(s.Port)})
	}
	if c.Table.Switch, err = flow.NewSwitch(port(g.Spec.Uplink), stations...); err != nil {
		return c, err
	}
	for _, o := range g.Spec.VNICs {
		vf, err := modelVFID(p.blade, o.VFID)
		if err != nil {
			return c, err
		}
		set, err := modelSetting(o.Setting)
		if err != nil {
			return c, err
		}
		set.Traffic = true
		c.VNICs = append(c.VNICs, fabric.Bound{VNIC: fabric.VNICName{Profile: o.Profile, VNIC: o.VNIC}, VF: vf, Port: port(o.Port), Setting: set})
	}
	if c.Digest = c.Sum(); c.Digest.String() != g.Spec.Digest {
		return c, fmt.Errorf("digest %s, promised %s", c.Digest, g.Spec.Digest)
	}
	return c, nil
}

func (p *puppet) report(ctx context.Context) error {
	s := api.BladeStatus{Head: api.NewHead(api.KindBladeStatus, p.blade), Status: p.status}
	s.Status.VFs, s.Status.Devices = []api.VFState{}, []api.Device{{Name: "nic0", Model: "softnic", PFs: []string{"nic0/pf0"}, Limit: 4096}}
	for _, v := range p.vfs {
		s.Status.VFs = append(s.Status.VFs, v)
	}
	return p.put(ctx, api.PartGeneration, s, nil)
}

func (p *puppet) put(ctx context.Context, part string, v any, lease *store.Lease) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	op := store.Put(store.Status(p.blade, part), text)
	if lease != nil {
		op = store.PutLeased(store.Status(p.blade, part), text, lease)
	}
	_, err = p.store.Txn(ctx, nil, []store.Op{op})
	return err
}

// rig is a manager on loopback with puppets.
type rig struct {
	t       *testing.T
	store   store.Store
	m       *Manager
	log     *logged
	air     *air
	puppets map[string]*puppet
	client  *http.Client
	url     string
	lease   time.Duration // of the blades; theirs if zero
}

// logged is a log that can be searched.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(t *testing.T, s store.Store) *rig { return newRigWith(t, s, Config{}) }

// newRigWith is newRig with leases that hold on a machine that has much to do.
func newRigWith(t *testing.T, s store.Store, c Config) *rig {
	r := &rig{t: t, store: s, log: &logged{}, air: &air{at: map[address]map[string]bool{}}, puppets: map[string]*puppet{}, client: &http.Client{}, lease: c.Lease}
	c.Listen = "127.0.0.1:0"
	r.m = r.start(c)
	r.url = r.m.URL()
	t.Cleanup(func() {
		r.air.mu.Lock()
		defer r.air.mu.Unlock()
		for _, s := range r.air.twice {
			t.Errorf("two VFs answer for one address: %s", s)
		}
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

// start runs another manager on the same store.
func (r *rig) start(c Config) *Manager {
	c.Store, c.Log = r.store, slog.New(slog.NewTextHandler(r.log, nil))
	if c.Lease == 0 {
		c.Lease = 2 * time.Second
	}
	m, err := New(c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.run("manager", m.Run)
	return m
}

// run runs something until the test ends.
func (r *rig) run(what string, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := do(ctx); err != nil && ctx.Err() == nil {
			r.t.Errorf("%s: %v", what, err)
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
}

func (r *rig) blade(name string, vfs int, delay time.Duration) *puppet {
	p := &puppet{blade: name, store: r.store, air: r.air, delay: delay, lease: r.lease, vfs: map[api.VFID]api.VFState{}}
	r.puppets[name] = p
	r.run("blade "+name, func(ctx context.Context) error { return p.run(ctx, vfs) })
	r.t.Cleanup(func() {
		for _, f := range p.faults {
			r.t.Error(f)
		}
	})
	return p
}

// do calls the API and decodes the answer into out unless it is nil.
func (r *rig) do(method, path, body string, out any) (status int, text string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+"/api/v1/"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			r.t.Fatalf("%s %s: %v: %s", method, path, err, data)
		}
	}
	return resp.StatusCode, string(data)
}

// want calls the API and wants a status.
func (r *rig) want(status int, method, path, body string) string {
	r.t.Helper()
	got, text := r.do(method, path, body, nil)
	if got != status {
		r.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, text)
	}
	return text
}

// profile waits until a profile is as said.
func (r *rig) profile(name, state, blade string) time.Duration {
	r.t.Helper()
	begin := time.Now()
	var p api.Profile
	for time.Since(begin) < 5*time.Second {
		if r.do("GET", "profiles/"+name, "", &p); p.Status != nil && p.Status.State == state && (blade == "" || p.Status.Blade == blade) {
			return time.Since(begin)
		}
		time.Sleep(2 * time.Millisecond)
	}
	_, text := r.do("GET", "blades", "", nil)
	r.t.Fatalf("profile %s is %+v, want %s on %s\n%s", name, p.Status, state, blade, text)
	return 0
}

func object(kind, name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"bladeflow/v1","kind":%q,"metadata":{"name":%q},"spec":%s}`, kind, name, spec)
}

// basics puts blades, a network and a rule set there.
func (r *rig) basics(blades ...string) {
	r.t.Helper()
	items := []string{object("Chassis", "c1", `{"slots":16}`), object("Network", "front", `{"vlan":10}`),
		object("RuleSet", "web", `{"tier":"tenant","default":"drop","rules":[{"name":"in","priority":10,"match":{"dst_port":"80","ip_proto":"tcp"},"actions":["normal"]},{"name":"out","priority":10,"match":{"in_port":"eth0"},"actions":["normal"]}]}`)}
	for i, b := range blades {
		items = append(items, object("Blade", b, fmt.Sprintf(`{"chassis":"c1","slot":%d}`, i+1)))
	}
	r.want(200, "POST", "apply", `{"apiVersion":"bladeflow/v1","kind":"List","metadata":{"revision":0,"cursor":0},"items":[`+strings.Join(items, ",")+`]}`)
}

func webProfile(name string, mac int) string {
	return object("Profile", name, fmt.Sprintf(`{"vnics":[{"name":"eth0","mac":"02:00:00:00:00:%02x","network":"front","qos":{"guaranteed":"1G","maximum":"5G"}}],"ruleSets":["web"]}`, mac))
}
