package hwtests

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// ChangesConfig says what [Changes] does.
type ChangesConfig struct {
	Changes int
	Rate    int // frames per second, of all ports together
	Rules   int
	Entries int
	Seed    uint64
	Source  string
	Plug    lab.Plug // see [lab.Config]
	Say     func(format string, a ...any)
}

// edits is how many rules one change touches, so that enough packets can tell the old
// table from the new.
const edits = 6

// What is done at a time: the observers have room for so many packets, and of packets
// there are so many different ones for each port.
const (
	partPackets = 600_000
	partFrames  = 400
	cardShare   = 92 // of the different packets, in percent, those that the card answers at first
)

// lossMost is how much of a part may be lost, in percent: where more is, the next goes
// slower, until the machine has more time again. A packet that was lost tells little, for
// loss looks like drop.
const lossMost = 5

// Changed is what [Changes] found.
type Changed struct {
	Changes  int     `json:"changes"` // during which every port sent
	Packets  int     `json:"packets"`
	Hardware int     `json:"hardware"` // of the packets: that software did not get
	Rate     float64 `json:"rate"`     // packets per second while the table changed, as sent
	Slowest  float64 `json:"slowest"`  // the same, of the slowest part
	Parts    int     `json:"parts"`
	Slowed   int     `json:"slowed"` // parts after which the rate was lowered, because too much was lost
	Lost     uint64  `json:"lost"`   // frames and copies, by netdevs, sockets and rings that were full, as they say themselves
	Unseen   int     `json:"unseen"` // packets of which less came than any table explains, and nothing else; no more than were lost

	Differ  int `json:"differ"`  // packets that the table before and after the nearest change treat differently
	Between int `json:"between"` // packets that were under way while a table changed

	// Neither counts packets that no table in force while they were under way explains:
	// of which something came that none of them sends, or less without having been lost.
	Neither int `json:"neither"`
	// Back counts packets that an earlier table judged than one before them in the same
	// queue: what came by one port to the card, and what came by one port to software.
	Back int `json:"back"`
	// Overtaken counts packets that an earlier table judged than one that was sent before
	// them by the same port, and that waited for software meanwhile. They are no fault: a
	// packet that waits is judged when its turn comes.
	Overtaken int `json:"overtaken"`

	Change     Quantiles `json:"change_seconds"` // from the wanted table to the proved one
	SwapMicros float64   `json:"swap_us"`        // mean time to change software
	Different  []string  `json:"different,omitempty"`
}

// Changes changes the table of one blade many times under traffic, one change right after
// the other, and checks of every packet that one single table explains what came of it:
// one that was in force at some time between its sending and its last copy's arrival; and
// of every queue that once a packet of it was judged by a new table, no later one was by
// an old one. Every other change alters an output, so that loss cannot pass for a drop.
//
// Full rings lose packets, and what loses them counts them. A packet of which less came
// than a table sends, and nothing that it does not send, may be a lost one under that
// table; of such packets there may be no more than were counted as lost.
func Changes(ctx context.Context, c ChangesConfig) (*Changed, error) {
	w := newWitnessed(partPackets)
	ch, err := Start(ctx, Config{Source: c.Source, Interval: time.Minute, Tap: w.tap,
		Config: lab.Config{Blades: 1, VFs: 4, Entries: c.Entries, Sequences: partPackets, Plug: c.Plug}})
	if err != nil {
		return nil, err
	}
	r := &changing{ChangesConfig: c, ch: ch, blade: ch.Blades[0], software: w}
	err = r.run(ctx)
	if stopped := ch.Stop(); err == nil {
		err = stopped
	}
	return &r.found, err
}

// changing is one run of Changes.
type changing struct {
	ChangesConfig
	ch       *Chassis
	blade    *Blade
	software *witnessed

	dice   *dice
	rules  []flow.Rule
	gen    flow.Generation
	made   int             // changes, also of parts that were repeated
	took   []time.Duration // each change
	lasted time.Duration   // all parts
	found  Changed
}

