// Package agent runs one blade: it reads what its devices hold, plans, lets the
// checker gate the plan, applies it, and reads back; and it says how things are, as
// a status object, as metrics and in a log.
//
// It remembers nothing that decides anything. What a device holds is read from the
// device in every round, so an entry that was deleted, altered or added behind the
// agent's back is found and put right by the same plan that would have put it there,
// and a restarted agent is one whose first round finds much. Entries without
// bladeflow's mark are never touched. What it does remember is counters, which must
// not decrease when an entry goes, and what it left in a device, to count drift.
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
// Start reading with [Agent.Reconcile] and its round, then [Fabric].
package agent
