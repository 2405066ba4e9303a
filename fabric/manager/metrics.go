package manager

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bladeflow/bladeflow/fabric/capacity"
)

// What the fabric has left and when it runs out, as Prometheus metrics at /metrics, for whom
// the API answers: a scraper has a viewer's certificate. They are the capacity report's figures
// of the fleet and its chassis; more scopes would be more series than anybody alerts on, and
// are in the report. A report with forecasts takes seconds where there are many chassis, and
// days of history move slowly, so one is kept for a minute.

const (
	overviewAge     = time.Minute
	overviewHorizon = 365 // days
	overviewWindow  = 90
)

// gauges shows a manager to Prometheus.
type gauges struct {
	manager *Manager

	leading, blades, failed, usable, allocated, remaining, exhaustion *prometheus.Desc

	mu  sync.Mutex         // held while a report is made: who asks meanwhile waits for it
	doc *capacity.Document // guarded by mu; nil before the first
	at  time.Time          // guarded by mu; of doc
	err error              // guarded by mu; why there is no newer one
}

func newGauges(m *Manager) *gauges {
	of := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	figure := func(name, help string, more ...string) *prometheus.Desc {
		return of(name, help, append([]string{"level", "scope", "dimension", "unit"}, more...)...)
	}
	return &gauges{
		manager:    m,
		leading:    of("bladeflow_manager_leading", "1 for the manager that tells blades what is wanted; 0 for the others."),
		blades:     of("bladeflow_blades", "Blades by how far they are.", "state"),
		failed:     of("bladeflow_capacity_report_failed", "1 if the capacity report could not be made; its metrics are absent then."),
		usable:     figure("bladeflow_capacity_usable", "What is there without faulty parts, reserve and buffer, as in the capacity report; absent if it is not known."),
		allocated:  figure("bladeflow_capacity_allocated", "What profiles were given; absent if the dimension has no allocation."),
		remaining:  figure("bladeflow_capacity_remaining", "What is left, by allocation or by demand, whichever is less; absent if it is not known."),
		exhaustion: figure("bladeflow_capacity_exhaustion_seconds", "Time until demand reaches what is usable: 5, 50 and 95 % of simulated futures have by then; +Inf if not within a year; absent without enough evidence.", "quantile"),
	}
}

// Describe implements [prometheus.Collector].
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.leading, g.blades, g.failed, g.usable, g.allocated, g.remaining, g.exhaustion} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	emit := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	emit(g.leading, truth(g.manager.Leading()))
	ctx, cancel := context.WithTimeout(context.Background(), overviewAge)
	defer cancel()
	v, err := g.manager.view(ctx, 0)
	if err != nil {
		emit(g.failed, 1)
		return
	}
	count := map[string]int{"unseen": 0, "silent": 0, "held": 0, "moving": 0, "settled": 0}
	for _, b := range g.manager.blades(v, filter{}) {
		count[b.Status.State]++
	}
	for state, n := range count {
		emit(g.blades, float64(n), state)
	}
	doc, err := g.overview(ctx, v)
	emit(g.failed, truth(err != nil))
	if err != nil {
		return
	}
	for i := range doc.Status.Scopes {
		s := &doc.Status.Scopes[i]
		for j := range s.Figures {
			f := &s.Figures[j]
			labels := []string{string(s.Level), s.Name, string(f.Dimension), f.Unit}
			for _, a := range []struct {
				desc   *prometheus.Desc
				amount *int64
			}{{g.usable, f.Usable}, {g.allocated, f.Allocated}, {g.remaining, f.Remaining}} {
				if a.amount != nil {
					emit(a.desc, float64(*a.amount), labels...)
				}
			}
			if f.Forecast == nil || f.Forecast.Exhaustion == nil {
				continue
			}
			x := f.Forecast.Exhaustion
			for quantile, date := range map[string]capacity.Date{"0.05": x.Early, "0.5": x.Middle, "0.95": x.Late} {
				emit(g.exhaustion, until(date, g.manager.now()), append(labels, quantile)...)
			}
		}
	}
}

// overview returns a report that is not older than overviewAge.
func (g *gauges) overview(ctx context.Context, v *view) (*capacity.Document, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.manager.now()
	if age := now.Sub(g.at); !g.at.IsZero() && age >= 0 && age < overviewAge {
		return g.doc, g.err
	}
	g.at = now
	var in capacity.Input
	if in, g.err = g.manager.capacityInput(ctx, v, overviewWindow); g.err == nil {
		in.Horizon = overviewHorizon
		g.doc, g.err = capacity.Overview(in)
	}
	return g.doc, g.err
}

// until is the seconds from now to the start of a day, UTC, which may have begun.
func until(d capacity.Date, now time.Time) float64 {
	at, err := time.Parse(time.DateOnly, string(d))
	if err != nil { // capacity.Never
		return math.Inf(1)
	}
	return max(0, at.Sub(now).Seconds())
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metrics serves /metrics.
func (m *Manager) metrics(mux *http.ServeMux) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newGauges(m), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}
