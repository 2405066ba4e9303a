package hwtests

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// DeathsConfig says what [Deaths] does.
type DeathsConfig struct {
	Deaths int
	Seed   uint64
	Agent  func(config string) *exec.Cmd // a `bladeflow agent`, not started
	Say    func(format string, a ...any)
}

// Died is what [Deaths] found. A known flow is one that the cache answered before the
// first death; a new one has one frame.
type Died struct {
	Deaths  int `json:"deaths"`
	InStart int `json:"in_start"` // of them, before the agent was done with its start

	Known     int `json:"known"` // frames of known flows
	KnownLost int `json:"known_lost"`
	Astray    int `json:"astray"` // frames, of any flow, that came out twice or where no rule and no port's setting says

	New        int `json:"new"`         // frames of new flows
	Alive      int `json:"alive"`       // of them, while an agent was there for certain
	AliveLost  int `json:"alive_lost"`  // of those
	Closed     int `json:"closed"`      // of New: while none was there for certain, on a port that is then closed
	ClosedOut  int `json:"closed_out"`  // of those, that came out or reached the kernel
	Kernel     int `json:"kernel"`      // … and on a port whose frames then belong to the kernel
	KernelLost int `json:"kernel_lost"` // of those, that the kernel did not get, or not alone

	Backwards int       `json:"backwards"` // counters that were lower than before
	Adopted   int       `json:"adopted"`   // flows that a restarted agent found, the fewest
	Back      Quantiles `json:"back"`      // from the start of the process until it said what is in force
	Late      int       `json:"late"`      // restarts that took longer than backGoal
	Different []string  `json:"different,omitempty"`
}

// The traffic of [Deaths]: on each of two ports, and one frame in newEvery is of a new flow.
const (
	knownFlows  = 64
	newEvery    = 8
	deathRate   = 1000 // frames per second and port
	deathFrames = 8000 // and death, at most
	knownPort   = 1000 // destination ports of known flows begin here
	newPort     = 2000
)

// Deaths ends an agent with SIGKILL again and again under traffic, and looks at every
// frame: those of known flows must come out whether there is an agent or not; those of new
// flows get what the rules say while there is one, and else what their port says.
//
// What is certain is told by order: frames of one port stay in order, so when a frame of a
// known flow has come out, all before it have been looked at.
func Deaths(ctx context.Context, c DeathsConfig) (*Died, error) {
	frames := deathFrames * (c.Deaths + 5)
	l, err := lab.Up(ctx, lab.Config{Blades: 1, VFs: 2, Sequences: 2 * frames})
	if err != nil {
		return nil, err
	}
	d := &dying{DeathsConfig: c, report: &Died{Adopted: 1 << 30}, rng: rand.New(rand.NewPCG(c.Seed, 3)), blade: l.Blades[0]}
	for i, port := range []flow.Port{lab.Uplink + 1, lab.Uplink + 2} {
		d.sides = append(d.sides, &side{at: d.blade.At(port), first: uint64(i * frames), count: frames})
	}
	d.sides[1].kernel = true
	err = d.run(ctx)
	if err == nil {
		err = l.Settle(ctx, 200*time.Millisecond)
	}
	if err == nil {
		d.judge()
	}
	return d.report, errors.Join(err, l.Down())
}

// side is one port's traffic.
type side struct {
	at     *lab.Attachment
	kernel bool // what the port says of new flows
	first  uint64
	count  int
	next   atomic.Uint64 // no frame from here on was made ready
	alive  []span
	dead   []span
}

// span is the sequence numbers from one to before another.
type span struct{ from, to uint64 }

func (s *side) known(sequence uint64) bool { return sequence%newEvery != newEvery-1 }

// after returns the first number from a frame on that is of a known flow, or of a new one.
func (s *side) after(sequence uint64, known bool) uint64 {
	for s.known(sequence) != known {
		sequence++
	}
	return sequence
}

// dying is one run of Deaths.
type dying struct {
	DeathsConfig
	*mortal
	blade  *lab.Blade
	rng    *rand.Rand
	sides  []*side
	status agent.Status // as read last
	back   []time.Duration
	report *Died
}