func (r *changing) run(ctx context.Context) (err error) {
	if r.dice, err = newDice(r.Seed, r.blade.Blade); err != nil {
		return err
	}
	r.rules = r.dice.rules(r.Rules)
	if err := r.want(ctx); err != nil {
		return err
	}
	rate := r.Rate
	r.Say("changing the table %d times under %d packets per second", r.Changes, rate)
	for r.found.Changes < r.Changes {
		lossy, err := r.part(ctx, rate)
		if err != nil {
			return err
		}
		if lossy {
			rate -= rate / 4
			r.found.Slowed++
		} else {
			rate = min(r.Rate, rate+rate/8)
		}
	}
	r.found.Rate = float64(r.found.Packets) / r.lasted.Seconds()
	r.found.Change = quantiles(r.took)
	return nil
}

// want makes the rules the blade's table.
func (r *changing) want(ctx context.Context) error {
	r.gen++
	t, err := r.dice.table(r.gen, r.rules)
	if err != nil {
		return err
	}
	return r.blade.Want(ctx, t)
}

// frames returns packets for every port: most of them answered by rules that the card has
// now, because software is not fast enough for all; the rest by any.
func (r *changing) frames() ([]Stream, error) {
	status := r.blade.Agent.Status()
	commits := r.blade.Commits()
	table := commits[len(commits)-1].Table
	streams := r.dice.frames(r.rules, 10*partFrames)
	for i := range streams {
		s := &streams[i]
		var card, rest [][]byte
		for _, f := range s.Frames {
			k, err := flow.Parse(f, s.Port)
			if err != nil {
				return nil, err
			}
			rule, _ := status.Rule(table.Rule(table.Lookup(&k)).Name)
			if rule.Whole && k.Get(flow.Flags)&flow.FlagOdd == 0 {
				card = append(card, f)
			} else {
				rest = append(rest, f)
			}
		}
		most := partFrames * cardShare / 100
		card = card[:min(most, len(card))]
		s.Frames = append(card, rest[:min(partFrames-most, len(rest))]...)
		r.dice.Shuffle(len(s.Frames), func(i, j int) { s.Frames[i], s.Frames[j] = s.Frames[j], s.Frames[i] })
	}
	return streams, nil
}

// edit makes other rules.
func (r *changing) edit() {
	r.made++
	for range edits {
		if r.made%2 == 0 {
			r.rules = r.dice.alterOutput(r.rules)
		} else {
			r.rules = r.dice.alter(r.rules, r.Rules)
		}
	}
}

// part makes changes while packets are sent, until all are made or the observers have no
// more room, and judges. It reports whether too much was lost.
func (r *changing) part(ctx context.Context, rate int) (lossy bool, err error) {
	streams, err := r.frames()
	if err != nil {
		return false, err
	}
	r.ch.Reset()
	r.software.reset()
	before, err := r.ch.losses()
	if err != nil {
		return false, err
	}
	first := len(r.blade.Commits()) - 1
	f, err := newFlood(r.ch, streams, partPackets)
	if err != nil {
		return false, err
	}
	var done sync.WaitGroup
	var sent error
	done.Go(func() { sent = f.send(ctx, rate) })
	took, err := r.changes(ctx, f)
	f.stop()
	done.Wait()
	if err := errors.Join(err, sent, f.close(), r.ch.rouse(ctx), r.ch.Settle(ctx, 200*time.Millisecond)); err != nil {
		return false, err
	}
	lasted := f.lasted()
	after, err := r.ch.losses()
	if err != nil {
		return false, err
	}
	j := judge{ch: r.ch, flood: f, commits: r.blade.Commits()[first:], software: r.software, lost: after.Since(before).Total()}
	if err := j.judge(); err != nil {
		return false, err
	}
	r.took, r.lasted = append(r.took, took...), r.lasted+lasted
	r.found.add(&j.found, f.around(j.commits[1:]), float64(j.found.Packets)/lasted.Seconds())
	return j.lost*100 > uint64(j.found.Packets)*lossMost, nil
}

// add adds what was found in one part, at some rate.
func (c *Changed) add(p *Changed, changes int, rate float64) {
	c.SwapMicros = (c.SwapMicros*float64(c.Changes) + p.SwapMicros*float64(changes)) / float64(max(1, c.Changes+changes))
	c.Changes += changes
	if c.Parts++; c.Parts == 1 || rate < c.Slowest {
		c.Slowest = rate
	}
	c.Packets += p.Packets
	c.Hardware += p.Hardware
	c.Differ += p.Differ
	c.Between += p.Between
	c.Lost += p.Lost
	c.Unseen += p.Unseen
	c.Neither += p.Neither
	c.Back += p.Back
	c.Overtaken += p.Overtaken
	c.Different = append(c.Different, p.Different...)
	c.Different = c.Different[:min(10, len(c.Different))]
}

