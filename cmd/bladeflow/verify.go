package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/verify"
)

func verifyCommand() *cobra.Command {
	var in rulesInput
	var dev, entries string
	cmd := &cobra.Command{
		Use:   "verify --rules F --device NAME|FILE --entries F",
		Short: "prove that entries in a device say what the rules say, or show a packet",
		Long: `Prove that a device that holds the entries answers every packet as the rules do, or not at all. The
entries are the output of "bladeflow plan -o json", or its list "entries". Exit code 1 and a packet if not.`,
		Example: "  bladeflow verify --rules web.yaml --device softnic --entries plan.json",
	}
	in.flags(cmd)
	deviceFlag(cmd, &dev)
	cmd.Flags().StringVar(&entries, "entries", "", "file of entries, - for standard input")
	_ = cmd.MarkFlagRequired("device")
	_ = cmd.MarkFlagRequired("entries")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, err := device.Load(dev)
		if err != nil {
			return err
		}
		m = device.Planned(m)
		t, err := in.table(cmd, flow.OpenPorts())
		if err != nil {
			return err
		}
		b, err := readFile(cmd, entries)
		if err != nil {
			return err
		}
		installed, err := readEntries(entries, b, t)
		if err != nil {
			return err
		}
		doing(cmd, "proving %s", count(len(installed), "entry"))
		wrong := verify.Check(t.Table, installed, m)
		doc := t.proofDoc(len(installed), wrong)
		if *output == "json" {
			err = printJSON(cmd.OutOrStdout(), doc)
		} else {
			doc.print(cmd)
		}
		return errors.Join(err, wrong)
	}
	return cmd
}

// proofDoc is the JSON form of what verify found.
type proofDoc struct {
	Proved  bool          `json:"proved"`
	Entries int           `json:"entries"`
	Rules   int           `json:"rules"`
	Packet  string        `json:"packet,omitempty"` // also absent if every field of it is zero
	Frame   string        `json:"frame,omitempty"`
	Want    []emissionDoc `json:"want,omitzero"` // there iff Frame is
	Got     []emissionDoc `json:"got,omitzero"`  // there iff Frame is
	Rule    string        `json:"rule,omitempty"`
	Entry   *entryDoc     `json:"entry,omitempty"`
	Reason  string        `json:"reason,omitempty"`
}

type emissionDoc struct {
	Port  string `json:"port"`
	Bytes string `json:"bytes"`
	Rule  string `json:"rule"`
}

func (r rules) proofDoc(entries int, err error) *proofDoc {
	doc := &proofDoc{Proved: err == nil, Entries: entries, Rules: r.Len()}
	var wrong *verify.Mismatch
	var open *verify.Unprovable
	switch {
	case errors.As(err, &wrong):
		e := r.entryDoc(&wrong.Entry)
		doc.Packet, doc.Frame = flow.FormatKey(wrong.Key, r.Ports()), fmt.Sprintf("%x", wrong.Frame)
		doc.Want, doc.Got = r.emissions(wrong.Want), r.emissions(wrong.Got)
		doc.Rule, doc.Entry, doc.Reason = r.nameOf(wrong.Rule.ID), &e, wrong.Reason
	case errors.As(err, &open):
		e := r.entryDoc(&open.Entry)
		doc.Entry, doc.Reason = &e, open.Reason
	}
	return doc
}

func (r rules) emissions(all []flow.Emission) []emissionDoc {
	out := []emissionDoc{}
	for _, e := range all {
		out = append(out, emissionDoc{r.leaves(&e), fmt.Sprintf("%x", e.Bytes), r.nameOf(e.Rule)})
	}
	return out
}

// leaves names where a copy leaves: a port, or the blade's kernel at a port.
func (r rules) leaves(e *flow.Emission) string {
	port := r.Ports().Name(e.Port)
	if e.Kernel {
		return "kernel:" + port
	}
	return port
}

func (d *proofDoc) print(cmd *cobra.Command) {
	w := cmd.OutOrStdout()
	if d.Proved {
		fmt.Fprintf(w, "proved: %s against %s\n", count(d.Entries, "entry"), count(d.Rules, "rule"))
		return
	}
	fmt.Fprintf(w, "not proved: %s\n", d.Reason)
	if d.Entry != nil {
		fmt.Fprintf(w, "  entry   %s %s for rule %s: %s actions=%s\n", d.Entry.Kind, d.Entry.ID, d.Entry.Rule, d.Entry.Match, d.Entry.Action)
	}
	if d.Frame == "" {
		return
	}
	fmt.Fprintf(w, "  packet  %s\n  frame   %s\n  rule    %s\n", d.Packet, d.Frame, d.Rule)
	for _, side := range []struct {
		name string
		out  []emissionDoc
	}{{"rules ", d.Want}, {"device", d.Got}} {
		if len(side.out) == 0 {
			fmt.Fprintf(w, "  %s: nothing leaves\n", side.name)
		}
		for _, e := range side.out {
			fmt.Fprintf(w, "  %s: %s %s\n", side.name, e.Port, e.Bytes)
		}
	}
}
