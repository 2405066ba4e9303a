package ruleset

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// maxAliased is how many values the aliases of one file may stand for. Every alias is
// read as what it stands for, so a list of aliases of a list of aliases would make
// gigabytes of rules out of a few kilobytes of text.
const maxAliased = 1_000_000

// bound refuses a document whose aliases stand for too much, or for themselves.
func (d *documents) bound(document *yaml.Node) error {
	sizes := map[*yaml.Node]int{} // values under a node, aliases followed, of nodes with an anchor
	var size func(n *yaml.Node) (int, error)
	size = func(n *yaml.Node) (int, error) {
		if known, ok := sizes[n]; ok {
			return known, nil
		}
		if n.Anchor != "" {
			sizes[n] = maxAliased + 1 // what it is for an alias inside of itself
		}
		sum := 1
		for _, c := range n.Content {
			part, err := size(deref(c))
			if err != nil {
				return 0, err
			}
			if c.Kind == yaml.AliasNode {
				d.aliased += part
			}
			if d.aliased > maxAliased {
				return 0, d.fault(c, "alias *"+c.Value, "E_ALIAS", fmt.Sprintf("the aliases up to here stand for more than %d values", maxAliased), "write out what is meant")
			}
			sum += part
		}
		if n.Anchor != "" {
			sizes[n] = sum
		}
		return sum, nil
	}
	_, err := size(document)
	return err
}
