package capacity

import (
	"io"

	"go.yaml.in/yaml/v3"
)

// Write writes an input as [ParseInput] reads it.
func (in Input) Write(w io.Writer) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(form[Input]{APIVersion: "bladeflow/v1", Kind: "CapacityInput", Metadata: metadata{in.Name}, Spec: in}); err != nil {
		return err
	}
	return e.Close()
}
