package flowtest

import (
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
)

// Actions returns a random valid list of actions on the given ports, of which there
// is at least one: up to two steps that change or copy the frame, then a terminal.
func Actions(rng *rand.Rand, ports []flow.Port) flow.Actions {
	var a flow.Actions
	for rng.IntN(2) == 0 && len(a) < 2 {
		a = append(a, step(rng, ports))
	}
	end := flow.Action{Op: []flow.Op{flow.Drop, flow.Normal, flow.Pass, flow.Output, flow.Output}[rng.IntN(5)]}
	if end.Op == flow.Output {
		end.Ports = somePorts(rng, ports)
	}
	return append(a, end)
}

func step(rng *rand.Rand, ports []flow.Port) flow.Action {
	id, prio := uint16(rng.IntN(flow.TagID+1)), uint16(rng.IntN(8))
	switch rng.IntN(4) {
	case 0:
		return flow.Action{Op: flow.VLANPush, Tag: prio<<13 | id, Proto: []uint16{flow.EthVLAN, flow.EthQinQ}[rng.IntN(2)]}
	case 1:
		return flow.Action{Op: flow.VLANPop}
	case 2:
		return flow.Action{Op: flow.VLANSet, Tag: id}
	}
	return flow.Action{Op: flow.Mirror, Ports: somePorts(rng, ports)}
}

// somePorts returns one or two different ports.
func somePorts(rng *rand.Rand, ports []flow.Port) []flow.Port {
	order := rng.Perm(len(ports))
	var some []flow.Port
	for _, i := range order[:min(len(order), 1+rng.IntN(4)/3)] {
		some = append(some, ports[i])
	}
	return some
}
