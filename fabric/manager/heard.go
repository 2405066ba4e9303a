package manager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// What blades say of themselves.
//
// What they have is added up over the fabric, and its names are those of series and metrics. So
// one blade whose agent says nonsense, or is not ours any more, must not keep the others from
// being counted, planned and changed: what cannot be is found here, where it comes in, and
// that blade is held with the reason until it says something else.

// report is what one blade said last.
type report struct {
	alive     *api.Alive // nil if the agent's lease is gone
	silent    time.Time  // since when; valid iff alive is nil
	inventory *api.Inventory
	status    *api.BladeStatus
	rules     *api.Rules
	ports     *api.Ports
	before    counted     // the rules and ports of the report before those
	got       gotten      // when this manager got what it has
	seen      fabric.Seen // made of inventory and status; Age is not set
	devices   int64       // the store's revision of the inventory
	odd       [parts]error
	err       error // the report cannot be understood: the first of odd
}

// What of a report may not be understood, until that part of it comes anew.
const (
	oddAlive = iota
	oddInventory
	oddStatus
	oddSeen // inventory and status, taken together
	oddRules
	oddPorts
	parts
)

// counted is what a blade has counted; nil is what it has not reported.
type counted struct {
	rules *api.Rules
	ports *api.Ports
}

// gotten is when a manager got parts of a report.
type gotten struct{ rules, ports time.Time }

func (f *follower) reported(e store.Event) {
	name, part, ok := e.Key.StatusOf()
	if !ok {
		return
	}
	id := fabric.BladeID(name)
	r := report{silent: f.now()}
	if was := f.blades[id]; was != nil {
		r = *was
	}
	switch part {
	case api.PartAlive:
		r.alive = decodePart[api.Alive](e, &r.odd[oddAlive])
		if r.alive == nil {
			r.silent = f.now()
		}
	case api.PartInventory:
		r.inventory = decodePart[api.Inventory](e, &r.odd[oddInventory])
		r.devices = e.Modified
	case api.PartGeneration:
		r.status = decodePart[api.BladeStatus](e, &r.odd[oddStatus])
		if r.status != nil && r.status.Status.Record > e.Modified {
			r.status.Status.Record = 0 // of the store that this one was restored from
		}
	case api.PartRules:
		r.before.rules, r.got.rules = r.rules, f.now()
		r.rules = decodePart[api.Rules](e, &r.odd[oddRules])
	case api.PartPorts:
		r.before.ports, r.got.ports = r.ports, f.now()
		r.ports = decodePart[api.Ports](e, &r.odd[oddPorts])
	}
	if part == api.PartInventory || part == api.PartGeneration {
		r.odd[oddSeen] = nil
		if r.inventory != nil {
			var inv fabric.Inventory
			if inv, r.odd[oddSeen] = modelInventory(r.inventory); r.odd[oddSeen] == nil {
				r.seen, r.odd[oddSeen] = modelSeen(name, inv, r.status)
			}
		}
	}
	r.err = cmp.Or(r.odd[:]...)
	f.blades[id] = &r
	if r.alive == nil && r.inventory == nil && r.status == nil && r.rules == nil && r.ports == nil {
		delete(f.blades, id)
	}
}

// decodePart decodes one part of a report; nil if it was deleted, or if err says why it cannot be
// understood.
func decodePart[T any](e store.Event, err *error) *T {
	*err = nil
	if e.Deleted {
		return nil
	}
	v := new(T)
	if *err = json.Unmarshal(e.Value, v); *err != nil {
		return nil
	}
	return v
}

// What a blade may have at most: more than any has, and little enough to be added up.
const (
	mostVFs     = 1 << 16 // of a PF
	mostEntries = 1 << 40 // of a device
	mostSpeed   = 1e15    // bits a second of a link
)

// strange is the fault of a report that says what cannot be.
func strange(what, why string) error {
	return &flow.Fault{Code: "E_BLADE_REPORT", What: what, Why: why, Remedy: "see that its agent is one of this version, and what bladeflow inventory says there"}
}

// strangeInventory returns what of an inventory cannot be; nil if there is nothing. Functions are
// named by what they are part of, each once.
func strangeInventory(v *api.Inventory) error {
	known := map[string]bool{}
	named := func(name, within string) error {
		last, is := strings.CutPrefix(name, within)
		switch {
		case !is || flow.ValidRuleName(last) != nil:
			return strange(fmt.Sprintf("function %q", name), fmt.Sprintf("not the name of one of %q", strings.TrimSuffix(within, "/")))
		case known[name]:
			return strange("function "+name, "it is there twice")
		}
		known[name] = true
		return nil
	}
	for _, n := range v.Status.NICs {
		if err := named(n.Name, ""); err != nil {
			return err
		}
		for _, p := range n.PFs {
			if err := named(p.Name, n.Name+"/"); err != nil {
				return err
			}
			if min(p.TotalVFs, p.NumVFs) < 0 || max(p.TotalVFs, p.NumVFs, len(p.VFs)) > mostVFs {
				return strange("function "+p.Name, fmt.Sprintf("it says that it has %d VFs of %d", p.NumVFs, p.TotalVFs))
			}
			if p.Netdev != nil && p.Netdev.BitsPerSecond > mostSpeed {
				return strange("function "+p.Name, fmt.Sprintf("it says that its link does %d bits a second", p.Netdev.BitsPerSecond))
			}
			for _, f := range p.VFs {
				if err := named(f.Name, p.Name+"/"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// strangeDevice returns what of a device cannot be; nil if there is nothing.
func strangeDevice(d *api.Device) error {
	if min(d.Entries, d.Limit) < 0 || max(d.Entries, d.Limit) > mostEntries {
		return strange("device "+d.Name, fmt.Sprintf("it says that it has %d entries of %d", d.Entries, d.Limit))
	}
	return nil
}
