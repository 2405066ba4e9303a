package fallback

import "github.com/bladeflow/bladeflow/flow"

// Link receives and sends the frames of one representor, or those of one of its queues. A
// Link is opened and closed by whoever gives it to a [Datapath]; Recv is called by one
// goroutine at a time, everything else by any.
type Link interface {
	// Recv fills frames with what has arrived and returns how many there are. It
	// waits for the first one; after Wake it returns 0 and no error. The frames
	// stay valid until the next Recv. An error means that the link is dead.
	Recv(frames [][]byte) (int, error)
	// Wake makes a Recv that waits, or else the next one that would, return.
	Wake()
	// Send copies a frame. It leaves at the next Flush or earlier.
	Send(frame []byte) error
	// Flush returns when every frame sent before has left.
	Flush() error
	// Stats returns how many frames Recv handed out, how many left, and how many
	// were lost in between without anybody being told. They never decrease.
	Stats() (received, sent, dropped uint64)
}

// Kernel hands frames to the blade's own kernel, where each arrives once, as if
// received on the representor of port. Deliver may be called by any goroutine and
// does not keep the frame.
type Kernel interface {
	Deliver(port flow.Port, frame []byte) error
}
