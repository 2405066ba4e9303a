// Package afxdp receives and sends the frames of one representor through an AF_XDP
// socket of its own, and hands frames to the kernel as XDP live frames. A [Link]
// is what fallback.Link asks for, a [Kernel] what fallback.Kernel asks for.
//
// It never looks into a frame and never decides where one goes. It uses the
// kernel's copy mode, which every driver with native XDP has, and one queue: a
// device with several is refused. A frame has at most [MaxFrame] bytes. Start
// reading at [Open].
package afxdp
