package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/document"
)

// File is a manager's configuration, as read from a file. Example has one with every
// field.
type File struct {
	APIVersion string       `yaml:"apiVersion"`
	Kind       string       `yaml:"kind"`
	Metadata   FileMetadata `yaml:"metadata"`
	Spec       FileSpec     `yaml:"spec"`
}

// FileMetadata names the manager.
type FileMetadata struct {
	Name string `yaml:"name"`
}

// FileSpec is where a manager listens and where its store is.
type FileSpec struct {
	Listen       string    `yaml:"listen"`
	Certificates string    `yaml:"certificates"` // directory, as `bladeflow pki init` makes it; empty only on loopback
	Store        StoreFile `yaml:"store"`
	Keep         Keep      `yaml:"keep"`
	Capacity     Capacity  `yaml:"capacity"`
}

// StoreFile is a store in this process, or one elsewhere.
type StoreFile struct {
	Dir       string   `yaml:"dir"`
	Listen    string   `yaml:"listen"` // where agents reach the store in this process
	Endpoints []string `yaml:"endpoints"`
}

// Example is a configuration with every field, as the documentation shows it.
const Example = `apiVersion: bladeflow/v1
kind: Manager
metadata: {name: manager1}
spec:
  listen: 0.0.0.0:8443                    # of API and page; without certificates on loopback only
  certificates: /etc/bladeflow/pki        # ca.crt, server.*, manager.*; with root.* it gives blades their rights
  store:
    dir: /var/lib/bladeflow/store         # a store in this process, which agents reach at
    listen: 0.0.0.0:2379
    # endpoints: [https://10.0.0.1:2379]  # or, instead of both, a cluster elsewhere
  keep: {changes: 10000, days: 365}       # of history; older changes cannot be reverted to, but snapshots stay
  capacity:                               # may be left out: then no demand is recorded
    history: /var/lib/bladeflow/demand.db # SQLite file that the manager writes while it leads
    keepDays: 1095                        # of daily values
    policy: {survive: blade, bufferPercent: 10, overcommit: {bandwidth: 100}}
    packetsPerSecondPerCore: 2000000      # measured; with cores, what blades may spend on software
    cores: 2
    profile: {name: std-vnic, guaranteed: 1G, maximum: 10G, entries: 16, packetsPerSecond: 1000}
`

// ReadFile reads a configuration strictly.
func ReadFile(path string) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, &flow.Fault{Code: "E_CONFIG_FILE", What: path, Why: err.Error(), Remedy: "name a file that is there and readable", Err: err}
	}
	return ParseFile(path, data)
}

// ParseFile reads a configuration strictly; path is what faults speak of.
func ParseFile(path string, data []byte) (File, error) {
	f := File{Spec: FileSpec{Capacity: DefaultCapacity()}}
	fault := func(code, what, why, remedy string) (File, error) {
		return File{}, &flow.Fault{Code: code, What: strings.TrimSuffix(path+": "+what, ": "), Why: why, Remedy: remedy}
	}
	if m, bad := errors.AsType[*document.Mistake](document.Decode(data, &f)); bad {
		code, what := "E_YAML", ""
		if m.Line > 0 {
			what = fmt.Sprintf("line %d", m.Line)
		}
		if m.Field != "" {
			code, what = "E_FIELD_UNKNOWN", what+": field "+m.Field
		}
		return fault(code, what, m.Why, "see the example in `bladeflow manager --help`")
	}
	s := f.Spec
	switch {
	case f.APIVersion != api.Version:
		return fault("E_VERSION", "apiVersion", fmt.Sprintf("%q is not known here", f.APIVersion), "use "+api.Version)
	case f.Kind != "Manager":
		return fault("E_VERSION", "kind", fmt.Sprintf("%q is not Manager", f.Kind), "use Manager")
	case f.Metadata.Name == "":
		return fault("E_FIELD_MISSING", "metadata.name", "it is missing", "add it")
	case s.Listen == "":
		return fault("E_FIELD_MISSING", "spec.listen", "it is missing", "add it")
	case (s.Store.Dir == "") == (len(s.Store.Endpoints) == 0):
		return fault("E_VALUE", "spec.store", "it must be here or elsewhere", "give either dir and listen, or endpoints")
	case s.Store.Dir != "" && s.Store.Listen == "":
		return fault("E_FIELD_MISSING", "spec.store.listen", "it is missing", "say where agents reach the store")
	case s.Keep.negative():
		return fault("E_VALUE", "spec.keep", "it is negative", "use whole numbers, or leave it out")
	case s.Store.Dir == "" && s.Store.Listen != "":
		return fault("E_VALUE", "spec.store.listen", "the store is elsewhere", "leave it out")
	}
	if err := f.Spec.Capacity.check(); err != nil {
		return File{}, fmt.Errorf("%s: spec.capacity: %w", path, err)
	}
	for _, p := range []*string{&f.Spec.Certificates, &f.Spec.Store.Dir, &f.Spec.Capacity.History} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return f, nil
}