func (d *dying) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bladeflow-deaths")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	spec := fmt.Sprintf("cache: {pins: %s-flows}\n  fail: closed", d.blade.PinDir)
	d.mortal, err = newMortal(d.blade, dir, d.Agent, spec, map[flow.Port]string{d.sides[1].at.Port: ", fail: kernel"})
	if err != nil {
		return err
	}
	defer d.output.Close()
	if _, err = d.mortal.write(deathRules()); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	defer done.Wait()
	defer stop()
	defer func() { d.kill() }()
	if _, err := d.restart(ctx); err != nil {
		return err
	}
	sent := make(chan error, len(d.sides))
	sending, enough := context.WithCancel(ctx)
	defer enough()
	for _, s := range d.sides {
		done.Go(func() { sent <- s.send(sending) })
	}
	if err := d.learned(ctx); err != nil {
		return err
	}
	for d.report.Deaths < d.Deaths {
		if err := d.cycle(ctx); err != nil {
			return fmt.Errorf("death %d: %w", d.report.Deaths, err)
		}
	}
	enough()
	for range d.sides {
		err = errors.Join(err, <-sent)
	}
	return errors.Join(err, d.counted(ctx))
}

// deathRules sends known and new flows to the uplink. The last one has the table look at
// addresses, so that each new frame is a flow.
func deathRules() []flow.Rule {
	rule := func(name string, from, to uint16) flow.Rule {
		r := flow.Rule{Name: "random/" + name, Priority: 10, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{lab.Uplink}}}}
		r.Match.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		r.Match.Pin(flow.Proto, flow.ProtoUDP, 0xff)
		r.Match.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
		r.Match.SetPorts(flow.DstPort, from, to)
		return r
	}
	all := []flow.Rule{rule("known", knownPort, knownPort+knownFlows-1), rule("new", newPort, newPort), rule("address", 1, 1)}
	all[2].Match.Pin(flow.SrcLo, 0xcb007101, 0xffffffff)
	return all
}

// send sends until ctx ends.
func (s *side) send(ctx context.Context) error {
	k := flow.Key{}
	for f, v := range map[flow.Field]uint64{flow.InPort: uint64(s.at.Port), flow.SrcMAC: 0x020000000001, flow.DstMAC: 0x020000000002, flow.EthType: flow.EthIPv4,
		flow.Proto: flow.ProtoUDP, flow.TTL: 64, flow.Flags: flow.FlagIP | flow.FlagL4, flow.SrcLo: 0x0a000001, flow.DstLo: 0x0a000002, flow.SrcPort: 7} {
		k.Set(f, v)
	}
	frame := stampable(k)
	if frame == nil {
		return errors.New("a frame has no room for a stamp")
	}
	const source, port = 14 + 12, 14 + 20 + 2 // of address and destination port in the frame
	next := func(sequence uint64) []byte {
		s.next.Store(sequence + 1)
		flows := sequence/newEvery*(newEvery-1) + sequence%newEvery // of known ones, before this frame
		to, from := uint16(knownPort+flows%knownFlows), uint32(0x0a000001)
		if !s.known(sequence) {
			to, from = newPort, 0x0b000000+uint32(sequence)
		}
		binary.BigEndian.PutUint16(frame[port:], to)
		binary.BigEndian.PutUint32(frame[source:], from)
		return frame
	}
	s.next.Store(s.first)
	sender, err := s.at.Sender()
	if err != nil {
		return err
	}
	defer sender.Close()
	_, err = sender.Send(ctx, traffic.Load{Frames: next, First: s.first, Count: s.count, Rate: deathRate})
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, errors.New("the frames are used up: this machine is too slow for so many deaths"))
}

// out waits until a frame has come out of the uplink.
func (d *dying) out(ctx context.Context, sequence uint64) error {
	wire := d.blade.At(lab.Uplink).Leaves
	for limit := time.Now().Add(settleLimit); wire.Cell(sequence).Copies == 0; time.Sleep(200 * time.Microsecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(limit) {
			return fmt.Errorf("frame %d has not come out after %s: %s", sequence, settleLimit, d.said())
		}
	}
	return nil
}

