// Package flow is the vocabulary every other package of bladeflow speaks: what
// rules can see of a packet ([Key]), what a rule says ([Match], [Action],
// [Rule]), what a set of rules means ([Table]), and what happens to a packet
// ([Judge]).
//
// Two functions are definitions, written to be read: [Table.Lookup], a linear
// scan, is the meaning of a table, and [Judge], frame in and emissions out, is
// the meaning of a packet. Everything fast, in a NIC, in XDP, in package matcher
// or in the software datapath, is an implementation that has to agree with them.
//
// The package does no I/O and imports only the standard library. Start reading
// with [Key], [Match.Matches], [Table.Lookup] and [Judge].
package flow
