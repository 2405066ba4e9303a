// Package fallback is the software datapath: it judges every frame that the card
// did not answer, by the whole table. Frames come in batches from the links of the
// blade's representors; each batch is parsed, matched and acted on, and leaves by
// links or to the blade's own kernel.
//
// What it does to a frame is what flow.Judge says, byte for byte; it has its own,
// faster way to get there and never another opinion. It opens no sockets and knows
// no netdevs: afxdp and afpacket do. It changes no hardware and plans nothing.
//
// Start reading at [Datapath] and the essay in datapath.go.
package fallback
