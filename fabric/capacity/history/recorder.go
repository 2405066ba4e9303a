package history

import (
	"cmp"
	"slices"
	"time"
)

// Recorder turns what is polled into 5-minute samples. It is not safe for concurrent
// use, holds two buckets a series at most, and does no I/O.
//
// Counters are monotonic: one that fell was reset, and what it shows has been counted
// since. A poll's growth is spread evenly over the time since the last poll, also
// across the border of two buckets, so that nothing is counted twice or lost. After a
// silence of more than 5 minutes the growth is thrown away: a mean over a gap would
// hide the peak in it, and a gap that is seen is better. So is a growth of more than
// [most] a second, which nothing has counted: no report could be made of it.
type Recorder struct {
	meters map[string]*meter
	done   []Sample
}

// most is how much there can be of anything, as in a [capacity.Input].
const most = 1e15

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder { return &Recorder{meters: map[string]*meter{}} }

// meter is one series being recorded.
type meter struct {
	at     time.Time // of the last poll
	last   [2]uint64
	bucket bucket
}

// bucket is 5 minutes being filled. Each direction has its sum; the value of the
// bucket is the busier one's.
type bucket struct {
	start   time.Time
	sum     [2]float64 // amount in each direction
	seconds float64
	rates   []float64 // of each poll, the busier direction
}

// Traffic takes the byte counters of a port; its series is in bit/s.
func (r *Recorder) Traffic(series string, at time.Time, rx, tx uint64) {
	r.count(series, at, [2]uint64{rx, tx}, 8)
}

// Packets takes a packet counter; its series is in packets/s.
func (r *Recorder) Packets(series string, at time.Time, n uint64) {
	r.count(series, at, [2]uint64{n, 0}, 1)
}

// Gauge takes a value that holds from the last poll until now: entries in a table,
// VFs with traffic.
func (r *Recorder) Gauge(series string, at time.Time, value uint64) {
	m, from, ok := r.meter(series, at)
	if ok && value <= most {
		r.spread(series, m, from, at, [2]float64{float64(value), 0})
	}
}

func (r *Recorder) count(series string, at time.Time, now [2]uint64, scale float64) {
	m, from, ok := r.meter(series, at)
	var rates [2]float64
	for i := range now {
		grown := now[i] - m.last[i]
		if now[i] < m.last[i] {
			grown = now[i]
		}
		rates[i] = float64(grown) * scale / at.Sub(from).Seconds()
	}
	m.last = now
	if ok && max(rates[0], rates[1]) <= most {
		r.spread(series, m, from, at, rates)
	}
}

// meter returns the series and when it was polled last; ok is false if that is no base
// to measure from: never, too long ago, or in the future.
func (r *Recorder) meter(series string, at time.Time) (m *meter, from time.Time, ok bool) {
	m, known := r.meters[series]
	if !known {
		m = &meter{}
		r.meters[series] = m
	}
	from, m.at = m.at, at
	gap := at.Sub(from)
	return m, from, known && gap > 0 && gap <= Minutes
}

// spread gives each bucket between from and to its part.
func (r *Recorder) spread(series string, m *meter, from, to time.Time, rates [2]float64) {
	for from.Before(to) {
		start := from.UTC().Truncate(Minutes)
		if !m.bucket.start.Equal(start) {
			r.close(series, &m.bucket)
			m.bucket = bucket{start: start}
		}
		end := start.Add(Minutes)
		if to.Before(end) {
			end = to
		}
		b := &m.bucket
		seconds := end.Sub(from).Seconds()
		b.seconds += seconds
		b.sum[0] += rates[0] * seconds
		b.sum[1] += rates[1] * seconds
		b.rates = append(b.rates, max(rates[0], rates[1]))
		from = end
	}
}

func (r *Recorder) close(series string, b *bucket) {
	if b.seconds == 0 {
		return
	}
	s := Sample{Series: series, Start: b.start, Count: len(b.rates), Mean: max(b.sum[0], b.sum[1]) / b.seconds,
		P95: percentile95(b.rates), Max: slices.Max(b.rates)}
	r.done = append(r.done, s)
}

// Take returns the samples whose 5 minutes are over, in the order of time and series,
// and forgets them.
func (r *Recorder) Take(now time.Time) []Sample {
	for name, m := range r.meters {
		if m.bucket.seconds > 0 && !m.bucket.start.Add(Minutes).After(now) {
			r.close(name, &m.bucket)
			m.bucket = bucket{}
		}
	}
	out := r.done
	r.done = nil
	slices.SortFunc(out, func(a, b Sample) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Series, b.Series))
	})
	return out
}
