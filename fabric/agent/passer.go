package agent

import (
	"sync"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
)

// The way to the blade's own kernel, which stays while netdevs come and go: links.go says why.

// passer is a [fallback.Kernel] that is made anew when netdevs come back.
type passer struct {
	mu     sync.RWMutex // guards what follows; held for reading while a frame is handed over
	kernel kernel       // nil if it could not be made
}

type kernel interface {
	fallback.Kernel
	Close() error
}

// Deliver implements [fallback.Kernel].
func (p *passer) Deliver(port flow.Port, frame []byte) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.kernel == nil {
		return errAway
	}
	return p.kernel.Deliver(port, frame)
}

// renew replaces the kernel by what open makes. The old one goes first: both would use
// the same names.
func (p *passer) renew(open func() (kernel, error)) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kernel != nil {
		p.kernel.Close() // its netdevs may be gone, and with them what it complains of
		p.kernel = nil
	}
	if k, e := open(); e == nil {
		p.kernel = k
	} else {
		err = e
	}
	return err
}

// Close closes the kernel.
func (p *passer) Close() error { return p.renew(func() (kernel, error) { return nil, nil }) }
