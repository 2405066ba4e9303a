package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/softnic"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// Daemon is an agent with everything its configuration names: what
// `bladeflow agent` runs.
type Daemon struct {
	file     File
	log      *slog.Logger
	agent    *Agent
	fabric   *Fabric // nil if rules come from files
	datapath *fallback.Datapath
	links    *links
	cache    *flowcache.Cache // nil without one
	listener net.Listener     // nil if nothing is served
	window   *window          // nil if nobody can look on
	shaper   *shaper          // nil if cards are taken as they are
	ports    *flow.Ports
	closers  []func() error
}

// Open opens what a configuration names, and reads the rules: an agent without a
// table to run would take every packet and drop it. (A blade of a fabric does, until it
// is told its first generation: it is closed.) Nothing is changed on the devices
// before Run. The calling thread must be in the blade's network namespace.
func Open(f File, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{file: f, log: log}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Daemon) open() error {
	inv, err := d.inventory()
	if err == nil {
		inv, err = d.shape(inv)
	}
	if err != nil {
		return err
	}
	maps := d.file.Ports
	if len(maps) == 0 {
		if maps, err = portMaps(inv); err != nil {
			return err
		}
	}
	ports := flow.NewPorts()
	for _, m := range maps {
		ports.Declare(m.Name)
	}
	d.ports = ports
	config := Config{Check: new(verify.Prover).Check, Interval: d.file.Interval, Fast: d.file.Changes == "fast", Log: d.log, State: d.file.state()}
	if err := d.source(&config, inv, maps, ports); err != nil {
		return err
	}
	if d.file.Softnic != "" {
		nic, err := softnic.Open(d.file.Softnic)
		if err != nil {
			return err
		}
		d.closers = append(d.closers, nic.Close)
		if err := nic.Claim(); err != nil {
			return err
		}
		for _, p := range nic.Ports() {
			if int(p.Port) > ports.Len() {
				return &flow.Fault{Code: "E_PORTS", What: "card " + nic.Name(), Why: fmt.Sprintf("it has a port %d, and the configuration only %d ports", p.Port, ports.Len()),
					Remedy: "name all ports in spec.ports, in the card's order"}
			}
		}
		config.Devices = []Device{{Name: nic.Name(), Driver: nic, PFs: functions(inv, nic.Ports(), ports)}}
		config.Devices[0].Card = identity(inv, &config.Devices[0])
	}
	if d.file.Metrics != "" {
		if d.listener, err = net.Listen("tcp", d.file.Metrics); err != nil {
			return &flow.Fault{Code: "E_LISTEN", What: "spec.metrics " + d.file.Metrics, Why: err.Error(), Remedy: "use a free port", Err: err}
		}
		d.closers = append(d.closers, d.listener.Close)
	}
	if err := d.openLinks(maps); err != nil {
		return err
	}
	if d.datapath, err = fallback.New(fallback.Config{Queues: d.links.queues(), Kernel: &d.links.kernel, Cache: d.cache}); err != nil {
		return err
	}
	if d.file.NIC != "" {
		nic, err := d.openNIC(inv)
		if err != nil {
			return err
		}
		config.Devices = []Device{nic}
	}
	samples := d.datapath.Sample(fallback.Want{})
	d.closers = append(d.closers, func() error { samples.Close(); return nil })
	config.Datapath, config.Links, config.Samples = d.datapath, d.links.status, samples
	if d.cache != nil {
		config.Busiest = d.datapath.Busiest
		config.Forget = d.datapath.Forget
		config.Cache = &CacheStatus{Pins: d.file.Cache.Pins, Limit: d.file.Cache.Flows}
	}
	d.agent = New(config)
	d.openWindow()
	return nil
}

