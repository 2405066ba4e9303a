package flow

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// RuleID identifies a rule through edits, reordering and moves.
type RuleID uint64

// DefaultRule is the RuleID under which a table's default counts and emits.
const DefaultRule RuleID = 0

// NewRuleID returns the ID of a rule: the first 64 bits of SHA-256 over the set's
// unique ID and the rule's name, with a zero byte between them. It is never zero.
func NewRuleID(setUID, rule string) RuleID {
	sum := sha256.Sum256([]byte(setUID + "\x00" + rule))
	return RuleID(max(1, binary.BigEndian.Uint64(sum[:8])))
}

// Generation numbers the tables of one blade in the order they were wanted.
type Generation uint64

// Tier is the layer of policy a rule belongs to; lower tiers are asked first.
type Tier uint8

// The tiers, in the order they are asked.
const (
	TierSystem Tier = iota
	TierAdmin
	TierNetwork
	TierTenant
	TierBaseline
	TierDefault
)

var tierNames = [...]string{"system", "admin", "network", "tenant", "baseline", "default"}

// String returns the contract's word for t.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier%d", uint8(t))
}

// ParseTier returns the tier called s.
func ParseTier(s string) (Tier, error) {
	if i := slices.Index(tierNames[:], s); i >= 0 {
		return Tier(i), nil
	}
	return 0, &Fault{Code: "E_TIER", What: fmt.Sprintf("tier %q", s), Why: "unknown",
		Remedy: "use system, admin, network, tenant, baseline or default"}
}

// MaxPriority is the highest priority a rule may have; the lowest is 0.
const MaxPriority = 1<<31 - 1

// Rule is one line of a [Table].
type Rule struct {
	ID       RuleID
	Name     string // `set/rule`, for people; the ID decides identity
	Tier     Tier
	Priority int32 // higher wins within a tier
	Match    Match
	Actions  Actions
}

// Before orders rules as a table asks them: by tier, then by priority from high to
// low, then by ID. It returns a negative number if r is asked before o. Two rules
// for which only the ID decides must not overlap with different actions.
func (r *Rule) Before(o *Rule) int {
	return cmp.Or(cmp.Compare(r.Tier, o.Tier), cmp.Compare(o.Priority, r.Priority), cmp.Compare(r.ID, o.ID))
}

// TableSpec is what a [Table] is made of. NewTable copies the slice of rules and
// keeps the rest, which must not change afterwards.
type TableSpec struct {
	Generation Generation
	Default    Actions // what no rule matches; empty means drop
	Rules      []Rule
	Switch     *Switch // nil switches nothing: `normal` then drops
	Ports      *Ports  // nil is no names
}

// Table is an immutable, ordered list of rules with a default and a static switch:
// one generation of what one blade does.
type Table struct {
	gen    Generation
	rules  []Rule // rules[len-1] is the default, with ID DefaultRule and an empty Match
	sw     *Switch
	ports  *Ports
	lookup map[RuleID]int32
}

// NewTable sorts and checks the rules: IDs are unique, matches and actions valid,
// and no two rules that only the ID orders overlap with different actions
// ([FindTie]). It returns a *Fault otherwise.
func NewTable(s TableSpec) (*Table, error) {
	t := &Table{gen: s.Generation, sw: s.Switch, ports: s.Ports, lookup: make(map[RuleID]int32, len(s.Rules)+1)}
	if t.sw == nil {
		t.sw = &Switch{}
	}
	t.rules = append(slices.Clone(s.Rules), Rule{ID: DefaultRule, Name: "-", Tier: TierDefault, Priority: -1, Actions: s.Default})
	if len(s.Default) == 0 {
		t.rules[len(s.Rules)].Actions = Actions{{Op: Drop}}
	}
	slices.SortFunc(t.rules[:len(s.Rules)], func(a, b Rule) int { return a.Before(&b) })
	for i := range t.rules {
		r := &t.rules[i]
		if err := r.valid(i == len(s.Rules)); err != nil {
			return nil, fmt.Errorf("rule %s: %w", r.Name, err)
		}
		if j, twice := t.lookup[r.ID]; twice {
			return nil, &Fault{Code: "E_RULE_TWICE", What: "rule " + r.Name,
				Why: "it has the same ID as rule " + t.rules[j].Name, Remedy: "rename one of them"}
		}
		t.lookup[r.ID] = int32(i)
	}
	if tie := FindTie(t.rules[:len(s.Rules)]); tie != nil {
		return nil, tie.fault(s.Ports)
	}
	return t, nil
}

// Edited returns t after changes to single rules: for each ID, the rule that it names
// from then on, or nil for none. That is the table [NewTable] would make of these rules,
// but whoever edits rule by rule has no time for all checks: it is for the caller that
// rules are valid ([Rule.Valid]) and do not tie ([FindTie]). Cost: linear in the rules,
// 0.1 to 0.2 µs each.
func (t *Table) Edited(changes map[RuleID]*Rule) *Table {
	var added []Rule
	for _, r := range changes {
		if r != nil {
			added = append(added, *r)
		}
	}
	slices.SortFunc(added, func(a, b Rule) int { return a.Before(&b) })
	e := &Table{gen: t.gen, sw: t.sw, ports: t.ports, rules: make([]Rule, 0, len(t.rules)+len(added))}
	for i := range t.rules {
		r := &t.rules[i]
		if _, changed := changes[r.ID]; changed && i < t.Len() {
			continue
		}
		for len(added) > 0 && (i == t.Len() || added[0].Before(r) < 0) {
			e.rules = append(e.rules, added[0])
			added = added[1:]
		}
		e.rules = append(e.rules, *r)
	}
	e.lookup = make(map[RuleID]int32, len(e.rules))
	for i := range e.rules {
		e.lookup[e.rules[i].ID] = int32(i)
	}
	return e
}

// Valid returns nil iff a table may hold r: priority, match and actions are in their
// ranges and forms.
func (r *Rule) Valid() error { return r.valid(false) }

func (r *Rule) valid(isDefault bool) error {
	if r.Priority < 0 && !isDefault {
		return &Fault{Code: "E_PRIORITY", What: fmt.Sprintf("priority %d", r.Priority), Why: "out of range", Remedy: "use 0 to 2147483647"}
	}
	if err := r.Match.Valid(); err != nil {
		return err
	}
	if err := r.Actions.Valid(); err != nil {
		return err
	}
	return r.Actions.validOn(&r.Match)
}

// Generation returns the number of t.
func (t *Table) Generation() Generation { return t.gen }

// Len returns the number of rules, not counting the default.
func (t *Table) Len() int { return len(t.rules) - 1 }

// Rule returns the i-th rule in the order they are asked. Rule(Len()) is the
// default, which has ID [DefaultRule]. The caller must not change it.
func (t *Table) Rule(i int) *Rule { return &t.rules[i] }

// Index returns the place of the rule with this ID.
func (t *Table) Index(id RuleID) (i int, ok bool) {
	n, ok := t.lookup[id]
	return int(n), ok
}

// Default returns what happens to packets that no rule matches.
func (t *Table) Default() Actions { return t.rules[t.Len()].Actions }

// Switch returns the static switch of t, never nil.
func (t *Table) Switch() *Switch { return t.sw }

// Ports returns the port names of t, possibly nil.
func (t *Table) Ports() *Ports { return t.ports }

// Lookup returns the place of the first rule that matches k, or Len() if none does
// and the default applies. It is a linear scan and the definition of what t means.
func (t *Table) Lookup(k *Key) int {
	for i := range t.rules {
		if t.rules[i].Match.Matches(k) {
			return i
		}
	}
	return t.Len()
}
