package fallback

import "github.com/bladeflow/bladeflow/flow"

// Stats is what a [Datapath] has done since it was made. Numbers never decrease.
// Every frame is in exactly one of Early, Short, Dropped, Normal, Passed and
// Output; those of the last four are also in the counter of one rule.
type Stats struct {
	Frames uint64 // received
	Early  uint64 // dropped: no table was there yet
	Short  uint64 // dropped: no Ethernet header, so no key

	Dropped uint64 // judged drop, given a third VLAN tag, or policed
	Policed uint64 // of Dropped: came faster than a police action lets pass
	Normal  uint64 // judged normal, wherever the switch delivered them
	Passed  uint64 // judged pass
	Output  uint64 // judged output

	Sent      uint64 // copies given to links
	Delivered uint64 // frames given to the kernel
	NoPort    uint64 // copies for a port that has no link, or for a kernel that is not there
	Failed    uint64 // copies that a link or the kernel refused, and flushes that did not end
	Trouble   error  // the latest reason of Failed; nil iff Failed is 0

	Links map[flow.Port]LinkStats
	Cache *CacheStats // of frames that never came here; nil without a cache
}

// LinkStats is what a [Link] says of itself.
type LinkStats struct{ Received, Sent, Dropped uint64 }

func (s *Stats) fail(err error) {
	s.Failed++
	s.Trouble = err
}

// add adds one worker's numbers.
func (s *Stats) add(o *Stats) {
	s.Frames += o.Frames
	s.Early += o.Early
	s.Short += o.Short
	s.Dropped += o.Dropped
	s.Policed += o.Policed
	s.Normal += o.Normal
	s.Passed += o.Passed
	s.Output += o.Output
	s.Sent += o.Sent
	s.Delivered += o.Delivered
	s.NoPort += o.NoPort
	s.Failed += o.Failed
	if o.Trouble != nil {
		s.Trouble = o.Trouble
	}
}
