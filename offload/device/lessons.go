package device

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Card is what a learned limit holds for: one card with one driver and firmware. With
// other firmware all is to be learned again.
type Card struct {
	NIC      string `json:"nic"` // PCI address and serial
	Driver   string `json:"driver"`
	Firmware string `json:"firmware"`
}

// Trust is what a lesson is about that is no limit: whether the card does what its entries
// say. Once it did not, nothing is put into it, until it has other firmware or another
// driver, or somebody takes the lesson out of the file.
const Trust = "trust"

// Lesson is a limit of a card that it showed by its first refusal, or [Trust].
type Lesson struct {
	Card  Card      `json:"card"`
	Limit string    `json:"limit"` // entries, masks, priorities or counted, as in a model's limits; or trust
	Value int       `json:"value"` // how many there were when one more was refused; at least 1, and that of trust
	When  time.Time `json:"when"`
	Words string    `json:"words,omitempty"` // the driver's
}

// Lessons are what cards showed of their limits, at most one lesson for each limit of
// a card, sorted by card and limit. No NIC driver tells how much its table holds, so
// the first "table full" is the best there is. It can be too low, where somebody
// else's entries filled the table; it goes when the card holds more ([Lessons.Review]), or by
// hand.
type Lessons []Lesson

// Learn returns l with a lesson more. Of two on the same limit the smaller one stays:
// how much fits depends on what is put in. l itself is not changed. A lesson that
// names no limit, or one below 1, teaches nothing.
func (l Lessons) Learn(lesson Lesson) Lessons {
	if lesson.Value < 1 || lesson.Limit != Trust && new(Model).limit(lesson.Limit) == nil {
		return l
	}
	i, known := slices.BinarySearchFunc(l, lesson, Lesson.compare)
	if known && l[i].Value <= lesson.Value {
		return l
	}
	l = slices.Clone(l)
	if known {
		l[i] = lesson
		return l
	}
	return slices.Insert(l, i, lesson)
}

// Review returns l without what does not hold any more of a card: what it showed with
// another driver or firmware, and limits below what it holds now, by their names. l itself
// is not changed.
func (l Lessons) Review(c Card, held map[string]int) Lessons {
	stale := func(x Lesson) bool { return x.Card.NIC == c.NIC && (x.Card != c || held[x.Limit] > x.Value) }
	if !slices.ContainsFunc(l, stale) {
		return l
	}
	return slices.DeleteFunc(slices.Clone(l), stale)
}

func (a Lesson) compare(b Lesson) int {
	return cmp.Or(strings.Compare(a.Card.NIC, b.Card.NIC), strings.Compare(a.Card.Driver, b.Card.Driver),
		strings.Compare(a.Card.Firmware, b.Card.Firmware), strings.Compare(a.Limit, b.Limit))
}

// Over returns m with what was learned on card c, as evidence of tier learned. A
// lesson only ever lowers a limit, so an entry that m's own limits refuse stays out.
func (l Lessons) Over(m Model, c Card) Model {
	m.Evidence = maps.Clone(m.Evidence)
	for i := range l {
		lesson := &l[i]
		if lesson.Card != c {
			continue
		}
		if lesson.Limit == Trust {
			m.Barred = &Refusal{"E_DEVICE_LIES", fmt.Sprintf("%s did not do with packets what its entries say: %s, on %s", m.Name, lesson.Words, lesson.When.UTC().Format(time.DateOnly)),
				"replace the card, or its firmware; then it is trusted again"}
			continue
		}
		limit := m.limit(lesson.Limit)
		if limit == nil || lesson.Value < 1 || *limit != 0 && *limit <= lesson.Value {
			continue
		}
		*limit = lesson.Value
		if m.Evidence == nil {
			m.Evidence = map[string]Evidence{}
		}
		m.Evidence[lesson.Limit] = Evidence{Learned, fmt.Sprintf("the first refusal of %s, firmware %s, on %s: %s",
			c.NIC, c.Firmware, lesson.When.UTC().Format(time.DateOnly), cmp.Or(lesson.Words, "no words"))}
	}
	return m
}

// limit returns the limit of that name which a card can show by refusing; nil if
// there is none.
func (m *Model) limit(name string) *int {
	switch name {
	case "entries":
		return &m.Entries
	case "masks":
		return &m.Masks
	case "priorities":
		return &m.Priorities
	case "counted":
		return &m.Counted
	}
	return nil
}

// LoadLessons reads the file that [Lessons.Save] wrote. No file means that nothing
// was learned yet; a damaged one is an error with its name.
func LoadLessons(file string) (Lessons, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all, l Lessons
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("learned limits %s: %w: repair or remove the file; limits are then learned again", file, err)
	}
	for _, lesson := range all {
		l = l.Learn(lesson)
	}
	return l, nil
}

// Save writes l to a file, which readers and a crash find either as it was or whole.
func (l Lessons) Save(file string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".learned-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
