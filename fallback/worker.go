package fallback

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

// batchSize is how many frames are judged together. 64 frames share one look at
// the program, one lock and one flush per output.
const batchSize = 64

// worker judges the frames of one link.
type worker struct {
	d     *Datapath
	port  flow.Port
	queue int // of the port's
	link  Link

	mu      sync.Mutex // held for a whole batch; guards what follows
	tally   tally
	stats   Stats
	batch   matcher.Batch
	recent  recent
	missed  []int32       // keys of the batch that recent does not know
	rest    matcher.Batch // of these
	placed  []int32       // which frame of the batch each key is of
	edit    editor
	samples []*Samples       // of those who look on
	now     time.Duration    // when the batch was judged; valid iff its program polices
	ports   []flow.Port      // where `normal` delivers a frame
	touched []flow.Port      // whose links to flush after the batch
	dirty   []bool           // by port: is it in touched
	flows   []flowcache.Flow // to be made known to the cache
}

func newWorker(d *Datapath, port flow.Port, queue int) *worker {
	return &worker{
		d: d, port: port, queue: queue, link: d.links[port][queue],
		batch:   matcher.Batch{Keys: make([]flow.Key, batchSize), Rules: make([]int32, batchSize)},
		missed:  make([]int32, 0, batchSize),
		rest:    matcher.Batch{Keys: make([]flow.Key, batchSize), Rules: make([]int32, batchSize)},
		placed:  make([]int32, batchSize),
		ports:   make([]flow.Port, 0, len(d.links)),
		touched: make([]flow.Port, 0, len(d.links)),
		dirty:   make([]bool, len(d.links)),
		flows:   make([]flowcache.Flow, 0, batchSize),
	}
}

// settleDown keeps the worker on a CPU if it is one of several of its port. Its thread ends
// with it. Where the kernel does not want that it runs as others do.
func (w *worker) settleDown() {
	if len(w.d.links[w.port]) == 1 {
		return
	}
	runtime.LockOSThread()
	var usable, one unix.CPUSet
	if unix.SchedGetaffinity(0, &usable) != nil {
		return
	}
	nth := w.queue % usable.Count()
	for cpu := 0; ; cpu++ {
		if !usable.IsSet(cpu) {
			continue
		}
		if nth == 0 {
			one.Set(cpu)
			unix.SchedSetaffinity(0, &one)
			return
		}
		nth--
	}
}

// run receives and judges until ctx is done or the link dies.
func (w *worker) run(ctx context.Context) error {
	w.settleDown()
	frames := make([][]byte, batchSize)
	for ctx.Err() == nil {
		n, err := w.link.Recv(frames)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("port %d: receive: %w", w.port, err)
		}
		if n > 0 {
			w.judge(frames[:n])
		}
	}
	return nil
}

// judge does to a batch what one program says: the one that is current when it
// begins. Everything it sends has left when it returns.
func (w *worker) judge(frames [][]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Frames += uint64(len(frames))
	p := w.d.program.Load()
	if p == nil {
		w.stats.Early += uint64(len(frames))
		return
	}
	w.tally.adopt(p.table)
	keys := w.batch.Keys[:batchSize]
	n := 0
	for i, f := range frames {
		if err := keys[n].Parse(f, w.port); err != nil {
			w.stats.Short++
			continue
		}
		w.placed[n] = int32(i)
		n++
	}
	keys = keys[:n]
	w.batch.Keys = keys
	if len(p.policing) > 0 {
		w.now = w.d.clock()
	}
	w.classify(p.program)
	for i, rule := range w.batch.Rules[:len(keys)] {
		f := frames[w.placed[i]]
		w.tally.count(rule, len(f))
		dropped := w.stats.Dropped
		if code := p.code[p.entry[rule]:]; code[0].op == drop {
			w.stats.Dropped++
		} else {
			w.act(p.program, code, f, &keys[i])
		}
		if len(w.samples) > 0 {
			w.seen(p.table, rule, w.stats.Dropped > dropped, &keys[i], f)
		}
	}
	w.flush()
	if w.d.cache != nil {
		w.learn(p)
	}
}

// act carries out a rule's steps on a frame, whose key is k.
func (w *worker) act(p *program, code []step, frame []byte, k *flow.Key) {
	w.edit.load(frame)
	for i := range code {
		switch s := &code[i]; s.op {
		case send:
			w.send(s.port)
		case push:
			if !w.edit.push(s.proto, s.tag) {
				w.stats.Dropped++
				return
			}
		case pop:
			w.edit.pop()
		case set:
			w.edit.setID(s.tag)
		case edit: // what the packet had when it came in, wherever that is now
			var h flow.Headers
			by := &p.edits[s.index]
			if by.ip {
				h = flow.Locate(k, frame).Moved(len(w.edit.frame) - len(frame))
			}
			w.edit.put(h, by)
		case police:
			if by := &p.policing[s.index]; !by.meter.pass(by.action, w.now, len(w.edit.frame)) {
				w.stats.Dropped++
				w.stats.Policed++
				return
			}
		case drop:
			w.stats.Dropped++
			return
		case done:
			w.stats.Output++
			return
		case normal:
			w.stats.Normal++
			vlan, mac := w.edit.station()
			w.ports = p.table.Switch().Deliver(w.ports[:0], vlan, mac, w.port)
			for _, port := range w.ports {
				w.send(port)
			}
			return
		case pass:
			w.stats.Passed++
			w.deliver()
			return
		}
	}
}

// out is the link that the worker sends by to a port that has one.
func (w *worker) out(port flow.Port) Link {
	queues := w.d.links[port]
	if w.queue < len(queues) {
		return queues[w.queue]
	}
	return queues[w.queue%len(queues)]
}

// send puts a copy of the frame as it is now on a port.
func (w *worker) send(port flow.Port) {
	if !w.d.has(port) {
		w.stats.NoPort++
		return
	}
	if err := w.out(port).Send(w.edit.frame); err != nil {
		w.stats.fail(err)
		return
	}
	w.stats.Sent++
	if !w.dirty[port] {
		w.dirty[port] = true
		w.touched = append(w.touched, port)
	}
}

// deliver hands the frame as it is now to the kernel.
func (w *worker) deliver() {
	if w.d.kernel == nil {
		w.stats.NoPort++
		return
	}
	if err := w.d.kernel.Deliver(w.port, w.edit.frame); err != nil {
		w.stats.fail(err)
		return
	}
	w.stats.Delivered++
}

// flush makes everything the batch has sent leave.
func (w *worker) flush() {
	for _, port := range w.touched {
		w.dirty[port] = false
		if err := w.out(port).Flush(); err != nil {
			w.stats.fail(err)
		}
	}
	w.touched = w.touched[:0]
}
