// Package afpacket receives and sends the frames of one representor through
// AF_PACKET, and hands frames to the kernel through a tap device. A [Link] is what
// fallback.Link asks for, a [Kernel] what fallback.Kernel asks for. The Link serves
// where afxdp cannot, for it needs no XDP; sending costs a third more. The Kernel
// serves beside links of either kind.
//
// It never decides where a frame goes. Start reading at [Open].
//
// What it cannot show: the kernel drops a frame that ends within 2 bytes of its
// outer VLAN tag before any tap sees it, and refuses to send one that is longer than
// the MTU allows with one tag.
//
// # A tap is not a queue
//
// AF_PACKET shows frames to us and gives them to the kernel all the same, which
// would then answer or forward a second copy. So a program at the device's TCX
// ingress, which runs after the taps, drops what arrives. Frames that `pass` hands
// to the kernel have to arrive there too, on the same device: they carry [Mark],
// which the program lets by and the tap does not look at.
package afpacket
