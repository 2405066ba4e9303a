package peers

import (
	"context"
	"errors"
	"fmt"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

func layDrop(s *stand, t traffic) (*device, error) {
	d, run, err := s.newDatapath(t, nil, flow.Action{Op: flow.Drop}, false) // nothing leaves
	if err != nil {
		return nil, err
	}
	run()
	return &device{ended: func() uint64 { return d.Totals().Dropped }}, nil
}

// outward is what the rules do where frames are forwarded.
var outward = flow.Action{Op: flow.Output, Ports: []flow.Port{outsidePort}}

// layForward forwards in Go. Frames leave many at a time, as an agent has them leave, or one
// by one.
func layForward(redirected bool) func(*stand, traffic) (*device, error) {
	return func(s *stand, t traffic) (*device, error) {
		_, run, err := s.newDatapath(t, nil, outward, redirected)
		if err != nil {
			return nil, err
		}
		run()
		return &device{}, nil
	}
}

// layCached is the same with the flow cache: Go sees the first frame of each flow.
func layCached(s *stand, t traffic) (*device, error) {
	cache, err := s.newCache()
	if err != nil {
		return nil, err
	}
	_, run, err := s.newDatapath(t, cache, outward, true)
	if err != nil {
		return nil, err
	}
	run()
	return &device{}, nil
}

// newCache makes a flow cache on both netdevs.
func (s *stand) newCache() (*flowcache.Cache, error) {
	cache, err := flowcache.Open(flowcache.Config{})
	if err != nil {
		return nil, err
	}
	s.onClose(cache.Close)
	return cache, s.middle.Do(func() error {
		return errors.Join(cache.Attach(insidePort, s.inside, flowcache.PortConfig{}), cache.Attach(outsidePort, s.outside, flowcache.PortConfig{}))
	})
}

// newDatapath makes the software datapath as an agent does, with AF_XDP on both netdevs,
// behind a cache if there is one. It works from run until the stand is closed.
func (s *stand) newDatapath(t traffic, cache *flowcache.Cache, inward flow.Action, redirected bool) (d *fallback.Datapath, run func(), err error) {
	table, err := t.table(inward)
	if err != nil {
		return nil, nil, err
	}
	config := fallback.Config{Queues: map[flow.Port][]fallback.Link{}, Cache: cache}
	err = s.middle.Do(func() error {
		for port, index := range map[flow.Port]int{insidePort: s.inside, outsidePort: s.outside} {
			open := func() ([]*afxdp.Link, error) {
				l, err := afxdp.Open(index)
				return []*afxdp.Link{l}, err
			}
			if cache != nil {
				open = func() ([]*afxdp.Link, error) {
					return afxdp.OpenIn(index, cache.Sockets(), func(queue int) uint32 { return flowcache.Place(port, queue) })
				}
			}
			queues, err := open()
			if err != nil {
				return err
			}
			for _, l := range queues {
				s.onClose(l.Close)
				if redirected {
					// All netdevs of a stand have the same MTU, and NAPI at their other end.
					if err := l.Redirect(func() int { return 1514 }); err != nil {
						return err
					}
				}
				config.Queues[port] = append(config.Queues[port], l)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if d, err = fallback.New(config); err != nil {
		return nil, nil, err
	}
	if err := d.Swap(table); err != nil {
		return nil, nil, err
	}
	return d, func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		s.onClose(func() error {
			cancel()
			err := <-ended
			if failed := d.Stats().Failed; failed > 0 {
				err = errors.Join(err, fmt.Errorf("%d frames failed: %w", failed, d.Stats().Trouble))
			}
			return err
		})
	}, nil
}
