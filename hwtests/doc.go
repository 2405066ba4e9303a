// Package hwtests holds scenarios that send real packets through whole blades, card,
// representors and software datapath under an agent, and compare every frame that
// leaves every port with flow.Judge. The scenarios run on the emulated chassis of
// package lab, alone or as members of a fabric with a store and a manager.
// `bladeflow demo` is one of them, `bladeflow hwtest run` records all.
//
// The expectation is made of flow alone: nothing here asks the planner, the matcher
// or the card what should happen; and what a move does in which order is written down
// by a witness that asks neither agent nor manager. Start reading with [Chassis],
// [Expect] and [Demo], then [Fabric] and [Relocation].
package hwtests
