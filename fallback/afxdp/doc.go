// Package afxdp receives and sends the frames of one representor through AF_XDP
// sockets of its own, and hands frames to the kernel as XDP live frames. A [Link]
// is what fallback.Link asks for, a [Kernel] what fallback.Kernel asks for.
//
// It never looks into a frame and never decides where one goes. It uses the
// kernel's copy mode, which every driver with native XDP has, and one socket for each
// receive queue. A frame has at most [MaxFrame] bytes. Start reading at [OpenIn].
package afxdp