// learned waits until the cache knows the flows, and the status, which is on disk before
// anybody sees it, every frame that Go had to judge for that.
func (d *dying) learned(ctx context.Context) error {
	for round := range 4 {
		for _, s := range d.sides {
			if err := d.out(ctx, s.after(s.first+uint64(round+1)*2*knownFlows*newEvery/(newEvery-1), true)); err != nil {
				return err
			}
		}
	}
	known, _ := d.sentNow()
	return d.until(ctx, "the known flows are counted", func(s *agent.Status) bool {
		r, _ := s.Rule("random/known")
		return r.Cache.Packets+r.Software.Packets >= known && r.Cache.Packets > r.Software.Packets
	})
}

// sentNow returns how many frames of known and new flows were made ready so far.
func (d *dying) sentNow() (known, new uint64) {
	for _, s := range d.sides {
		for i := s.first; i < s.next.Load(); i++ {
			if s.known(i) {
				known++
			} else {
				new++
			}
		}
	}
	return known, new
}

// cycle is one death or more, and the agent after it.
func (d *dying) cycle(ctx context.Context) error {
	for _, s := range d.sides { // what is new is answered
		from := s.next.Load()
		to := s.after(from+uint64(d.rng.IntN(5*newEvery)), false)
		if err := d.out(ctx, to); err != nil {
			return err
		}
		s.alive = append(s.alive, span{from, to})
	}
	for {
		if err := d.kill(); err != nil {
			return err
		}
		d.report.Deaths++
		for _, s := range d.sides {
			s.dead = append(s.dead, span{from: s.next.Load()})
		}
		for _, s := range d.sides {
			last := &s.dead[len(s.dead)-1]
			last.to = s.after(s.next.Load()+uint64(newEvery+d.rng.IntN(6*newEvery)), true)
			if err := d.out(ctx, last.to); err != nil {
				return err
			}
		}
		begin := time.Now()
		if d.report.Deaths < d.Deaths && d.rng.IntN(3) == 0 {
			if err := d.mortal.start(); err != nil {
				return err
			}
			time.Sleep(time.Duration(d.rng.Int64N(int64(settleMost(d.back)))))
			d.report.InStart++
			continue
		}
		adopted, err := d.restart(ctx)
		if err != nil {
			return err
		}
		took := time.Since(begin)
		d.back = append(d.back, took)
		if took > backGoal {
			d.report.Late++
		}
		d.report.Adopted = min(d.report.Adopted, adopted)
		return nil
	}
}

// restart starts an agent and waits until it says what is in force.
func (d *dying) restart(ctx context.Context) (adopted int, err error) {
	begin := time.Now()
	if err := d.mortal.start(); err != nil {
		return 0, err
	}
	err = d.until(ctx, "the agent is back", func(s *agent.Status) bool {
		return s.Reconciled.After(begin) && s.Generation > 0 && s.Error == nil && s.Cache != nil
	})
	if err == nil {
		adopted = d.status.Cache.Adopted
	}
	return adopted, err
}

// until reads the status file until it is as wanted. No counter in it may be lower than
// when it was read before.
func (d *dying) until(ctx context.Context, what string, is func(*agent.Status) bool) error {
	for limit := time.Now().Add(settleLimit); ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		var o agent.Object
		text, err := os.ReadFile(d.path("status.json"))
		if err == nil && json.Unmarshal(text, &o) == nil && !o.Status.Reconciled.Equal(d.status.Reconciled) {
			d.compare(&d.status, &o.Status)
			d.status = o.Status
			if is(&d.status) {
				return nil
			}
		}
		if time.Now().After(limit) {
			return fmt.Errorf("%s: not after %s: %+v: %s", what, settleLimit, d.status.Error, d.said())
		}
	}
	return ctx.Err()
}

