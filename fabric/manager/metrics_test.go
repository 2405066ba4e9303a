package manager

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestMetrics: after 100 days of growing demand a scrape says of the fleet and its chassis what
// the report says, and of nothing else; the same minute's next scrape makes no new report.
func TestMetrics(t *testing.T) {
	h := openHistory(t)
	var passed atomic.Int64 // since noon
	now := func() time.Time { return noon.Add(time.Duration(passed.Load())) }
	r := newRigWith(t, store.NewMemory(), Config{Now: now, History: h, Poll: time.Hour, Capacity: DefaultCapacity()})
	r.blade("b1", 4, 0)
	r.blade("b2", 4, 0)
	r.basics("b1", "b2")
	waitSettled(r, "b1", "b2")
	rng := rand.New(rand.NewPCG(3, 4))
	var samples []history.Sample
	for _, blade := range []string{"b1", "b2"} {
		for day := range 100 {
			value := 1e9 + 5e7*float64(day) + 1e8*rng.NormFloat64()
			for i := range 150 { // more than half of the day's 5-minute values
				start := noon.Truncate(24*time.Hour).AddDate(0, 0, day-100).Add(time.Duration(i) * history.Minutes)
				samples = append(samples, history.Sample{Series: history.Name(capacity.Bandwidth, capacity.PortLevel, blade+"/nic0/pf0"), Start: start, Count: 30, Mean: value, P95: value, Max: value})
			}
		}
	}
	if _, err := h.Append(t.Context(), samples); err != nil {
		t.Fatal(err)
	}
	report := r.report("?horizon=365&window=90")
	got := r.scrape()
	want := map[string]float64{`bladeflow_manager_leading{}`: 1, `bladeflow_capacity_report_failed{}`: 0}
	for state, n := range map[string]float64{"unseen": 0, "silent": 0, "held": 0, "moving": 0, "settled": 2} {
		want[fmt.Sprintf(`bladeflow_blades{state="%s"}`, state)] = n
	}
	foretold := 0
	for _, s := range report.Status.Scopes {
		if s.Level != capacity.FleetLevel && s.Level != capacity.ChassisLevel {
			continue
		}
		for _, f := range s.Figures {
			labels := func(quantile string) string {
				if quantile != "" {
					quantile = fmt.Sprintf(`, quantile="%s"`, quantile)
				}
				return fmt.Sprintf(`{dimension="%s", level="%s"%s, scope="%s", unit="%s"}`, f.Dimension, s.Level, quantile, s.Name, f.Unit)
			}
			for name, amount := range map[string]*int64{"usable": f.Usable, "allocated": f.Allocated, "remaining": f.Remaining} {
				if amount != nil {
					want["bladeflow_capacity_"+name+labels("")] = float64(*amount)
				}
			}
			if f.Forecast.Exhaustion == nil {
				continue
			}
			foretold++
			for quantile, date := range map[string]capacity.Date{"0.05": f.Forecast.Exhaustion.Early, "0.5": f.Forecast.Exhaustion.Middle, "0.95": f.Forecast.Exhaustion.Late} {
				seconds := math.Inf(1)
				if at, err := time.Parse(time.DateOnly, string(date)); err == nil {
					seconds = at.Sub(noon).Seconds()
				}
				want["bladeflow_capacity_exhaustion_seconds"+labels(quantile)] = seconds
			}
		}
	}
	if foretold != 2 { // bandwidth of the fleet and of its chassis
		t.Errorf("%d forecasts", foretold)
	}
	for name, v := range want {
		if is, ok := got[name]; !ok || is != v {
			t.Errorf("%s: %v (%v), want %v", name, is, ok, v)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok && strings.HasPrefix(name, "bladeflow_") {
			t.Errorf("more than the report says: %s", name)
		}
	}

	const left = `bladeflow_capacity_remaining{dimension="slots", level="fleet", scope="fleet", unit="VFs"}`
	before := got[left]
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "")
	if is := r.scrape()[left]; is != before {
		t.Errorf("a new report within a minute: %v left, and there were %v", is, before)
	}
	passed.Add(int64(overviewAge))
	after := float64(*figure(t, r.report("").Scope(t, capacity.FleetLevel, "fleet"), capacity.Slots).Remaining)
	if is := r.scrape()[left]; is != after || after >= before {
		t.Errorf("after a minute %v are left of %v, want %v", is, before, after)
	}
}

// scrape returns the series of /metrics by name and labels in the order of their names.
func (r *rig) scrape() map[string]float64 {
	r.t.Helper()
	resp, err := r.client.Get(r.url + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			out[name+"{"+strings.Join(labels, ", ")+"}"] = m.GetGauge().GetValue()
		}
	}
	return out
}
