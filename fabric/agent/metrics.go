package agent

import (
	"cmp"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bladeflow/bladeflow/fabric/discover"
)

// Collector shows an agent's status as Prometheus metrics. Everything it shows is of
// one status, so that numbers of one scrape belong together.
type Collector struct {
	status  func() *Status
	perRule bool
}

// NewCollector makes a collector of the status that a function returns. perRule adds
// three series for each rule.
func NewCollector(status func() *Status, perRule bool) *Collector { return &Collector{status, perRule} }

// metric is one name with what is read of a status.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s *Status, emit func(v float64, labels ...string))
}

func newMetric(kind prometheus.ValueType, name, help string, read func(*Status, func(float64, ...string)), labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), kind, read}
}

// metrics lists them all. It is a function because package variables are constants
// or errors here.
func metrics(perRule bool) []metric {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	all := []metric{
		newMetric(gauge, "bladeflow_generation", "Generation of the table in force; 0 before the first.",
			func(s *Status, emit func(float64, ...string)) { emit(float64(s.Generation)) }),
		newMetric(gauge, "bladeflow_proved", "1 if the checker found every device to agree with the table in force when it was last read.",
			func(s *Status, emit func(float64, ...string)) { emit(truth(s.Proved)) }),
		newMetric(gauge, "bladeflow_rules", "Rules by where they live and, for what software answers, why.",
			readRules, "state", "reason"),
		newMetric(gauge, "bladeflow_table_entries", "Entries in a device's table, foreign ones included.",
			func(s *Status, emit func(float64, ...string)) {
				for _, d := range s.Devices {
					emit(float64(d.Entries), d.Name)
				}
			}, "device"),
		newMetric(gauge, "bladeflow_table_entries_limit", "Entries that fit into a device's table; absent if it is not known.",
			func(s *Status, emit func(float64, ...string)) {
				for _, d := range s.Devices {
					if d.Limit > 0 {
						emit(float64(d.Limit), d.Name)
					}
				}
			}, "device"),
		newMetric(gauge, "bladeflow_table_entries_foreign", "Entries in a device's table that bladeflow did not put there.",
			func(s *Status, emit func(float64, ...string)) {
				for _, d := range s.Devices {
					emit(float64(d.Foreign), d.Name)
				}
			}, "device"),
		newMetric(counter, "bladeflow_packets_total", "Packets by where they were answered and how. Hardware's punt is answered, and counted, in software.",
			func(s *Status, emit func(float64, ...string)) {
				for _, p := range s.Packets {
					emit(float64(p.Packets), p.Tier, p.Verdict)
				}
			}, "tier", "verdict"),
		newMetric(counter, "bladeflow_software_lost_total", "Frames or copies that software could not deal with.",
			func(s *Status, emit func(float64, ...string)) {
				for _, l := range s.Lost {
					emit(float64(l.Packets), l.Reason)
				}
			}, "reason"),
		newMetric(counter, "bladeflow_drift_total", "Entries that changed in a device behind the agent's back.",
			func(s *Status, emit func(float64, ...string)) {
				emit(float64(s.Drift.Missing), "missing")
				emit(float64(s.Drift.Altered), "altered")
				emit(float64(s.Drift.Added), "added")
			}, "kind"),
		newMetric(counter, "bladeflow_drift_healed_total", "Drifted entries that were put right.",
			func(s *Status, emit func(float64, ...string)) { emit(float64(s.Drift.Healed)) }),
		newMetric(counter, "bladeflow_samples_total", "Frames of software that were judged again by the definition; passed are those that a device should have answered. Alert on wrong above 0.",
			func(s *Status, emit func(float64, ...string)) {
				emit(float64(s.Samples.Right), "right")
				emit(float64(s.Samples.Wrong), "wrong")
				emit(float64(s.Samples.Passed), "passed")
			}, "result"),
		newMetric(counter, "bladeflow_canaries_total", "Canaries that were sent into devices to see whether they ask and count what they list. Alert on wrong above 0.",
			func(s *Status, emit func(float64, ...string)) {
				emit(float64(s.Canary.Right), "right")
				emit(float64(s.Canary.Wrong), "wrong")
				emit(float64(s.Canary.Open), "open")
			}, "result"),
		newMetric(counter, "bladeflow_peeks_total", "Looks under entries of devices, for packets that should have been answered above them. Alert on wrong above 0.",
			func(s *Status, emit func(float64, ...string)) {
				emit(float64(s.Peeks.Right), "right")
				emit(float64(s.Peeks.Wrong), "wrong")
				emit(float64(s.Peeks.Open), "open")
			}, "result"),
		newMetric(gauge, "bladeflow_device_trusted", "1 if a device has done with packets what its entries say; 0 once it did not, and holds no entries any more.",
			func(s *Status, emit func(float64, ...string)) {
				for _, d := range s.Devices {
					emit(truth(!d.Distrusted), d.Name)
				}
			}, "device"),
		newMetric(counter, "bladeflow_events_total", "What happened to the blade, by code; `bladeflow describe blade` lists the last.",
			func(s *Status, emit func(float64, ...string)) {
				for _, code := range slices.Sorted(maps.Keys(s.EventTotals)) {
					emit(float64(s.EventTotals[code]), code)
				}
			}, "code"),
		newMetric(gauge, "bladeflow_cache_flows", "Flows that the flow cache answers; absent without one.",
			func(s *Status, emit func(float64, ...string)) {
				if s.Cache != nil {
					emit(float64(s.Cache.Flows))
				}
			}),
		newMetric(gauge, "bladeflow_link_open", "1 if a port's frames come to software and go from it; 0 while its netdev is away.",
			func(s *Status, emit func(float64, ...string)) {
				for _, l := range s.Links {
					emit(truth(l.Open), l.Port)
				}
			}, "port"),
		newMetric(counter, "bladeflow_consistency_mismatch_total", "Times the checker refused a plan or what a device held. Alert above 0.",
			func(s *Status, emit func(float64, ...string)) { emit(float64(s.Mismatches)) }),
		newMetric(counter, "bladeflow_rules_rejected_total", "Times the wanted rules could not be used and the generation in force was kept.",
			func(s *Status, emit func(float64, ...string)) { emit(float64(s.Rejected)) }),
		newMetric(counter, "bladeflow_reconciliations_total", "Reconciliations by result.",
			func(s *Status, emit func(float64, ...string)) {
				emit(float64(s.Rounds), "ok")
				emit(float64(s.Failures), "failed")
			}, "result"),
		newMetric(gauge, "bladeflow_last_reconciliation_timestamp_seconds", "When devices and counters were last read.",
			func(s *Status, emit func(float64, ...string)) {
				if !s.Reconciled.IsZero() {
					emit(float64(s.Reconciled.UnixMilli()) / 1000)
				}
			}),
	}
	if perRule {
		all = append(all, newMetric(counter, "bladeflow_rule_packets_total", "Packets by rule and where they were answered.",
			func(s *Status, emit func(float64, ...string)) {
				for _, r := range s.Rules {
					emit(float64(r.Hardware.Packets), r.Name, "hardware")
					emit(float64(r.Cache.Packets), r.Name, "cache")
					emit(float64(r.Software.Packets), r.Name, "software")
				}
			}, "rule", "tier"))
		all = append(all, newMetric(counter, "bladeflow_rule_policed_packets_total", "Packets that met the rule in software and came faster than its police actions let pass.",
			func(s *Status, emit func(float64, ...string)) {
				for _, r := range s.Rules {
					emit(float64(r.Policed.Packets), r.Name)
				}
			}, "rule"))
	}
	return all
}

