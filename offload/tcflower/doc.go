// Package tcflower puts entries into a NIC through tc flower: the kernel's classifier
// whose rules drivers carry into silicon. It has its own netlink codec, because a reader
// that leaves out what it does not know takes `ct_state +est` for "every packet".
//
// The package has three floors. The codec is pure: a [Filter] is one rule as the kernel
// has it, [Filter.Append] writes it, [ParseFilter] reads it, and what it does not know it
// keeps ([Filter.Unknown]). The translation is pure too: it says which filters an entry
// is, and which entry a set of filters is (translate.go). The [Driver] sends the ones and
// reads the others; it remembers nothing.
//
// Start reading with [Filter], then translate.go.
package tcflower
