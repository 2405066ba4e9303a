package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

func applyCommand() *cobra.Command {
	var g changing
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "create and change objects, all of them or none",
		Long: `Create the objects of the files, or change those that are there, in one transaction: if one of them cannot
be, nothing is changed. An object with a metadata.revision is put only if it still has that revision.
--dry-run says what would happen. --wait returns when every blade concerned runs the new generation and has
proved it, and says how long that took; exit code 7 if the time is over and only some have.`,
		Example: `  bladeflow apply -f chassis.yaml -f profiles/ --dry-run
  bladeflow apply -f web.yaml --wait
  bladeflow apply -f - < web.yaml`,
	}
	filesFlag(cmd, &files, "what to put")
	_ = cmd.MarkFlagRequired("file")
	g.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		begin := time.Now()
		c, err := g.open()
		if err != nil {
			return err
		}
		all, err := manifestsOf(cmd, files)
		if err != nil {
			return err
		}
		doing(cmd, "applying %s", count(len(all), "object"))
		p, err := c.Apply(cmd.Context(), raws(all), g.dryRun)
		if err != nil {
			return err
		}
		return g.finish(cmd, c, p, begin)
	}
	return cmd
}

func raws(all []manifest) []json.RawMessage {
	var out []json.RawMessage
	for _, m := range all {
		out = append(out, m.raw)
	}
	return out
}

func diffCommand() *cobra.Command {
	var on connection
	var files []string
	var snapshot string
	var since int64
	cmd := &cobra.Command{
		Use:   "diff -f FILE | --snapshot NAME | --revision N",
		Short: "show what files would change, or what changed since a snapshot; exit code 1 if anything",
		Long: `Compare what is wanted now with files: what apply would create and change. Or say what changed since a
snapshot or a revision: what revert would undo. The exit code is 0 if nothing differs, else 1.`,
		Example: `  bladeflow diff -f web.yaml
  bladeflow diff --snapshot before
  bladeflow diff --revision 12 -o json`,
	}
	filesFlag(cmd, &files, "compare with")
	f := cmd.Flags()
	f.StringVar(&snapshot, "snapshot", "", "compare with this snapshot")
	f.Int64Var(&since, "revision", 0, "compare with what was wanted after this revision")
	output := outputFlag(cmd, "text", "json", "name")
	cmd.MarkFlagsMutuallyExclusive("file", "snapshot", "revision")
	cmd.MarkFlagsOneRequired("file", "snapshot", "revision")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := on.open()
		if err != nil {
			return err
		}
		var all []api.Difference
		if len(files) > 0 {
			all, err = differFromFiles(cmd, c, files)
		} else {
			all, err = differSince(cmd, c, snapshot, since)
		}
		if err != nil {
			return err
		}
		if err := printDifferences(cmd, all, *output); err != nil || len(all) == 0 {
			return err
		}
		return &flow.Fault{Code: "E_DIFFERS", What: "wanted state", Why: "what differs: " + count(len(all), "object"), Remedy: "apply what is meant, or revert"}
	}
	return cmd
}

// differFromFiles asks what apply would change, and returns the objects as they are and
// as the files have them.
func differFromFiles(cmd *cobra.Command, c *client.Client, files []string) ([]api.Difference, error) {
	wanted, err := manifestsOf(cmd, files)
	if err != nil {
		return nil, err
	}
	p, err := c.Apply(cmd.Context(), raws(wanted), true)
	if err != nil {
		return nil, err
	}
	out := []api.Difference{}
	for _, m := range wanted {
		i := slices.IndexFunc(p.Changes, func(t api.Touched) bool { return t.Kind == m.noun.kind && t.Name == m.name })
		if i < 0 {
			continue
		}
		d := api.Difference{Touched: p.Changes[i], Was: json.RawMessage("null")}
		if d.How != "created" {
			if d.Was, err = m.noun.all.Get(cmd.Context(), c, m.name); err != nil {
				return nil, err
			}
		}
		d.Is = m.raw
		if d, err = sideBySide(m.noun, d); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// differSince asks what changed since a snapshot or a revision.
func differSince(cmd *cobra.Command, c *client.Client, snapshot string, revision int64) ([]api.Difference, error) {
	all, err := c.Diff(cmd.Context(), snapshot, revision)
	if err != nil {
		return nil, err
	}
	for i, d := range all.Items {
		n := slices.IndexFunc(nouns, func(n noun) bool { return n.kind == d.Kind })
		if n < 0 { // where a profile is has no noun of its own
			continue
		}
		if all.Items[i], err = sideBySide(nouns[n], d); err != nil {
			return nil, err
		}
	}
	return all.Items, nil
}

// sideBySide writes both sides in one form, without what the manager adds.
func sideBySide(n noun, d api.Difference) (api.Difference, error) {
	for _, side := range []*json.RawMessage{&d.Was, &d.Is} {
		if string(*side) == "null" {
			continue
		}
		text, err := canonical(n, *side)
		if err != nil {
			return d, err
		}
		*side = text
	}
	return d, nil
}

// canonical writes an object as the API has it, without status and revision.
func canonical(n noun, raw json.RawMessage) (json.RawMessage, error) {
	if n.kind == api.KindRuleSet {
		head, err := headOf(raw)
		if err != nil {
			return nil, err
		}
		sets, ports, err := ruleSetOf(head.Metadata.Name, raw)
		if err != nil {
			return nil, err
		}
		var text bytes.Buffer
		if err := ruleset.Encode(&text, ruleset.JSON, sets, ports); err != nil {
			return nil, err
		}
		raw = text.Bytes()
	}
	v := n.blank()
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, err
	}
	if h := v.(interface{ Header() *api.Head }).Header(); h.Metadata.Tenant == "default" {
		h.Metadata.Tenant, h.Metadata.Revision = "", 0
	} else {
		h.Metadata.Revision = 0
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var parts struct {
		APIVersion json.RawMessage `json:"apiVersion"`
		Kind       json.RawMessage `json:"kind"`
		Metadata   json.RawMessage `json:"metadata"`
		Spec       json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(text, &parts); err != nil {
		return nil, err
	}
	return json.Marshal(parts)
}

func printDifferences(cmd *cobra.Command, all []api.Difference, form string) error {
	out := cmd.OutOrStdout()
	switch form {
	case "json":
		return printJSON(out, all)
	case "name":
		for _, d := range all {
			fmt.Fprintln(out, kindWord(d.Touched), d.Name)
		}
		return nil
	}
	for _, d := range all {
		was, err := linesOf(d.Was)
		if err != nil {
			return err
		}
		is, err := linesOf(d.Is)
		if err != nil {
			return err
		}
		what := kindWord(d.Touched) + " " + d.Name
		text := diff.Diff("was "+what, was, "is "+what, is)
		_, text, _ = bytes.Cut(text, []byte("\n")) // the line that only repeats both names
		fmt.Fprintf(out, "%s: %s\n%s", what, d.How, text)
	}
	return nil
}

// linesOf writes an object as YAML, and nothing as nothing.
func linesOf(raw json.RawMessage) ([]byte, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	return toYAML(raw)
}
