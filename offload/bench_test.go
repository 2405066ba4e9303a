package offload_test

import (
	"fmt"
	"testing"

	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
)

// BenchmarkPlan plans for an empty device, and again for one that lacks one entry,
// at 10 % capacity and with room for everything.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		for _, f := range flowtest.Families() {
			table, heat := generated(b, f, n)
			for _, entries := range []int{n / 10, 2 * n} {
				m := shipped(b, "softnic", entries)
				first := offload.NewPlan(table, table, nil, m, heat)
				b.Run(fmt.Sprintf("%v/%d/entries=%d/first", f, n, entries), func(b *testing.B) {
					for b.Loop() {
						offload.NewPlan(table, table, nil, m, heat)
					}
					b.ReportMetric(float64(len(first.Entries)), "entries")
					b.ReportMetric(float64(first.Used.Guards), "guards")
					b.ReportMetric(hitRate(&first, heat), "hit")
				})
				b.Run(fmt.Sprintf("%v/%d/entries=%d/again", f, n, entries), func(b *testing.B) {
					have := first.Entries[:max(0, len(first.Entries)-1)]
					for b.Loop() {
						offload.NewPlan(table, table, have, m, heat)
					}
				})
			}
		}
	}
}
