package api

// PolicyView is all that decides on one blade, in order: the rule sets that hold there, as
// the fabric wants them. Its name is the blade's.
type PolicyView struct {
	Head
	Status PolicyStatus `json:"status"`
}

// PolicyStatus is a policy and how far the blade is with it. Lists are never null.
type PolicyStatus struct {
	// State is unseen (the blade never reported, so nothing is known of its ports),
	// refused (the sets cannot hold together there; the blade keeps what it has), pending
	// (the blade has not proved it yet) or proved.
	State  string `json:"state"`
	Reason *Error `json:"reason,omitempty"` // of what is refused

	Digest  string      `json:"digest,omitempty"` // of the content that it is part of
	Default string      `json:"default"`          // actions for what no rule matches
	Sets    []PolicySet `json:"sets"`             // in the order in which their tiers are asked, and by name
	Total   int         `json:"total"`            // rules

	// Rules are in the order in which they are asked. They are there when one policy is
	// asked for, and absent in lists.
	Rules []PolicyRule `json:"rules,omitempty"`
}

// PolicySet is what one rule set is on one blade.
type PolicySet struct {
	Tier     string   `json:"tier"`
	Name     string   `json:"name"`
	Rules    int      `json:"rules"`              // on this blade: a set may have one for each profile, and those that match nothing here are left out
	Highest  int32    `json:"highest"`            // priority; valid iff there are rules
	Lowest   int32    `json:"lowest"`             // likewise
	Default  bool     `json:"default"`            // it says what the default is
	Profiles []string `json:"profiles,omitempty"` // that are on this blade and use it; a set of tier tenant holds because of them
	RuleTile
	Unreported int `json:"unreported"` // rules of which the blade has not said yet where they live
	Unlisted   int `json:"unlisted"`   // rules that counted too little to be in the blade's report, which is too long
}

// PolicyRule is one rule of a policy.
type PolicyRule struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Tier     string `json:"tier"`
	Priority int32  `json:"priority"`
	Match    string `json:"match"`   // the contract's text; empty matches all
	Actions  string `json:"actions"` // likewise
	Place    string `json:"place"`   // hardware, mixed, software, unreported or unlisted
	Packets  uint64 `json:"packets"` // that it has counted
}
