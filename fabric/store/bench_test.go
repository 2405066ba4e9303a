package store

import (
	"slices"
	"testing"
	"time"
)

// secure returns a manager's client of one member, with TLS and rights, as it is used.
func secure(b *testing.B) *Client {
	s := newSecured(b, "b1")
	server := started(b, ServerConfig{TLS: s.server()})
	s.endpoints = []string{server.Endpoint()}
	if err := server.Local().Enforce(b.Context(), "b1"); err != nil {
		b.Fatal(err)
	}
	return s.client("manager")
}

func BenchmarkTxn(b *testing.B) {
	c := secure(b)
	value := make([]byte, 300)
	for b.Loop() {
		if _, err := c.Txn(b.Context(), []Compare{Absent(History(1))}, []Op{Put(Generation("b1"), value)}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatch measures from before a put to its event over its watch.
func BenchmarkWatch(b *testing.B) {
	c := secure(b)
	_, at, err := c.List(b.Context(), AllBlades)
	if err != nil {
		b.Fatal(err)
	}
	changes := c.Watch(b.Context(), AllBlades, at)
	value := make([]byte, 300)
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		if _, err := c.Txn(b.Context(), nil, []Op{Put(Generation("b1"), value)}); err != nil {
			b.Fatal(err)
		}
		if batch := <-changes; batch.Err != nil {
			b.Fatal(batch.Err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
