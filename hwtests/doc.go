// Package hwtests holds scenarios that send real packets through whole blades, card,
// representors and software datapath under an agent, and compare every frame that
// leaves every port with flow.Judge. The scenarios run on the emulated chassis of
// package lab. `bladeflow demo` is one of them.
//
// The expectation is made of flow alone: nothing here asks the planner, the matcher
// or the card what should happen. Start reading with [Chassis], [Expect] and [Demo].
package hwtests
