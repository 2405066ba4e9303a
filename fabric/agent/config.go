package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// File is the agent's configuration, as read from a file. Example has one with every
// field.
type File struct {
	Blade    string     // metadata.name
	Rules    []string   // rule files; all of them together make the table. Empty iff Store is there
	Store    *StoreSpec // what is wanted comes from there, and what is seen goes there
	Root     string     // where the inventory is read; "/"
	Ports    []PortMap  // in the order of their numbers; empty takes them from the inventory
	Fail     Fail       // of ports that say nothing else
	Cache    CacheSpec  // valid iff Datapath is afxdp
	Uplink   string     // name of a port; empty if the blade has none
	Stations []StationSpec
	Softnic  string        // pin directory of the emulated card; empty if NIC says which card it is, or there is none
	NIC      string        // name or PCI address of a function of a real card
	Model    string        // name or file of its device model; empty takes the driver's
	NumVFs   int           // VFs that NIC is to have; 0 leaves them as they are
	ESwitch  string        // mode that its eSwitch is to be in; empty leaves it as it is
	VFs      []VFParts     // what the emulated card's VFs are made of; others than these are left alone
	Datapath string        // afxdp or afpacket
	Interval time.Duration // between reconciliations
	Metrics  string        // address of /metrics and /status; empty serves neither
	Changes  string        // strict or fast, see [Config.Fast]
	PerRule  bool          // two series for each rule
	Status   string        // file; empty writes none

	Observe   string // socket of those who look on, by [Observe]; empty has none
	Observers string // group of the machine that may, too; empty is nobody but this user
}

// StoreSpec says where the fabric's store is and who the blade is there.
type StoreSpec struct {
	Endpoints    []string // URLs of all members
	Certificates string   // directory with ca.crt, NAME.crt and NAME.key, as `bladeflow pki init` makes them; empty without TLS
	Name         string   // of the certificate; the blade's if empty
	Keep         string   // file for the last generation
}

// PortMap says which netdev is a port's representor.
type PortMap struct {
	Name, Netdev string
	Fail         Fail // empty is that of the [File]
}

// Fail says what a port's unknown flows get while no agent listens: closed, which drops
// them, or kernel, which gives them to the blade's kernel.
type Fail string

// CacheSpec says how software caches flows.
type CacheSpec struct {
	Pins    string // directory on a bpffs, where programs, maps and links outlive the agent; empty pins nothing
	Flows   int    // that fit, a power of two
	Upcalls int    // frames of unknown flows that a port may send to software in a second; 0 is any number
}

// upcalls is CacheSpec.Upcalls if the file does not say otherwise: half of what one of this
// program's workers forwards in a second on an old CPU.
const upcalls = 250_000

// VFParts says what an emulated VF is made of: the ends of the cable between a workload
// and the card.
type VFParts struct {
	Port           string
	Workload, Card NetdevIn
}

// NetdevIn is a netdev in a network namespace with a name, as `ip netns` shows it.
type NetdevIn struct{ Netns, Netdev string }

// StationSpec is a station of the static switch, its port by name.
type StationSpec struct {
	VLAN uint16
	MAC  uint64
	Port string
}

