package peers

import (
	"context"
	"errors"
	"fmt"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/fallback/afxdp"
	"github.com/bladeflow/bladeflow/flow"
)

func layDrop(s *stand, t traffic) (*device, error) {
	d, run, err := s.newDatapath(t, flow.Action{Op: flow.Drop})
	if err != nil {
		return nil, err
	}
	run()
	return &device{ended: func() uint64 { return d.Stats().Dropped }}, nil
}

func layForward(s *stand, t traffic) (*device, error) {
	_, run, err := s.newDatapath(t, flow.Action{Op: flow.Output, Ports: []flow.Port{outsidePort}})
	if err != nil {
		return nil, err
	}
	run()
	return &device{}, nil
}

// newDatapath makes the software datapath as an agent does, with AF_XDP on both netdevs.
// It works from run until the stand is closed.
func (s *stand) newDatapath(t traffic, inward flow.Action) (d *fallback.Datapath, run func(), err error) {
	table, err := t.table(inward)
	if err != nil {
		return nil, nil, err
	}
	config := fallback.Config{Links: map[flow.Port]fallback.Link{}}
	err = s.middle.Do(func() error {
		for port, index := range map[flow.Port]int{insidePort: s.inside, outsidePort: s.outside} {
			l, err := afxdp.Open(index)
			if err != nil {
				return err
			}
			s.onClose(l.Close)
			config.Links[port] = l
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