// source decides where what is wanted comes from.
func (d *Daemon) source(config *Config, inv fabric.Inventory, maps []PortMap, ports *flow.Ports) error {
	if d.file.Store != nil {
		return d.join(config, inv, maps, ports)
	}
	sw, err := d.file.Switch(ports)
	if err != nil {
		return err
	}
	last, digest := LastGeneration(d.file.Status)
	source := NewFiles(d.file.Rules, ports, sw, last, digest)
	config.Source = source
	_, err = source.Wanted()
	return err
}

// join makes the blade one of a fabric. The certificate is looked at now: a store that
// is away comes back, a wrong certificate does not mend itself.
func (d *Daemon) join(config *Config, inv fabric.Inventory, maps []PortMap, ports *flow.Ports) error {
	spec := d.file.Store
	dial := store.DialConfig{Endpoints: spec.Endpoints}
	if spec.Certificates != "" {
		var err error
		if dial.TLS, err = pki.ClientTLS(pki.FilesOf(spec.Certificates, spec.Name)); err != nil {
			return err
		}
	}
	var err error
	d.fabric, err = NewFabric(FabricConfig{Blade: d.file.Blade, Ports: ports, Keep: spec.Keep, Log: d.log, Inventory: d.discover, Counters: d.counters,
		Dial: func(ctx context.Context) (store.Store, error) { return store.Dial(ctx, dial) }})
	if err != nil {
		return err
	}
	config.Source, config.Wake, config.Report = d.fabric, d.fabric.Wake(), d.fabric.Report
	config.Blade = fabric.BladeID(d.file.Blade)
	if d.file.Softnic != "" {
		if len(d.file.VFs) > 0 {
			config.VFs, err = d.emulated(inv, maps, ports)
		} else {
			d.log.Warn("the VFs of the emulated card are left alone: spec.device.vfs does not say what they are made of")
		}
		return err
	}
	links, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	d.closers = append(d.closers, func() error { links.Close(); return nil })
	home, err := netns.Get()
	if err != nil {
		return err
	}
	d.closers = append(d.closers, home.Close)
	config.VFs = &homed{&provision.Netlink{Blade: config.Blade, Links: links, Inventory: d.glance}, home}
	return nil
}

// functions returns the names of the PFs among a card's ports.
func functions(inv fabric.Inventory, card []softnic.Port, ports *flow.Ports) []string {
	var out []string
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			if slices.ContainsFunc(card, func(p softnic.Port) bool { return ports.Name(p.Port) == pf.Name }) {
				out = append(out, pf.Name)
			}
		}
	}
	return out
}

// identity returns which card a device is: what its first PF is part of.
func identity(inv fabric.Inventory, d *Device) device.Card {
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			if slices.Contains(d.PFs, pf.Name) {
				return device.Card{NIC: strings.TrimSpace(n.Slot + " " + n.Serial), Driver: cmp.Or(pf.Driver, "softnic"), Firmware: pf.Firmware}
			}
		}
	}
	return device.Card{NIC: d.Name, Driver: "softnic"}
}

// inventory reads what the blade has. What is odd about it is logged and stops
// nothing.
func (d *Daemon) inventory() (fabric.Inventory, error) {
	inv, findings, err := d.discover()
	for _, f := range findings {
		d.log.Warn("inventory", "code", f.Code, "object", f.Object, "text", f.Text)
	}
	return inv, err
}

func (d *Daemon) discover() (fabric.Inventory, []fabric.Finding, error) {
	if d.file.Root == "/" {
		return discover.Live()
	}
	return discover.Read(d.file.Root)
}

// glance is discover for whoever asks again and again, and looks at no findings.
func (d *Daemon) glance() (fabric.Inventory, error) {
	if d.file.Root == "/" {
		return discover.Glance()
	}
	inv, _, err := discover.Read(d.file.Root)
	return inv, err
}

// counters reads what has passed the blade's functions, as they are now.
func (d *Daemon) counters() []discover.Counter {
	inv, _, err := discover.Read(d.file.Root)
	if err != nil {
		return nil // who reads the inventory says so
	}
	return discover.Counters(d.file.Root, inv)
}