// Example is a configuration with every field, as the documentation shows it.
const Example = `apiVersion: bladeflow/v1
kind: Agent
metadata: {name: blade1}
spec:
  rules: [rules.yaml]              # seen from this file's folder; .flows files are one rule a line.
                                   # A blade of a fabric has, instead of rules, uplink and stations:
  # store:
  #   endpoints: [https://10.0.0.1:2379]   # of all members; the agent calls, nobody calls it
  #   certificates: /etc/bladeflow/pki     # ca.crt, blade1.crt and blade1.key
  #   name: blade1                         # of the certificate, if it is not the blade's
  #   keep: /var/lib/bladeflow/generation.json   # the last generation: to start without the store, and never to go back.
  #                                        # Beside it: generation.counters, so that none decreases, generation.journal and generation.learned
  root: /                          # where the inventory is read; a recorded tree works too
  ports:                           # in the order of their numbers; left out, they come from the inventory
    - {name: nic0/pf0, netdev: uprep}
    - {name: nic0/pf0/vf0, netdev: rep0, fail: kernel}   # fail is spec.fail's, if nothing is said
  uplink: nic0/pf0
  stations:                        # what normal delivers by
    - {port: vf0, mac: "02:00:00:00:00:01"}
    - {port: vf0, mac: "02:00:00:00:00:01", vlan: 7}
  device: {softnic: /run/bladeflow/bpf/blade1}   # left out, everything runs in software. An emulated
                                   # card may have  vfs: [{port: vf0, workload: NETNS/eth0, card: NETNS/v0}]
                                   # for a fabric to set up; a real card's VFs need no words. A real card is named by a
                                   # function, {nic: "0000:03:00.0"} or {nic: nic0/pf0}, whose eSwitch is in switchdev mode;
                                   # model: NAME, or a file, is its device model if it is not the driver's;
                                   # numvfs: 8 and eswitch: switchdev have the agent see to it that it has so many VFs and is
                                   # in that mode, also after a reboot or a reload of its driver, unless somebody uses a VF
  datapath: afxdp                  # or afpacket
  cache:                           # of flows, in the kernel; afxdp has one in any case, afpacket none (pins: of an agent before are taken off)
    pins: /run/bladeflow/bpf/blade1-flows  # on a bpffs (mount -t bpf bpf /run/bladeflow/bpf): it answers while no agent runs;
                                   # left out, the cache ends with the agent and the blade's kernel gets all frames
    flows: 32768                   # that fit: a power of two up to 262144, 128 bytes each
    upcalls: 250000                # frames of unknown flows a second that a port may send up to software; 0 is any number
  fail: closed                     # what unknown flows get while no agent listens; or kernel: the blade's kernel gets them
  changes: strict                  # a change has one instant, before which all packets are judged by the table before; fast: entries of rules
                                   # of which only actions change stay in the card until software has changed, and for a moment the card
                                   # judges their packets by the table before and software by the new one
  interval: 2s                     # devices are read and proved every 10s at least
  metrics: 127.0.0.1:9464          # /metrics and /status; "" serves neither
  rule_metrics: false              # some more series for each rule
  status: /run/bladeflow/status.json   # counters and journal are beside it, if there is no store
  observe:                         # whom bladeflow observe can show what becomes of packets: root, and
    socket: /run/bladeflow/status.observe   # beside the counters, if it is left out; "" has none
    group: viewers                 # a group of this machine; left out, nobody else
`

// ReadFile reads a configuration file.
func ReadFile(path string) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, &flow.Fault{Code: "E_CONFIG_FILE", What: path, Why: err.Error(), Remedy: "name a file that is there and readable", Err: err}
	}
	return ParseFile(path, data)
}

// ParseFile reads a configuration strictly: the first thing that is not right is a
// *[flow.Fault] with line and column.
func ParseFile(path string, data []byte) (File, error) {
	f := File{Root: "/", Datapath: "afxdp", Fail: "closed", Changes: "strict", Cache: CacheSpec{Flows: flowcache.DefaultFlows, Upcalls: upcalls}, Interval: 2 * time.Second, Metrics: "127.0.0.1:9464"}
	r := reader{file: path}
	top := r.document(data)
	r.fields(top, fields{
		"apiVersion": {required, func(v value) { v.oneOf("bladeflow/v1") }},
		"kind":       {required, func(v value) { v.oneOf("Agent") }},
		"metadata":   {required, func(v value) { r.fields(v, fields{"name": {required, func(v value) { f.Blade = v.text() }}}) }},
		"spec":       {required, func(v value) { f.spec(&r, v, filepath.Dir(path)) }},
	})
	if r.err != nil {
		return File{}, r.err
	}
	return f, nil
}

