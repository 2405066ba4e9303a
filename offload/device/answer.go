package device

// A model is of a family of cards; one card may take less. So drivers try each claim of the
// model on the card at hand (tcflower's Probe), and this is the form in which they say what
// came of it, for whoever shows it to people. It is evidence of what a card takes, not of
// what it does.

// Answer is what a card said when a claim of its model was tried on it, with an entry that
// changes nothing.
type Answer struct {
	Claim string `json:"claim"`           // as in a model: `ip_tos: any`, or an action
	Taken bool   `json:"taken"`           // it took the entry and told it back as it was
	Sure  bool   `json:"sure"`            // false if it refused for another reason: then the model stands
	Words string `json:"words,omitempty"` // the driver's; empty if it took it
}
