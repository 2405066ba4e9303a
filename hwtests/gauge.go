package hwtests

import (
	"context"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/offload/softnic"
)

// gauge watches how much of what comes to a card the card answers. It asks the card
// alone, so it goes on when an agent dies.
type gauge struct {
	mu     sync.Mutex
	looks  []look // guarded by mu, the oldest first
	failed error  // guarded by mu
}

// look is what a card had counted at one time.
type look struct {
	at         time.Time
	hits, came uint64
}

// gaugePace is how often the card is asked, and window over how long a time the share
// of hits is taken: 200 packets at 4,000 a second.
const (
	gaugePace = 10 * time.Millisecond
	window    = 5 // looks
)

// watch looks until ctx ends.
func (g *gauge) watch(ctx context.Context, nic *softnic.NIC) {
	tick := time.NewTicker(gaugePace)
	defer tick.Stop()
	for ctx.Err() == nil {
		stats, err := nic.Stats()
		now := look{at: time.Now()}
		for _, s := range stats {
			now.hits += s.Hits
			now.came += s.Hits + s.Misses + s.Guarded + s.Odd + s.Conflicts
		}
		g.mu.Lock()
		if err != nil {
			g.failed = err
		} else {
			g.looks = append(g.looks, now)
		}
		g.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// forget drops what was seen so far.
func (g *gauge) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.looks = nil
}

// share returns the share of packets since the last forget that the card answered, and
// how many packets that were.
func (g *gauge) share() (share float64, packets uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.looks) == 0 || g.failed != nil {
		return 0, 0, g.failed
	}
	first, last := g.looks[0], g.looks[len(g.looks)-1]
	packets = last.came - first.came
	return float64(last.hits-first.hits) / float64(max(packets, 1)), packets, nil
}

// below returns for how long after begin the card answered, over some looks together,
// less than share of what came; 0 if it never did. lowest is the smallest such share.
func (g *gauge) below(begin time.Time, share float64) (until time.Duration, lowest float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lowest = 1
	for i := window; i < len(g.looks); i++ {
		from, to := g.looks[i-window], g.looks[i]
		if from.at.Before(begin) || to.came == from.came {
			continue
		}
		now := float64(to.hits-from.hits) / float64(to.came-from.came)
		lowest = min(lowest, now)
		if now < share {
			until = to.at.Sub(begin)
		}
	}
	return until, lowest
}