func (f *File) spec(r *reader, v value, dir string) {
	inDir := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	named := false   // the socket
	answers := false // something is said of a flow cache that answers
	r.fields(v, fields{
		"store": {optional, func(v value) { f.store(r, v, inDir) }},
		"rules": {optional, func(v value) { v.list(func(v value) { f.Rules = append(f.Rules, inDir(v.text())) }) }},
		"root":  {optional, func(v value) { f.Root = inDir(v.text()) }},
		"ports": {optional, func(v value) {
			v.list(func(v value) {
				var p PortMap
				r.fields(v, fields{
					"name":   {required, func(v value) { p.Name = v.text() }},
					"netdev": {required, func(v value) { p.Netdev = v.text() }},
					"fail":   {optional, func(v value) { p.Fail, answers = failOf(v), true }},
				})
				if slices.ContainsFunc(f.Ports, func(o PortMap) bool { return o.Name == p.Name || o.Netdev == p.Netdev }) {
					v.fault("E_PORT_TWICE", "a port before it has the same name or netdev", "name each port and netdev once")
				}
				f.Ports = append(f.Ports, p)
			})
		}},
		"uplink": {optional, func(v value) { f.Uplink = v.text() }},
		"stations": {optional, func(v value) {
			v.list(func(v value) {
				var s StationSpec
				r.fields(v, fields{
					"port": {required, func(v value) { s.Port = v.text() }},
					"mac": {required, func(v value) {
						mac, err := flow.ParseMAC(v.text())
						if err != nil {
							v.fault("E_MAC", "not a MAC address", "write it as \"aa:bb:cc:dd:ee:ff\"")
						}
						s.MAC = mac
					}},
					"vlan": {optional, func(v value) {
						n, err := strconv.ParseUint(v.text(), 10, 16)
						if err != nil || n > flow.TagID {
							v.fault("E_VLAN", "not a VLAN id", "use 0 (untagged) to 4095")
						}
						s.VLAN = uint16(n)
					}},
				})
				f.Stations = append(f.Stations, s)
			})
		}},
		"device": {optional, func(v value) {
			r.fields(v, fields{
				"softnic": {optional, func(v value) { f.Softnic = inDir(v.text()) }},
				"nic":     {optional, func(v value) { f.NIC = v.text() }},
				"model": {optional, func(v value) {
					if f.Model = v.text(); strings.ContainsAny(f.Model, "./") {
						f.Model = inDir(f.Model)
					}
				}},
				"numvfs":  {optional, func(v value) { f.NumVFs = v.number(1 << 16) }},
				"eswitch": {optional, func(v value) { f.ESwitch = v.oneOf("switchdev", "legacy") }},
				"vfs":     {optional, func(v value) { v.list(func(v value) { f.VFs = append(f.VFs, parts(r, v)) }) }},
			})
			switch {
			case r.err != nil:
			case f.Softnic == "" && f.NIC == "":
				v.fault("E_FIELD_MISSING", "neither softnic nor nic says which card it is", "add one")
			case f.Softnic != "" && (f.NIC != "" || f.Model != "" || f.NumVFs > 0 || f.ESwitch != ""), f.NIC != "" && len(f.VFs) > 0:
				v.fault("E_FIELD_CLASH", "an emulated card has vfs, and a real one nic, model, numvfs and eswitch", "leave out what is the other's")
			}
		}},
		"datapath": {optional, func(v value) { f.Datapath = v.oneOf("afxdp", "afpacket") }},
		"fail":     {optional, func(v value) { f.Fail, answers = failOf(v), true }},
		"cache": {optional, func(v value) {
			r.fields(v, fields{
				"pins":    {optional, func(v value) { f.Cache.Pins = inDir(v.text()) }},
				"flows":   {optional, func(v value) { f.Cache.Flows, answers = v.number(flowcache.MaxFlows), true }},
				"upcalls": {optional, func(v value) { f.Cache.Upcalls, answers = v.number(1e9), true }},
			})
		}},
		"changes": {optional, func(v value) { f.Changes = v.oneOf("strict", "fast") }},
		"interval": {optional, func(v value) {
			d, err := time.ParseDuration(v.text())
			if err != nil || d < 100*time.Millisecond || d > time.Hour {
				v.fault("E_INTERVAL", "not a time from 100ms to 1h", "write interval: 2s")
			}
			f.Interval = d
		}},
		"metrics":      {optional, func(v value) { f.Metrics = address(v) }},
		"rule_metrics": {optional, func(v value) { f.PerRule = v.oneOf("true", "false") == "true" }},
		"status":       {optional, func(v value) { f.Status = inDir(v.text()) }},
		"observe": {optional, func(v value) {
			r.fields(v, fields{
				"socket": {optional, func(v value) { f.Observe, named = inDir(v.text()), true }},
				"group":  {optional, func(v value) { f.Observers = v.text() }},
			})
		}},
	})
	if r.err != nil {
		return
	}
	if beside := f.state(); !named && beside != "" {
		f.Observe = beside + ".observe"
	}
	switch {
	case f.Cache.Flows < 4 || f.Cache.Flows&(f.Cache.Flows-1) != 0:
		v.fault("E_VALUE", fmt.Sprintf("cache: %d flows are not a power of two from 4 on", f.Cache.Flows), "write flows: 32768")
	case f.Datapath == "afpacket" && answers:
		v.fault("E_FIELD_CLASH", "nothing of datapath afpacket answers while no agent listens, so fail, cache.flows and cache.upcalls say nothing", "leave them out, or write datapath: afxdp")
	case f.Root != "/" && (f.NumVFs > 0 || f.ESwitch != ""):
		v.fault("E_FIELD_CLASH", "numvfs and eswitch change this machine's card, and root is a recorded tree", "leave them out, or root")
	case f.Store == nil && len(f.Rules) == 0:
		v.fault("E_FIELD_MISSING", "neither rules nor a store say what is wanted", "add rules or store")
	case f.Store != nil && (len(f.Rules) > 0 || f.Uplink != "" || len(f.Stations) > 0):
		v.fault("E_FIELD_CLASH", "rules, uplink and stations come from the store", "leave them out, or the store")
	}
}