// Daemon is a manager with the store its configuration names: what `bladeflow manager`
// runs.
type Daemon struct {
	*Manager
	server  *store.Server // nil if the store is elsewhere
	closers []func()
}

// Open starts or reaches the store and makes the manager.
func Open(ctx context.Context, f File, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{}
	if err := d.open(ctx, f, log); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context, f File, log *slog.Logger) error {
	c := Config{Name: f.Metadata.Name, Listen: f.Spec.Listen, Keep: f.Spec.Keep, Capacity: f.Spec.Capacity, Log: log}
	dir, endpoints := f.Spec.Certificates, f.Spec.Store.Endpoints
	var err error
	if dir != "" {
		if c.TLS, err = pki.ServerTLS(pki.FilesOf(dir, pki.ServerName)); err != nil {
			return err
		}
	}
	if f.Spec.Store.Dir != "" {
		sc := store.ServerConfig{Dir: f.Spec.Store.Dir, Listen: f.Spec.Store.Listen, Log: log}
		if dir != "" {
			files := pki.FilesOf(dir, pki.ServerName)
			sc.TLS = &store.ServerTLS{CA: files.CA, Cert: files.Cert, Key: files.Key, PeerName: pki.ServerName}
		}
		if d.server, err = store.Start(ctx, sc); err != nil {
			return err
		}
		d.closers = append(d.closers, d.server.Stop)
		endpoints = []string{near(d.server.Endpoint())}
	}
	root, err := d.dial(ctx, dir, pki.RootName, endpoints)
	switch {
	case err == nil && dir != "":
		if err := root.Enforce(ctx); err != nil {
			return err
		}
		c.Admit, c.Expel = root.Admit, root.Expel
		if d.server == nil {
			c.Compact = root.Compact
		}
	case dir != "" && (d.server != nil || !errors.Is(err, fs.ErrNotExist)):
		return err // nobody else gives rights in our own store
	}
	client, err := d.dial(ctx, dir, pki.ManagerName, endpoints)
	if err != nil {
		return err
	}
	c.Store = client
	if file := f.Spec.Capacity.History; file != "" {
		if c.History, err = history.Open(file); err != nil {
			return err
		}
		d.closers = append(d.closers, func() { _ = c.History.Close() })
	}
	d.Manager, err = New(c)
	return err
}

// near is how to reach an endpoint of this machine from this machine: by loopback, which
// certificates name, if it listens on all addresses.
func near(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return endpoint
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsUnspecified() {
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	}
	return u.String()
}

// dial reaches the store as the holder of a certificate, or as nobody if there are
// none.
func (d *Daemon) dial(ctx context.Context, dir, name string, endpoints []string) (*store.Client, error) {
	c := store.DialConfig{Endpoints: endpoints}
	if dir != "" {
		var err error
		if c.TLS, err = pki.ClientTLS(pki.FilesOf(dir, name)); err != nil {
			return nil, err
		}
	}
	client, err := store.Dial(ctx, c)
	if err == nil {
		d.closers = append(d.closers, func() { _ = client.Close() })
	}
	return client, err
}

// Endpoint is where agents reach the store in this process; empty if it is elsewhere.
func (d *Daemon) Endpoint() string {
	if d.server == nil {
		return ""
	}
	return d.server.Endpoint()
}

// Close ends what Open started, after Run.
func (d *Daemon) Close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
	d.closers = nil
}
