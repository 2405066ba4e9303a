package fallback

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// What somebody sees who looks on.
//
// Problem. Verdicts are to be seen as they are made, where millions are made a second and
// none may wait, or be made anew, because somebody looks.
//
// Idea. A reader brings a fixed number of places. A worker that has judged a frame the
// reader wants copies it into a free place, or counts it as skipped if there is none: how
// fast the reader empties them is what bounds the cost. Who wants little sees all of it.
//
// That there is no place left is one word, which a worker reads before it takes the lock: a
// flood of wanted frames costs an addition each.
//
// Cost. Without a reader a worker asks one length per frame, which cannot be measured; with
// one, 15 to 20 ns of CPU for a frame that it does not want, some 8 for one without a place, 130
// for one with (2 CPUs shared at a load of 20). Nothing is allocated.

// SampleBytes is how much of a frame a [Sample] has.
const SampleBytes = 2048

// samplePlaces is how many samples wait for a reader.
const samplePlaces = 256

// Want says which frames to take samples of. What is empty asks for all.
type Want struct {
	Ports    []flow.Port // by which they came in
	Rules    []flow.RuleID
	Verdicts []flow.Op
}

// has reports whether a frame is wanted.
func (w *Want) has(port flow.Port, rule flow.RuleID, verdict flow.Op) bool {
	return (len(w.Ports) == 0 || slices.Contains(w.Ports, port)) && (len(w.Rules) == 0 || slices.Contains(w.Rules, rule)) &&
		(len(w.Verdicts) == 0 || slices.Contains(w.Verdicts, verdict))
}

// Sample is one frame that a datapath has judged.
type Sample struct {
	Time    time.Time
	Key     flow.Key    // the port it came in by included
	Table   *flow.Table // that judged it
	Rule    int         // place in Table of the rule that it met
	Verdict flow.Op     // what became of it: drop also if a police action let it not pass, or it had no room for a tag
	Length  int         // in bytes, as received
	Frame   []byte      // as received, at most SampleBytes of it; until the next one is asked for
	Skipped uint64      // wanted frames before it, and after the sample before, for which there was no place
}

// Samples is one reader's look at what a datapath judges. Its methods may be called by
// any goroutine, one at a time; Close by any at any time.
type Samples struct {
	d     *Datapath
	want  Want
	ready chan struct{} // has something if a place may be taken

	full    atomic.Bool   // no place is free; written with mu held
	skipped atomic.Uint64 // since the newest was taken

	mu     sync.Mutex // guards what follows; held for as long as one frame is copied
	places []Sample   // a ring
	first  int        // the oldest
	taken  int
}

// Sample begins to take samples of what w wants. Frames without a verdict, which came
// before the first table or are no Ethernet frames, are in [Stats] only. It waits for at
// most one batch per busy link. Cost: 0.5 MB until [Samples.Close].
func (d *Datapath) Sample(w Want) *Samples {
	s := &Samples{d: d, want: w, ready: make(chan struct{}, 1), places: make([]Sample, samplePlaces)}
	memory := make([]byte, samplePlaces*SampleBytes)
	for i := range s.places {
		s.places[i].Frame = memory[i*SampleBytes : i*SampleBytes : (i+1)*SampleBytes]
	}
	d.eachWorker(func(w *worker) { w.samples = append(slices.Clip(w.samples), s) })
	return s
}

// Close ends it. Samples that were taken can still be read.
func (s *Samples) Close() {
	s.d.eachWorker(func(w *worker) {
		w.samples = slices.DeleteFunc(slices.Clone(w.samples), func(o *Samples) bool { return o == s })
	})
}

// eachWorker calls f for every worker between two of its batches.
func (d *Datapath) eachWorker(f func(w *worker)) {
	for _, w := range d.workers {
		w.mu.Lock()
		f(w)
		w.mu.Unlock()
	}
}

// Next waits for a sample and puts it into into, whose Frame it uses again. The error is
// that of ctx.
func (s *Samples) Next(ctx context.Context, into *Sample) error {
	for {
		if s.oldest(into) {
			return nil
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// oldest takes the oldest sample out.
func (s *Samples) oldest(into *Sample) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == 0 {
		return false
	}
	p := &s.places[s.first]
	s.first = (s.first + 1) % len(s.places)
	s.taken--
	s.full.Store(false)
	frame := append(into.Frame[:0], p.Frame...)
	*into = *p
	into.Frame = frame
	p.Table = nil // a place may stay empty for long after its table went out of force
	return true
}

// Skipped returns how many wanted frames no sample has told of yet.
func (s *Samples) Skipped() uint64 { return s.skipped.Load() }

// seen offers a frame that was judged to all who look on.
func (w *worker) seen(t *flow.Table, rule int32, dropped bool, k *flow.Key, frame []byte) {
	r := t.Rule(int(rule))
	verdict := r.Actions.Terminal().Op
	if dropped {
		verdict = flow.Drop
	}
	for _, s := range w.samples {
		if s.want.has(w.port, r.ID, verdict) {
			s.take(t, int(rule), verdict, k, frame)
		}
	}
}

// take takes a sample, if there is a place.
func (s *Samples) take(t *flow.Table, rule int, verdict flow.Op, k *flow.Key, frame []byte) {
	if s.full.Load() {
		s.skipped.Add(1)
		return
	}
	s.mu.Lock()
	if s.taken == len(s.places) { // another worker has taken the last
		s.mu.Unlock()
		s.skipped.Add(1)
		return
	}
	p := &s.places[(s.first+s.taken)%len(s.places)]
	*p = Sample{time.Now(), *k, t, rule, verdict, len(frame), append(p.Frame[:0], frame[:min(len(frame), SampleBytes)]...), s.skipped.Swap(0)}
	s.taken++
	s.full.Store(s.taken == len(s.places))
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default: // it says so already
	}
}