// changes makes changes, one by one, with traffic before the first and after the last, and
// returns how long each took.
func (r *changing) changes(ctx context.Context, f *flood) (took []time.Duration, err error) {
	const around = 20 * time.Millisecond
	<-f.flowing
	time.Sleep(around)
	for r.found.Changes+len(took) < r.Changes && !f.ending() {
		r.edit()
		begin := time.Now()
		if err := r.want(ctx); err != nil {
			return nil, fmt.Errorf("change %d: %w", r.found.Changes+len(took), err)
		}
		took = append(took, time.Since(begin))
	}
	time.Sleep(around)
	return took, nil
}

// flood is traffic of which only the times are kept: frame and port of a packet follow
// from its sequence number.
type flood struct {
	streams []Stream
	makers  []*traffic.Maker // of each stream
	room    int              // packets of one stream
	sent    [][]int64        // by stream: CLOCK_MONOTONIC ns just before
	stopped chan struct{}
	flowing chan struct{} // closed when all streams send, or one has ended
	stop    func()
	flow    func()

	mu    sync.Mutex
	most  int // guarded by mu: packets that one stream has sent
	begun int // guarded by mu: streams that have sent some
}

// newFlood divides sequence numbers from 0 to packets among streams.
func newFlood(ch *Chassis, streams []Stream, packets int) (*flood, error) {
	f := &flood{streams: streams, room: packets / len(streams), sent: make([][]int64, len(streams)), stopped: make(chan struct{}), flowing: make(chan struct{})}
	f.stop, f.flow = sync.OnceFunc(func() { close(f.stopped) }), sync.OnceFunc(func() { close(f.flowing) })
	for i, s := range streams {
		at := ch.Blades[s.Blade].At(s.Port)
		m, err := traffic.OpenMaker(at.Outside.NS, at.Outside.Name, s.Frames, f.first(i), f.room)
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.makers = append(f.makers, m)
	}
	return f, nil
}

// close closes the makers.
func (f *flood) close() error {
	var errs []error
	for _, m := range f.makers {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// ending reports whether there is hardly room for more.
func (f *flood) ending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most > f.room*3/4
}

// lasted is the time from the first packet to the last.
func (f *flood) lasted() time.Duration {
	first, last := int64(math.MaxInt64), int64(0)
	for _, at := range f.sent {
		if len(at) > 0 {
			first, last = min(first, at[0]), max(last, at[len(at)-1])
		}
	}
	return time.Duration(max(0, last-first))
}

// around counts the commits that all streams sent before and after.
func (f *flood) around(commits []Commit) (n int) {
	for _, c := range commits {
		under := true
		for _, at := range f.sent {
			under = under && len(at) > 0 && at[0] < c.Before && c.After < at[len(at)-1]
		}
		if under {
			n++
		}
	}
	return n
}

// send sends until stop, or until there is no more room.
func (f *flood) send(ctx context.Context, rate int) error {
	errs := make([]error, len(f.streams))
	var done sync.WaitGroup
	for i, m := range f.makers {
		done.Go(func() {
			defer f.flow()
			f.sent[i], errs[i] = m.Send(ctx, rate/len(f.streams), f.going())
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// going returns what is told how many packets a stream has sent, and says whether more are
// wanted.
func (f *flood) going() func(sent int) bool {
	some := false
	return func(sent int) bool {
		f.mu.Lock()
		f.most = max(f.most, sent)
		if sent > 0 && !some {
			some = true
			f.begun++
		}
		all := f.begun == len(f.streams)
		f.mu.Unlock()
		if all {
			f.flow()
		}
		select {
		case <-f.stopped:
			return false
		default:
			return true
		}
	}
}

// first returns the first sequence number of a stream.
func (f *flood) first(stream int) uint64 { return uint64(stream * f.room) }

// frame returns the frame of a sequence number, not stamped.
func (f *flood) frame(sequence uint64) []byte {
	s := &f.streams[int(sequence)/f.room]
	return s.Frames[sequence%uint64(len(s.Frames))]
}

// stamped returns it as it was sent.
func (f *flood) stamped(sequence uint64) []byte {
	b := slices.Clone(f.frame(sequence))
	traffic.Stamp(b, sequence)
	return b
}