// portMaps returns the ports of an inventory whose every port software can see.
func portMaps(inv fabric.Inventory) ([]PortMap, error) {
	var maps []PortMap
	for _, name := range inv.PortNames() {
		dev, ok := inv.Representor(name)
		if !ok {
			return nil, &flow.Fault{Code: "E_NO_REPRESENTOR", What: "port " + name, Why: "the inventory has no representor for it, so software cannot hold the table for it",
				Remedy: "set the card's eSwitch to switchdev mode, or name the ports that count in spec.ports"}
		}
		maps = append(maps, PortMap{Name: name, Netdev: dev.Name})
	}
	if len(maps) == 0 {
		return nil, &flow.Fault{Code: "E_NO_PORTS", What: "inventory", Why: "this blade has no NIC that bladeflow knows", Remedy: "name ports and netdevs in spec.ports"}
	}
	return maps, nil
}

// Agent returns the agent that the daemon runs.
func (d *Daemon) Agent() *Agent { return d.agent }

// Address returns where /metrics, /status and /inventory are served, "" if nowhere.
func (d *Daemon) Address() string {
	if d.listener == nil {
		return ""
	}
	return d.listener.Addr().String()
}

// Run runs agent, datapath and server until ctx ends, which is no error, or one of
// them dies.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := []func() error{
		func() error { return d.datapath.Run(ctx) },
		func() error { return d.links.run(ctx) },
		func() error { return d.agent.Run(ctx) },
		func() error { return d.writeStatus(ctx) },
	}
	if d.fabric != nil {
		parts = append(parts, func() error { return d.fabric.Run(ctx) })
	}
	if d.shaper != nil {
		parts = append(parts, func() error { return d.shaper.run(ctx, d.agent) })
	}
	if d.listener != nil {
		parts = append(parts, func() error { return d.serve(ctx, d.listener, d.Handler()) })
	}
	if d.window != nil {
		parts = append(parts, func() error { return d.serve(ctx, d.window, d.showing()) })
	}
	d.log.Info("agent runs", "blade", d.file.Blade, "address", d.Address(), "devices", len(d.agent.devices))
	ended := make(chan error)
	for _, part := range parts {
		go func() { ended <- part() }()
	}
	var err error
	for range parts {
		err = errors.Join(err, <-ended)
		cancel()
	}
	return err
}

// writeStatus keeps the status file, if there is to be one.
func (d *Daemon) writeStatus(ctx context.Context) error {
	var written *Status
	failing := false
	tick := time.NewTicker(min(poll, d.file.Interval))
	defer tick.Stop()
	for {
		if s := d.agent.Status(); d.file.Status != "" && s != written && !s.Reconciled.IsZero() {
			err := WriteObject(d.file.Status, NewObject(d.file.Blade, s))
			if err != nil && !failing { // once: the words differ each time
				d.log.Error("cannot write the status file", "error", err)
			}
			failing, written = err != nil, s
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// A connection ends on which nothing is asked for maxIdle, or of whose answer nothing is
// read for maxStall; a look is an answer for each line.
const (
	maxIdle  = 30 * time.Second
	maxStall = time.Minute
)

// serve answers until ctx ends.
func (d *Daemon) serve(ctx context.Context, on net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: maxIdle, WriteTimeout: maxStall, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(on); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", on.Addr(), err)
	}
	return nil
}

// Handler serves /metrics, /status and /inventory.
func (d *Daemon) Handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(d.agent.Status, d.file.PerRule), NewPassed(d.counters), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, NewObject(d.file.Blade, d.agent.Status()))
	})
	mux.HandleFunc("GET /inventory", func(w http.ResponseWriter, _ *http.Request) {
		inv, findings, err := d.discover()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, discover.NewObject(d.file.Blade, inv, findings))
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v) // fails only when the reader has gone
}

// Close lets go of everything, in the reverse order of opening. Devices keep their
// entries. Run must have returned.
func (d *Daemon) Close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		if err := d.closers[i](); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	d.closers = nil
	return errors.Join(errs...)
}
