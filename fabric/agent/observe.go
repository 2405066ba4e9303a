package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// Who looks on.
//
// A blade's frames are its tenants': they are shown on a socket of the file system that
// only the agent's own user can open, and a group of the machine if the configuration
// names one, and nowhere else. Who opens it can only look.
//
// What is shown is what happened, as far as each tier can say. Software shows one frame a
// line, with all of it. A device and the flow cache show one rule a line, with how many
// packets they have answered for it since they were read last: a device once a round, the
// cache once a second. Where a line tells of many packets it says so.
//
// Cost. Nobody looks: none. Somebody does: what a reader of [fallback.Datapath.Sample]
// costs, and 5 µs a line in a goroutine of its own, of which there are as many a second
// as were asked for. There are [maxObservers] readers at most.

// Look says what to observe. What is empty asks for all.
type Look struct {
	Ports    []string // by which packets came in
	Rules    []string // names: set/rule, or rule where only one set has it, or "-" for the default
	Verdicts []string // drop, normal, pass, output
	Tiers    []string // of [Tiers]
	Rate     int      // lines a second at most, on average; 0 is [DefaultRate]
	Frames   bool     // with the frames themselves
}

// Tiers returns the words of [Look.Tiers] and [Observed.Tier], in the order they answer.
func Tiers() []string { return []string{tierHardware, tierCache, tierSoftware} }

const tierHardware, tierCache, tierSoftware = "hardware", "cache", "software"

// How many lines a second are shown.
const (
	DefaultRate = 1000
	MaxRate     = 100_000
)

// FrameBytes is how much of a frame is shown.
const FrameBytes = fallback.SampleBytes

// maxObservers is how many may look at one time: each costs workers some time per frame.
const maxObservers = 4

// Observed is one line: what became of a packet, or of several that met one rule.
type Observed struct {
	Time       time.Time `json:"time"` // when it was judged; of a device or the cache, when that was read
	Tier       string    `json:"tier"`
	Port       string    `json:"port,omitempty"` // by which it came in, if it is known
	Rule       string    `json:"rule"`           // "-" is the default
	Verdict    string    `json:"verdict"`
	Generation uint64    `json:"generation"` // of the table
	Packets    uint64    `json:"packets"`
	Bytes      uint64    `json:"bytes"`
	Packet     string    `json:"packet,omitempty"`  // fields in text, of one packet
	Out        []string  `json:"out,omitempty"`     // ports that copies were sent to; kernel:PORT is the blade's kernel
	Skipped    uint64    `json:"skipped,omitempty"` // packets of this tier that were wanted and have no line, since its last one
	Frame      []byte    `json:"frame,omitempty"`   // as received, at most FrameBytes of it; only if asked for
	Length     int       `json:"length,omitempty"`  // of the frame; with Frame
}

// maxConnections is how many connections of the socket there are at one time, of those who
// look and of those who have not said yet what they want. More wait until one has gone.
const maxConnections = 4 * maxObservers

// window is the socket that those who look on come by.
type window struct {
	net.Listener
	looking atomic.Int32
	places  chan bool // has something for each connection that is open, or may be next
}

// Accept waits for a place, and then for who takes it.
func (w *window) Accept() (net.Conn, error) {
	w.places <- true
	c, err := w.Listener.Accept()
	if err != nil {
		<-w.places
		return nil, err
	}
	return &visit{Conn: c, leave: sync.OnceFunc(func() { <-w.places })}, nil
}

// visit is a connection that has a place.
type visit struct {
	net.Conn
	leave func()
}

// Close ends it and gives its place away.
func (v *visit) Close() error {
	defer v.leave()
	return v.Conn.Close()
}

// openWindow opens the socket of [File.Observe], if there is to be one. A blade that
// cannot be watched does its work all the same.
func (d *Daemon) openWindow() {
	if d.file.Observe == "" {
		return
	}
	l, err := listenAlone(d.file.Observe, d.file.Observers)
	if err != nil {
		d.log.Warn("nobody can observe this blade", "socket", d.file.Observe, "error", err)
		return
	}
	d.window = &window{Listener: l, places: make(chan bool, maxConnections)}
	d.closers = append(d.closers, l.Close)
}

