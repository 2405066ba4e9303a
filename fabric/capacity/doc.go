// Package capacity says what a fabric has, what of it is allocated, what is used and
// what is left: virtual functions, port bandwidth, table entries and the software
// budget, per port, PF, blade, chassis and fleet. It also says what would happen if
// more vNICs came.
//
// It decides on plain values and does no I/O: an [Input] goes in, a [Document] comes
// out, and every form of the report (JSON, CSV, Markdown, HTML) is written from that
// document alone, the same bytes for the same input. Package history records the
// demand that an input carries.
//
// What is unknown stays unknown: a table whose size nobody declared or learned has no
// total, no remaining and no percentage, and whatever is counted without it says "at
// most". Demand is projected into the future only when a horizon is asked for, and only
// where the record bears it (forecast.go).
//
// Start reading with [Input], then [Report]; the formulas are in figure.go and fit.go.
package capacity
