package agent

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// lessons are what the blade's cards showed of their limits, and the file they are kept
// in: no driver tells how much its table holds, and to find out anew after every start
// costs a refusal each time.
type lessons struct {
	device.Lessons
	path    string // empty keeps none
	unsaved bool   // the file does not have all of them
	bad     string // why it cannot be written; empty if it can
}

// recall takes what earlier processes learned.
func (a *Agent) recall() {
	if a.State == "" {
		return
	}
	a.lessons.path = a.State + ".learned"
	var err error
	if a.lessons.Lessons, err = device.LoadLessons(a.lessons.path); err != nil {
		a.event("E_KEPT", "learned limits", err.Error())
	}
}

// learn takes what a device showed of its limits in a change.
func (a *Agent) learn(c *card, d *offload.DeviceReport) {
	for _, shown := range []struct {
		limit, code string
		value       int
	}{{"entries", offload.CodeFull, d.Full}, {"masks", offload.CodeMask, d.FullMasks}} {
		lesson := device.Lesson{Card: c.Card, Limit: shown.limit, Value: shown.value, When: a.Now()}
		for _, f := range d.Failed {
			if f.Outcome.Code == shown.code {
				lesson.Words = f.Outcome.Text
			}
		}
		now := a.lessons.Learn(lesson)
		if slices.Equal(now, a.lessons.Lessons) {
			continue
		}
		a.lessons.Lessons, a.lessons.unsaved = now, true
		a.event(eventLearned, c.Name, fmt.Sprintf("it has room for %d %s: %s", shown.value, shown.limit, lesson.Words))
	}
	a.saveLessons()
}

// review forgets what a device showed of its limits once it holds more, or has another
// driver or firmware.
func (a *Agent) review(c *card) {
	now := a.lessons.Review(c.Card, map[string]int{"entries": len(c.installed), "masks": c.usage.masks})
	if len(now) == len(a.lessons.Lessons) {
		return
	}
	a.lessons.Lessons, a.lessons.unsaved, a.steady = now, true, false
	a.event(eventForgotten, c.Name, "what it once showed of its limits holds no more: it has other firmware or another driver, or holds more by now")
	a.saveLessons()
}

// saveLessons writes what is not written yet. What cannot be is known until the agent
// ends, and then learned again.
func (a *Agent) saveLessons() {
	l := &a.lessons
	if l.path == "" || !l.unsaved {
		return
	}
	err := l.Save(l.path)
	if err != nil && l.bad == "" {
		a.event("E_KEEP", "learned limits", err.Error()+": they are learned again if the agent starts anew")
	}
	l.unsaved, l.bad = err != nil, words(err)
}

// limited returns what a device can do, less what it showed that it cannot.
func (a *Agent) limited(c *card) device.Model { return a.lessons.Over(c.model, c.Card) }
