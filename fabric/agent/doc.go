// Package agent runs one blade: it reads what its devices hold, plans, lets the
// checker gate the plan, applies it, and reads back; and it says how things are, as
// a status object, as metrics and in a log.
//
// It remembers nothing that decides anything. What a device holds is read from the
// device in every round, so an entry that was deleted, altered or added behind the
// agent's back is found and put right by the same plan that would have put it there,
// and a restarted agent is one whose first round finds much. Entries without
// bladeflow's mark are never touched. What it does remember is counters, which must
// not decrease when an entry goes or the agent does, and what it left in a device, to
// count drift. Planner and prover remember, too, but only to be fast: their answers are
// those of offload.NewPlan and verify.Check.
//
// Every round is an audit (audit.go): what a device holds is compared with what was left
// there and proved against the table, counters are compared with each other, and a rule
// whose packets pass by the device that has it is looked for. Some of the frames that
// software judged are judged again, by the definition, and the devices' entries are asked
// whether they should have answered them (sample.go). While nothing is to be done, a canary
// shows whether a device asks and counts what it lists (canary.go), and for a moment it is looked
// under entries for packets that others above should have taken (peek.go). What a card delivers
// has to be explained by its entries (leak.go). A card that fails one of the last two is trusted
// no more. What is found is an [Event].
//
// When it ends, the devices keep their entries: hardware is fail-static. The
// software datapath ends with its process: what the devices miss or punt reaches the
// representors and, as no rule is asked any more, whatever the blade's kernel does
// with it, which without a bridge or routes is nothing.
//
// A blade stands alone, with rules in files ([Files]), or is one of a fabric, told and
// heard through a store ([Fabric]): it calls the store and listens nowhere for it, and
// while nobody answers it goes on as it was told last.
//
// Representors that are removed and come back keep their place (links.go).
//
// Start reading with [Agent.Reconcile] and its round, then [Fabric].
package agent
