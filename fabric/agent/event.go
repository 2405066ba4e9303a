package agent

import "time"

// Event is something that happened to the blade and that somebody may want to know later.
type Event struct {
	At     time.Time `json:"at"`
	Code   string    `json:"code"`   // stable
	Object string    `json:"object"` // what it happened to
	Text   string    `json:"text"`
}

// The codes of events, besides those of faults.
const (
	eventMissing     = "E_ENTRY_MISSING"  // a device lost an entry
	eventAltered     = "E_ENTRY_ALTERED"  // an entry is not what was put in
	eventOrphaned    = "E_ENTRY_ORPHANED" // an entry has our mark, and nobody put it in
	eventForeign     = "E_ENTRY_FOREIGN"  // somebody else put an entry in
	eventUnsound     = "E_ENTRY_UNSOUND"  // an entry could answer a packet wrongly
	eventHealed      = "DRIFT_HEALED"     // what drifted was put right
	eventRefused     = "E_DEVICE_REFUSED" // a device did not do what it was told
	eventCounters    = "E_COUNTERS"       // counters do not add up
	eventSilent      = "E_DEVICE_IDLE"    // a rule's packets pass by the device that has it
	eventMisjudged   = "E_MISJUDGED"      // software did not do with a packet what the table says
	eventCanary      = "E_CANARY"         // a device does not do what it lists
	eventLies        = "E_DEVICE_LIES"    // a device forwards what no entry says
	eventInterrupted = "E_INTERRUPTED"    // the agent ended in the middle of a change
	eventAway        = "E_NETDEV"         // a port's netdev was removed, or cannot be used
	eventBack        = "LINK_OPEN"        // it is back
	eventLearned     = "LIMIT_LEARNED"    // a device showed how much it holds, by refusing more
	eventForgotten   = "LIMIT_FORGOTTEN"  // a device holds more than it once had room for, or has other firmware
	eventShape       = "CARD_IN_SHAPE"    // a card has the VFs and the mode again that it is to have
	eventInForce     = "GENERATION_IN_FORCE"
)

// eventsKept is how many events a status has: the last.
const eventsKept = 32

// events are the last things that happened, the oldest first, and how many of each kind
// ever did.
type events struct {
	last  []Event
	total map[string]uint64
}

// add notes one. It never changes a list that a status has.
func (e *events) add(at time.Time, code, object, text string) {
	from := max(0, len(e.last)+1-eventsKept)
	e.last = append(append(make([]Event, 0, eventsKept), e.last[from:]...), Event{at, code, object, text})
	if e.total == nil {
		e.total = map[string]uint64{}
	}
	e.total[code]++
}
