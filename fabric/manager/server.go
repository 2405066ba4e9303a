package manager

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Handler serves the API, the page and /metrics. Who asks is known by the client's certificate,
// which TLS has verified; without TLS, which is on loopback only, everyone is admin.
func (m *Manager) Handler() http.Handler {
	mux := http.NewServeMux()
	m.routes(mux)
	mux.HandleFunc("GET /api/v1/watch", m.watch)
	m.page(mux)
	m.metrics(mux)
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := &flow.Fault{Code: "E_DENIED", What: r.Method + " " + r.URL.Path, Why: "a page from elsewhere asked a browser to do it", Remedy: "use this manager's own page", Err: store.ErrDenied}
		m.refused(actorOf(r.Context()), r.Method, r.URL.Path, err)
		writeProblem(w, err)
	}))
	guarded := foreign.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		who, err := m.authenticate(r)
		if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead && who.Role == string(pki.Viewer) {
			err = &flow.Fault{Code: "E_DENIED", What: r.Method + " " + r.URL.Path, Why: who.Name + " is viewer, and viewers change nothing", Remedy: "use an operator's certificate", Err: store.ErrDenied}
		}
		if err != nil {
			m.refused(who, r.Method, r.URL.Path, err)
			writeProblem(w, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		guarded.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, who)))
	})
}

// refused notes a denial. With the line of each change (change.go) these lines are the
// audit log; changes are in the store's history, too.
func (m *Manager) refused(who actor, method, path string, err error) {
	m.log.Warn("refused", "who", who.Name, "role", who.Role, "from", who.From, "method", method, "path", path, "error", err)
}

// serverLog is what net/http has to say: clients that TLS refused, and trouble of
// connections, which is nobody's fault.
type serverLog struct{ *slog.Logger }

// Write takes one line.
func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	rest, handshake := strings.CutPrefix(text, "http: TLS handshake error from ")
	from, why, _ := strings.Cut(rest, ": ")
	if handshake && (strings.HasPrefix(why, "tls: ") || strings.HasPrefix(why, "remote error: tls: ")) {
		l.Warn("refused", "from", from, "error", why)
	} else {
		l.Debug(text)
	}
	return len(line), nil
}

type actorKey struct{}

// actorOf returns who a request is from.
func actorOf(ctx context.Context) actor {
	who, _ := ctx.Value(actorKey{}).(actor)
	return who
}

// authenticate returns who asks.
func (m *Manager) authenticate(r *http.Request) (actor, error) {
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	if m.config.TLS == nil {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && (ip == nil || !ip.IsLoopback()) { // a foreign name that points here
			return actor{From: from}, &flow.Fault{Code: "E_DENIED", What: "host " + strconv.Quote(host), Why: "without TLS the manager answers to localhost only", Remedy: "use " + m.URL(), Err: store.ErrDenied}
		}
		return actor{"local", string(pki.Admin), from}, nil
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return actor{From: from}, &flow.Fault{Code: "E_DENIED", What: "client", Why: "it showed no certificate", Remedy: "use one of this fabric's CA", Err: store.ErrDenied}
	}
	cert := r.TLS.PeerCertificates[0]
	who := actor{Name: cert.Subject.CommonName, From: from}
	role, err := pki.RoleOf(cert)
	who.Role = string(role)
	if err == nil && !role.Person() {
		err = &flow.Fault{Code: "E_DENIED", What: "client " + who.Name, Why: "the API is for viewers, operators and admins, and it is " + who.Role, Remedy: "use a person's certificate", Err: store.ErrDenied}
	}
	return who, err
}

// problem is an error on the wire, after RFC 9457.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Code   string `json:"code"`
	What   string `json:"what"`
	Why    string `json:"why"`
	Remedy string `json:"remedy,omitempty"`
}

// newProblem is the one place that turns errors into HTTP statuses.
func newProblem(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	e := api.NewError(err)
	p := &problem{Code: e.Code, What: e.What, Why: e.Why, Remedy: e.Remedy, Status: http.StatusUnprocessableEntity}
	switch {
	case errors.Is(err, store.ErrNotFound), p.Code == "E_NOT_FOUND":
		p.Status = http.StatusNotFound
	case errors.Is(err, store.ErrConflict):
		p.Status = http.StatusConflict
	case errors.Is(err, store.ErrDenied) || p.Code == "E_PKI_ROLE":
		p.Status = http.StatusForbidden
	case errors.Is(err, store.ErrCompacted):
		p.Status = http.StatusGone
	case errors.Is(err, store.ErrTooLarge):
		p.Status = http.StatusRequestEntityTooLarge
	case errors.Is(err, store.ErrNoSpace):
		p.Status = http.StatusInsufficientStorage // it is there, and the same again would be refused again
	case errors.Is(err, store.ErrUnreachable), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		p.Status = http.StatusServiceUnavailable
	case p.Code == "E_INTERNAL":
		p.Status = http.StatusInternalServerError
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// Error returns what failed and why.
func (p *problem) Error() string { return p.What + ": " + p.Why }

// GetStatus is what huma asks.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is what huma asks.
func (p *problem) ContentType(string) string { return "application/problem+json" }

func writeProblem(w http.ResponseWriter, err error) {
	p := newProblem(err)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone if it fails
}