// listenAlone listens on a socket that only this user and a group, if it has a name, can
// open, from its first moment on. The socket that a killed process has left there is removed.
func listenAlone(path, group string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, errors.New("another process listens there")
	} else if errors.Is(err, unix.ECONNREFUSED) { // no file but a socket is ours to remove
		if s, err := os.Lstat(path); err != nil {
			return nil, err
		} else if s.Mode().Type() != fs.ModeSocket {
			return nil, &flow.Fault{Code: "E_VALUE", What: "socket " + path, Why: "a file that is no socket is there", Remedy: "name another path in spec.observe.socket, or move the file away"}
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	alone := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	l, err := alone.Listen(context.Background(), "unix", path)
	if err != nil || group == "" {
		return l, err
	}
	if err := admit(path, group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// admit lets a group of the machine open a socket, too.
func admit(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return err
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %s: %w", group, err)
	}
	if err := os.Chown(path, -1, id); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// showing is what the socket serves.
func (d *Daemon) showing() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /observe", d.observe)
	return mux
}

// observer is one who looks on, at the other end of a connection.
type observer struct {
	Look
	daemon *Daemon
	want   fallback.Want

	mu    sync.Mutex // guards what follows
	to    *http.ResponseController
	lines *json.Encoder
	ahead int       // tiers that do not look yet
	next  time.Time // when the next line may be written
}

// observe writes lines until the other end goes or the agent ends.
func (d *Daemon) observe(w http.ResponseWriter, r *http.Request) {
	look, err := lookOf(r.URL.Query())
	o := &observer{Look: look, daemon: d, to: http.NewResponseController(w), lines: json.NewEncoder(w)}
	o.lines.SetEscapeHTML(false)
	if err == nil {
		err = o.resolve()
	}
	defer d.window.looking.Add(-1)
	if d.window.looking.Add(1) > maxObservers && err == nil {
		err = &flow.Fault{Code: "E_OBSERVERS", What: "observe", Why: fmt.Sprintf("%d look on already, and each costs the datapath some time", maxObservers), Remedy: "wait until one of them ends"}
	}
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = o.lines.Encode(api.NewError(err)) // fails only when the reader has gone
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	tiers := map[string]func(context.Context) error{tierSoftware: o.software, tierCache: o.cache, tierHardware: o.hardware}
	maps.DeleteFunc(tiers, func(tier string, _ func(context.Context) error) bool {
		return len(o.Tiers) > 0 && !slices.Contains(o.Tiers, tier)
	})
	o.ahead = len(tiers)
	var parts sync.WaitGroup
	for _, show := range tiers {
		parts.Go(func() {
			defer cancel()
			if err := show(ctx); err != nil && ctx.Err() == nil {
				d.log.Debug("an observer has gone", "error", err)
			}
		})
	}
	parts.Wait()
}

// resolve finds the ports and rules that were named in the table in force.
func (o *observer) resolve() error {
	for _, words := range []struct {
		what         string
		given, known []string
	}{{"tier", o.Tiers, Tiers()}, {"verdict", o.Verdicts, Verdicts()}} {
		for _, w := range words.given {
			if !slices.Contains(words.known, w) {
				return &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("%s %q", words.what, w), Why: "there is none of this name", Remedy: flow.Suggest(w, words.known...)}
			}
		}
	}
	for _, w := range o.Verdicts {
		o.want.Verdicts = append(o.want.Verdicts, flow.Op(slices.Index(Verdicts(), w)))
	}
	for _, name := range o.Ports {
		port, err := o.daemon.ports.Find(name)
		if err != nil {
			return err
		}
		o.want.Ports = append(o.want.Ports, port)
	}
	for _, name := range o.Rules {
		id, err := ruleNamed(o.daemon.datapath.Table(), name)
		if err != nil {
			return err
		}
		o.want.Rules = append(o.want.Rules, id)
	}
	return nil
}

// Verdicts returns the words of [Look.Verdicts] and [Observed.Verdict]: the names of the
// terminal actions, by their number.
func Verdicts() (words []string) {
	for op := flow.Op(0); op.Terminal(); op++ {
		words = append(words, op.String())
	}
	return words
}

// ruleNamed finds a rule by its name, or by the part behind its set's if that is enough.
func ruleNamed(t *flow.Table, name string) (flow.RuleID, error) {
	fault := &flow.Fault{Code: "E_NOT_FOUND", What: "rule " + name, Why: "the table in force has no such rule", Remedy: "see the rules: /status, or bladeflow get rules"}
	if t == nil {
		fault.Why, fault.Remedy = "no table is in force yet", "wait until the blade has one"
		return 0, fault
	}
	var found []string
	var id flow.RuleID
	for i := range t.Len() + 1 {
		r := t.Rule(i)
		if r.Name == name {
			return r.ID, nil
		}
		if _, last, _ := strings.Cut(r.Name, "/"); last == name {
			found, id = append(found, r.Name), r.ID
		}
	}
	if len(found) > 1 {
		fault.Why, fault.Remedy = "several sets have a rule of this name", "use one of "+strings.Join(found, ", ")
	}
	if len(found) != 1 {
		return 0, fault
	}
	return id, nil
}
