// Package traffic sends frames with sequence numbers, at a rate, in bursts small
// enough for the 256 places in a veth's ring. It never makes up frames (package
// flow does) and never receives (package observe does). Start reading with
// [Sender.Send].
package traffic