// compare looks for counters that went back.
func (d *dying) compare(was, is *agent.Status) {
	lower := func(what string, a, b uint64) {
		if b < a {
			d.report.Backwards++
			d.differ("%s was %d and is %d", what, a, b)
		}
	}
	for _, r := range was.Rules {
		now, _ := is.Rule(r.Name)
		lower(r.Name+" in the cache", r.Cache.Packets, now.Cache.Packets)
		lower(r.Name+" in the cache, bytes", r.Cache.Bytes, now.Cache.Bytes)
		lower(r.Name+" in software", r.Software.Packets, now.Software.Packets)
	}
	packets, lost := map[string]uint64{}, map[string]uint64{}
	for _, p := range is.Packets {
		packets[p.Tier+" "+p.Verdict] = p.Packets
	}
	for _, p := range was.Packets {
		lower(p.Tier+" "+p.Verdict, p.Packets, packets[p.Tier+" "+p.Verdict])
	}
	for _, l := range is.Lost {
		lost[l.Reason] = l.Packets
	}
	for _, l := range was.Lost {
		lower(l.Reason, l.Packets, lost[l.Reason])
	}
}

// counted waits until the counters say of known flows what was sent.
func (d *dying) counted(ctx context.Context) error {
	known, _ := d.sentNow()
	err := d.until(ctx, "all are counted", func(s *agent.Status) bool {
		r, _ := s.Rule("random/known")
		return r.Cache.Packets+r.Software.Packets >= known
	})
	if r, _ := d.status.Rule("random/known"); r.Cache.Packets+r.Software.Packets != known {
		d.differ("of %d frames of known flows %d were counted in the cache and %d in software", known, r.Cache.Packets, r.Software.Packets)
	}
	return err
}

func (d *dying) differ(format string, a ...any) {
	if r := d.report; len(r.Different) < 10 {
		r.Different = append(r.Different, fmt.Sprintf(format, a...))
	}
}

// judge looks at every frame.
func (d *dying) judge() {
	r := d.report
	r.Back = quantiles(d.back)
	for _, s := range d.sides {
		for i := s.first; i < s.next.Load(); i++ {
			out, kernel := d.copies(i, s)
			if s.known(i) {
				r.Known++
				if out == 0 {
					r.KnownLost++
					d.differ("frame %d of a known flow of %s is lost", i, s.at.Name)
				}
			} else {
				r.New++
			}
			if out+kernel > 1 || kernel > 0 && (s.known(i) || !s.kernel) {
				r.Astray++
				d.differ("frame %d of %s came out %d times and reached the kernel %d times", i, s.at.Name, out, kernel)
			}
		}
		for _, w := range s.alive {
			for i := s.after(w.from, false); i < w.to; i = s.after(i+1, false) {
				r.Alive++
				if out, _ := d.copies(i, s); out != 1 {
					r.AliveLost++
					d.differ("frame %d of a new flow of %s is lost while there was an agent", i, s.at.Name)
				}
			}
		}
		for _, w := range s.dead {
			for i := s.after(w.from, false); i < w.to; i = s.after(i+1, false) {
				d.judgeDead(s, i)
			}
		}
	}
}

// judgeDead looks at a frame of a new flow that came while there was no agent.
func (d *dying) judgeDead(s *side, i uint64) {
	r := d.report
	out, kernel := d.copies(i, s)
	if !s.kernel {
		r.Closed++
		if out+kernel > 0 {
			r.ClosedOut++
			d.differ("without an agent frame %d of a new flow of %s, which is closed, came out %d times and reached the kernel %d times", i, s.at.Name, out, kernel)
		}
		return
	}
	r.Kernel++
	if out != 0 || kernel != 1 {
		r.KernelLost++
		d.differ("without an agent frame %d of a new flow of %s came out %d times and reached the kernel %d times", i, s.at.Name, out, kernel)
	}
}

// copies returns how often a frame came out, and how often it reached the kernel; what came
// out or in at another port counts twice.
func (d *dying) copies(i uint64, s *side) (out, kernel uint32) {
	for _, at := range d.blade.Attached {
		o, k := at.Leaves.Cell(i).Copies, at.Kernel.Cell(i).Copies
		if at.Port != lab.Uplink {
			o *= 2
		}
		if at != s.at {
			k *= 2
		}
		out, kernel = out+o, kernel+k
	}
	return out, kernel
}
