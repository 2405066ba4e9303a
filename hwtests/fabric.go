package hwtests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// Fabric is a chassis whose blades are members of a fabric: a certificate authority of
// its own, a store with TLS and rights, a manager, and on each blade an agent with its
// own certificate: the parts of which the daemons are made, in this process.
type Fabric struct {
	*Chassis
	API   *client.Client   // of the manager
	Lines map[string]*Line // to the store, from each blade's agent and from the manager, by their names

	manager *manager.Manager
	dir     string
	store   store.ServerConfig
	server  *store.Server
	closers []func()
}

// FabricConfig says what fabric to bring up. What it says of members is not used.
type FabricConfig struct {
	Config
	Lease time.Duration // how long other managers wait before they lead in place of one that is gone; as a manager's own if zero
}

// StartFabric brings up a fabric. The manager's page
// and API are on a loopback address without TLS, so whoever is on this machine may use
// them. Nothing is wanted yet. Cost: two seconds more than [Start].
func StartFabric(ctx context.Context, c FabricConfig) (*Fabric, error) {
	f := &Fabric{Lines: map[string]*Line{}}
	if err := f.start(ctx, c); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	return f, nil
}

func (f *Fabric) start(ctx context.Context, c FabricConfig) (err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if f.dir, err = lab.Scratch(); err != nil {
		return err
	}
	c.Blades = cmp.Or(c.Blades, 2)
	var names []string
	for i := range c.Blades {
		names = append(names, fmt.Sprintf("b%d", i+1)) // as the lab calls them
	}
	if _, err := pki.Init(f.certificates(), pki.Options{Blades: names}); err != nil {
		return err
	}
	if err := f.openStore(ctx, names); err != nil {
		return err
	}
	if f.manager, f.API, err = f.manage(manager.Config{Name: pki.ManagerName, Log: c.Log, Lease: c.Lease}, f.Lines[pki.ManagerName].URL("https")); err != nil {
		return err
	}
	c.Member = &Membership{Keep: f.dir, Dial: func(ctx context.Context, blade string) (store.Store, error) {
		return f.Dial(ctx, blade, f.Lines[blade].URL("https"))
	}}
	f.Chassis, err = Start(ctx, c.Config)
	return err
}

func (f *Fabric) certificates() string { return filepath.Join(f.dir, "pki") }

// openStore starts the store, gives the blades their rights, and lays their lines.
func (f *Fabric) openStore(ctx context.Context, blades []string) error {
	files := pki.FilesOf(f.certificates(), pki.ServerName)
	f.store = store.ServerConfig{Dir: filepath.Join(f.dir, "store"), Listen: "127.0.0.1:0",
		TLS: &store.ServerTLS{CA: files.CA, Cert: files.Cert, Key: files.Key, PeerName: pki.ServerName}}
	var err error
	if f.server, err = store.Start(ctx, f.store); err != nil {
		return err
	}
	f.closers = append(f.closers, func() { f.server.Stop() })
	f.store.Listen = strings.TrimPrefix(f.server.Endpoint(), "https://")
	if err := f.server.Local().Enforce(ctx, blades...); err != nil {
		return err
	}
	for _, name := range append(blades, pki.ManagerName) {
		line, err := NewLine(f.store.Listen)
		if err != nil {
			return err
		}
		f.Lines[name] = line
		f.closers = append(f.closers, line.Close)
	}
	return nil
}

// manage starts a manager that reaches the store at endpoint.
func (f *Fabric) manage(c manager.Config, endpoint string) (*manager.Manager, *client.Client, error) {
	s, err := f.Dial(context.Background(), pki.ManagerName, endpoint)
	if err != nil {
		return nil, nil, err
	}
	f.closers = append(f.closers, func() { _ = s.Close() })
	c.Store, c.Listen = s, "127.0.0.1:0"
	m, err := manager.New(c)
	if err != nil {
		return nil, nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := m.Run(ctx); err != nil {
			c.Log.Error("manager", "error", err)
		}
	})
	f.closers = append(f.closers, func() { stop(); done.Wait() })
	api, err := client.New(client.Config{Server: m.URL()})
	return m, api, err
}

// Dial reaches the store at some of its URLs with the certificate of that name.
func (f *Fabric) Dial(ctx context.Context, name string, endpoints ...string) (*store.Client, error) {
	config, err := pki.ClientTLS(pki.FilesOf(f.certificates(), name))
	if err != nil {
		return nil, err
	}
	return store.Dial(ctx, store.DialConfig{Endpoints: endpoints, TLS: config})
}

// Stop takes everything down.
func (f *Fabric) Stop() error {
	var err error
	if f.Chassis != nil {
		err = f.Chassis.Stop()
	}
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
	f.closers = nil
	return errors.Join(err, os.RemoveAll(f.dir))
}

// Apply puts objects, each of package api or alike, in one change.
func (f *Fabric) Apply(ctx context.Context, objects ...any) error {
	var texts []json.RawMessage
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		texts = append(texts, text)
	}
	_, err := f.API.Apply(ctx, texts, false)
	return err
}

// settling is how long a fabric may take to become as it is wanted before a scenario
// gives up: long, for machines are busy, and some are emulated.
const settling = 2 * time.Minute

// Settled waits until every blade has done what it is told, with all of it proved, and
// the profiles named are active; and returns where the first of them is.
func (f *Fabric) Settled(ctx context.Context, profiles ...string) (api.ProfileStatus, error) {
	deadline := time.Now().Add(settling)
	for {
		where, waits, err := f.settled(ctx, profiles)
		if err != nil || waits == "" {
			return where, err
		}
		if time.Now().After(deadline) {
			return where, fmt.Errorf("the fabric does not settle in %s: %s", settling, waits)
		}
		select {
		case <-ctx.Done():
			return where, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// settled returns what the fabric waits for, empty if nothing.
func (f *Fabric) settled(ctx context.Context, profiles []string) (first api.ProfileStatus, waits string, err error) {
	for i, name := range profiles {
		p, err := client.Profiles.Get(ctx, f.API, name)
		if err != nil {
			return first, "", err
		}
		if p.Status == nil || p.Status.State != "active" {
			text, _ := json.Marshal(p.Status)
			return first, fmt.Sprintf("profile %s is %s", name, text), nil
		}
		if i == 0 {
			first = *p.Status
		}
	}
	all, err := client.Blades.List(ctx, f.API, client.Query{})
	if err != nil {
		return first, "", err
	}
	if len(all.Items) != len(f.Blades) {
		return first, fmt.Sprintf("%d of %d blades are there", len(all.Items), len(f.Blades)), nil
	}
	for _, b := range all.Items {
		if b.Status == nil || b.Status.State != "settled" {
			text, _ := json.Marshal(b.Status)
			return first, fmt.Sprintf("blade %s is %s", b.Metadata.Name, text), nil
		}
	}
	return first, "", nil
}

// index returns the place of a blade in Blades, -1 if there is no such blade.
func (f *Fabric) index(blade string) int {
	return slices.IndexFunc(f.Blades, func(b *Blade) bool { return b.Name == blade })
}
