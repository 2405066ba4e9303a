package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// needs checks a command's arguments against their names as its usage has them: NAME,
// [NAME] if it may be left out, NAME... if it may come again. What is missing is
// named, with an example of the whole command line.
func needs(example string, names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		remedy := "write for example: " + example
		if len(args) < len(names) && !strings.HasPrefix(names[len(args)], "[") {
			return usage("argument "+strings.TrimSuffix(names[len(args)], "..."), "it is missing", remedy)
		}
		last := names[len(names)-1]
		if len(args) > len(names) && !strings.Contains(last, "...") {
			return usage(fmt.Sprintf("argument %q", args[len(names)]), "there are too many", remedy)
		}
		return nil
	}
}
