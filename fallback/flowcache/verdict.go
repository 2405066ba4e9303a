package flowcache

import (
	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/flow"
)

// Op is what a verdict does with a frame.
type Op uint8

// The operations, as cache.h has them.
const (
	Drop    Op = iota
	Forward    // send it on by one port
	Pass       // let it go to the blade's kernel, on the device it came in by
)

// Edit is what happens to a frame's outer VLAN tag before it is sent on.
type Edit uint8

// The edits, as cache.h has them.
const (
	Keep  Edit = iota
	Push       // put Tag in front, with the type Proto
	Pop        // take the tag off
	SetID      // give the tag the id Tag
)

// Verdict is what the cache does with the frames of one flow. A frame must have the tag
// that Pop and SetID work on: whoever makes the verdict has seen it in the key.
type Verdict struct {
	Op    Op
	Edit  Edit      // valid iff Op is Forward
	Port  flow.Port // valid iff Op is Forward
	Tag   uint16    // valid iff Edit is Push or SetID
	Proto uint16    // valid iff Edit is Push
}

func (v Verdict) encode() xdp.CacheVerdict {
	return xdp.CacheVerdict{Op: uint8(v.Op), Edit: uint8(v.Edit), Port: uint16(v.Port), Tag: v.Tag, Proto: v.Proto}
}