func (f *File) store(r *reader, v value, inDir func(string) string) {
	f.Store = &StoreSpec{Name: f.Blade}
	r.fields(v, fields{
		"endpoints": {required, func(v value) {
			v.list(func(v value) {
				if u, err := url.Parse(v.text()); err != nil || !slices.Contains([]string{"https", "http", "unix", "unixs"}, u.Scheme) || u.Host+u.Path == "" {
					v.fault("E_ADDRESS", "not the URL of a store", "write https://HOST:PORT")
				}
				f.Store.Endpoints = append(f.Store.Endpoints, v.text())
			})
			if len(f.Store.Endpoints) == 0 {
				v.fault("E_VALUE", "it is empty", "name at least one member")
			}
		}},
		"certificates": {optional, func(v value) { f.Store.Certificates = inDir(v.text()) }},
		"name":         {optional, func(v value) { f.Store.Name = v.text() }},
		"keep":         {required, func(v value) { f.Store.Keep = inDir(v.text()) }},
	})
}

func failOf(v value) Fail { return Fail(v.oneOf("closed", "kernel")) }

// parts reads what an emulated VF is made of.
func parts(r *reader, v value) (p VFParts) {
	netdev := func(to *NetdevIn) func(value) {
		return func(v value) {
			space, name, ok := strings.Cut(v.text(), "/")
			if !ok || space == "" || name == "" {
				v.fault("E_NETDEV", "not a netdev in a namespace", "write NETNS/NETDEV")
			}
			*to = NetdevIn{space, name}
		}
	}
	r.fields(v, fields{
		"port":     {required, func(v value) { p.Port = v.text() }},
		"workload": {required, netdev(&p.Workload)},
		"card":     {required, netdev(&p.Card)},
	})
	return p
}

// address reads a listening address, which must be the machine's own as long as
// nothing authenticates who asks.
func address(v value) string {
	s := v.text()
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	_, badPort := strconv.ParseUint(port, 10, 16)
	if err != nil || badPort != nil {
		v.fault("E_ADDRESS", "not HOST:PORT", "write metrics: 127.0.0.1:9464")
		return ""
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		v.fault("E_ADDRESS", "not an address of this machine alone, and nothing here asks who is calling", "use 127.0.0.1 or [::1], and a proxy that authenticates")
	}
	return s
}

// Switch returns the static switch of the stations and the uplink.
func (f *File) Switch(ports *flow.Ports) (*flow.Switch, error) {
	find := func(what, name string) (flow.Port, error) {
		p, err := ports.Find(name)
		var fault *flow.Fault
		if errors.As(err, &fault) {
			g := *fault
			g.What = fmt.Sprintf("%s: %s", what, fault.What)
			return 0, &g
		}
		return p, err
	}
	var uplink flow.Port
	var err error
	if f.Uplink != "" {
		if uplink, err = find("spec.uplink", f.Uplink); err != nil {
			return nil, err
		}
	}
	var stations []flow.Station
	for i, s := range f.Stations {
		p, e := find(fmt.Sprintf("spec.stations[%d]", i), s.Port)
		err = cmp.Or(err, e)
		stations = append(stations, flow.Station{VLAN: s.VLAN, MAC: s.MAC, Port: p})
	}
	if err != nil {
		return nil, err
	}
	return flow.NewSwitch(uplink, stations...)
}