// readRules counts rules by place and reason. A rule of which software answers the
// rest is hardware with a reason.
func readRules(s *Status, emit func(float64, ...string)) {
	type state struct{ place, reason string }
	var order []state
	n := map[state]int{}
	for _, r := range s.Rules {
		k := state{r.Place, cmp.Or(r.Code, "none")}
		if n[k] == 0 {
			order = append(order, k)
		}
		n[k]++
	}
	for _, k := range order {
		emit(float64(n[k]), k.place, k.reason)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics(c.perRule) {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := c.status()
	for _, m := range metrics(c.perRule) {
		m.read(s, func(v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
		})
	}
}

// Passed shows what has passed a blade's functions as Prometheus metrics, which are called
// as those of netdevs in Prometheus' node exporter. A VF is seen from its workload, also
// while its netdev is in a guest; see [discover.Counters]. What functions a blade has is
// read at each scrape. Cost: that of an inventory from sysfs, and four small reads a
// function.
type Passed struct {
	counters func() []discover.Counter
	desc     [4]*prometheus.Desc
}

// NewPassed makes a collector of what a function returns.
func NewPassed(counters func() []discover.Counter) *Passed {
	p := &Passed{counters: counters}
	for i, of := range [...][2]string{
		{"receive_packets", "Packets that a VF's workload received."}, {"receive_bytes", "Bytes that a VF's workload received."},
		{"transmit_packets", "Packets that a VF's workload sent."}, {"transmit_bytes", "Bytes that a VF's workload sent."},
	} {
		p.desc[i] = prometheus.NewDesc("bladeflow_vf_"+of[0]+"_total", of[1], []string{"port"}, nil)
	}
	return p
}

// Describe implements [prometheus.Collector].
func (p *Passed) Describe(out chan<- *prometheus.Desc) {
	for _, d := range p.desc {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (p *Passed) Collect(out chan<- prometheus.Metric) {
	for _, c := range p.counters() {
		if !c.VF {
			continue
		}
		for i, v := range [...]uint64{c.Received.Packets, c.Received.Bytes, c.Sent.Packets, c.Sent.Bytes} {
			out <- prometheus.MustNewConstMetric(p.desc[i], prometheus.CounterValue, float64(v), c.Port)
		}
	}
}
