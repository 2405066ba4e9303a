package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

// waited says how far the blades and profiles are that somebody waited for.
type waited struct {
	Seconds  float64  `json:"seconds"` // since the command began
	Done     bool     `json:"done"`
	Blades   []waiter `json:"blades"`
	Profiles []waiter `json:"profiles"`
	Policies []waiter `json:"policies,omitempty"`

	refusal error // of a profile for which waiting is of no use; nil if there is none
}

// waiter is one blade or profile.
type waiter struct {
	Name       string     `json:"name"`
	Done       bool       `json:"done"`
	State      string     `json:"state"` // as `get` shows it, or deleted
	Blade      string     `json:"blade,omitempty"`
	Generation uint64     `json:"generation,omitempty"`
	Reported   bool       `json:"reported,omitempty"` // the blade has said where that generation's rules live
	Reason     *api.Error `json:"reason,omitempty"`
}

func (w *waited) all() []waiter { return slices.Concat(w.Blades, w.Profiles, w.Policies) }

func (w *waited) spent() time.Duration {
	return time.Duration(w.Seconds * float64(time.Second)).Round(time.Millisecond)
}

// fault is nil if all is done. What is only partly done has an exit code of its own.
func (w *waited) fault() error {
	if w.Done {
		return nil
	}
	if w.refusal != nil {
		return w.refusal
	}
	f := &flow.Fault{Code: "E_TIMEOUT", What: "waiting", Why: fmt.Sprintf("not done after %s: %s", w.spent(), strings.Join(w.missing(), "; ")),
		Remedy: "wait longer (--within), or see 'bladeflow describe'"}
	if slices.ContainsFunc(w.all(), func(x waiter) bool { return x.Done }) {
		f.Code = "E_PARTLY"
	}
	return f
}

// proved is how many blades have proved what was waited for: those of a change, and those
// on which its profiles found their place afterwards.
func (w *waited) proved() int {
	on := map[string]bool{}
	for _, x := range w.Blades {
		on[x.Name] = x.Done
	}
	for _, x := range w.Profiles {
		if x.Blade != "" && x.Done {
			on[x.Blade] = true
		}
	}
	n := 0
	for _, done := range on {
		if done {
			n++
		}
	}
	return n
}

// unreported returns the blades that have proved what was waited for, and have not said yet
// where its rules live.
func (w *waited) unreported() (names []string) {
	for _, x := range w.Blades {
		if x.Done && !x.Reported && x.State != "deleted" {
			names = append(names, x.Name)
		}
	}
	return names
}

// missing says what is not done, and why.
func (w *waited) missing() []string {
	var out []string
	for _, x := range w.all() {
		if x.Done {
			continue
		}
		text := x.Name + " is " + x.State
		if x.Reason != nil {
			text += ": " + reason(x.Reason)
		}
		out = append(out, text)
	}
	return out
}

// until waits until every blade that a change concerns runs it and has proved it, and
// every profile that it put is active.
func (g *changing) until(cmd *cobra.Command, c *client.Client, p api.Preview, begin time.Time) (*waited, error) {
	want := waiting{revision: p.Revision}
	for _, b := range p.Capacity {
		want.blades = append(want.blades, b.Blade)
	}
	for _, t := range p.Changes {
		if (t.Kind == api.KindProfile || t.Kind == api.KindAssignment) && !slices.Contains(want.profiles, t.Name) {
			want.profiles = append(want.profiles, t.Name)
		}
	}
	return want.wait(cmd, c, begin, g.within)
}

// waiting is what somebody waits for.
type waiting struct {
	revision int64    // of what is wanted, at least
	blades   []string // shall be settled, or gone
	profiles []string // shall be active, off, or gone
	policies []string // of blades: shall be proved, and where all rules live reported
}

// wait looks again and again until all is done or the time is over. It looks every
// 20 ms at first and then ever more rarely, so that what it measures is true to 5 %.
func (s waiting) wait(cmd *cobra.Command, c *client.Client, begin time.Time, within time.Duration) (*waited, error) {
	ctx, cancel := context.WithDeadline(cmd.Context(), begin.Add(within))
	defer cancel()
	last := &waited{Blades: []waiter{}, Profiles: []waiter{}}
	for {
		w, err := s.look(ctx, c)
		spent := time.Since(begin)
		switch {
		case err == nil:
			last = w
		case !errors.Is(err, client.ErrUnreachable):
			return last, err
		}
		last.Seconds = spent.Seconds()
		if err == nil && (last.Done || last.refusal != nil) || ctx.Err() != nil {
			return last, cmd.Context().Err()
		}
		if err != nil {
			doing(cmd, "waiting: %v", err)
		} else {
			doing(cmd, "waiting: %s", strings.Join(last.missing(), "; "))
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(time.Second, max(20*time.Millisecond, spent/20))):
		}
	}
}

// look asks how far things are.
func (s waiting) look(ctx context.Context, c *client.Client) (*waited, error) {
	w := &waited{Done: true, Blades: []waiter{}, Profiles: []waiter{}}
	if len(s.blades) > 0 {
		all, err := client.Blades.List(ctx, c, client.Query{})
		if err != nil {
			return nil, err
		}
		for _, name := range s.blades {
			i := slices.IndexFunc(all.Items, func(b api.Blade) bool { return b.Metadata.Name == name })
			x := waiter{Name: name, State: "deleted", Done: true}
			if i >= 0 {
				v := all.Items[i].Status
				x = waiter{Name: name, State: v.State, Generation: v.Running, Reported: v.RulesReported, Done: v.State == "settled", Reason: v.Reason}
			}
			x.Done = x.Done && all.Metadata.Revision >= s.revision
			w.Blades, w.Done = append(w.Blades, x), w.Done && x.Done
		}
	}
	if len(s.profiles) > 0 {
		all, err := client.Profiles.List(ctx, c, client.Query{})
		if err != nil {
			return nil, err
		}
		there := map[string]*api.ProfileStatus{}
		for _, p := range all.Items {
			there[p.Metadata.Name] = p.Status
		}
		for _, name := range s.profiles {
			x := waiter{Name: name, State: "deleted", Done: true}
			if v := there[name]; v != nil {
				x = waiter{Name: name, State: v.State, Blade: v.Blade, Reason: v.Reason, Done: v.State == "off" || v.State == "active"}
			}
			current := all.Metadata.Revision >= s.revision
			if x.Done = x.Done && current; current && x.State == "refused" && x.Reason != nil {
				f := x.Reason.Fault()
				f.What = "profile " + name + " is refused: " + f.What
				w.refusal = cmp.Or(w.refusal, error(f))
			}
			w.Profiles, w.Done = append(w.Profiles, x), w.Done && x.Done
		}
	}
	if len(s.policies) > 0 {
		if err := s.lookAtPolicies(ctx, c, w); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (s waiting) lookAtPolicies(ctx context.Context, c *client.Client, w *waited) error {
	all, err := client.Policies.List(ctx, c, client.Query{})
	if err != nil {
		return err
	}
	there := map[string]*api.PolicyStatus{}
	for i, p := range all.Items {
		there[p.Metadata.Name] = &all.Items[i].Status
	}
	for _, name := range s.policies {
		x := waiter{Name: name, State: "deleted", Done: true}
		if v := there[name]; v != nil {
			x = waiter{Name: name, State: v.State, Reason: v.Reason, Done: v.State == "proved"}
			for _, set := range v.Sets {
				if x.Done && set.Unreported > 0 {
					x.State, x.Done = "proved, and where its rules live is not reported yet", false
				}
			}
			x.Reported = x.Done
		}
		w.Policies, w.Done = append(w.Policies, x), w.Done && x.Done
	}
	return nil
}

func waitCommand() *cobra.Command {
	var on connection
	var within time.Duration
	nouns := []string{"blade", "profile", "policy"}
	cmd := &cobra.Command{
		Use:   "wait blade|profile|policy [NAME...]",
		Short: "return when blades are settled, profiles active, or policies proved and reported",
		Long: `Wait until the blades named, or all, run and have proved what is wanted, or until the profiles named, or all,
are active (or off), or until the policies of the blades named, or all, are proved and it is reported where all
their rules live, which takes some seconds more. Exit code 6 says that the time is over and none is so far, 7 that some are. It fails at
once if a profile is refused: its rules cannot hold where it fits.`,
		Example: `  bladeflow wait blade
  bladeflow wait profile web --within 30s
  bladeflow wait policy b1`,
		Args:              needs("bladeflow wait profile web", "NOUN", "[NAME...]"),
		ValidArgsFunction: completeNoun(func(n noun) bool { return slices.Contains(nouns, n.name) }),
	}
	withinFlag(cmd, &within, "how long to wait")
	output := outputFlag(cmd, "text", "json", "yaml")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		begin := time.Now()
		n, err := findNoun(args[0], func(n noun) bool { return slices.Contains(nouns, n.name) })
		if err != nil {
			return err
		}
		c, err := on.open()
		if err != nil {
			return err
		}
		names := args[1:]
		if len(names) == 0 {
			all, err := n.all.List(cmd.Context(), c, client.Query{})
			if err != nil {
				return err
			}
			for _, raw := range all.Items {
				name, err := nameOf(raw)
				if err != nil {
					return err
				}
				names = append(names, name)
			}
		}
		var s waiting
		for _, name := range names {
			if _, err := n.all.Get(cmd.Context(), c, name); err != nil {
				return err
			}
			switch n.name {
			case "profile":
				s.profiles = append(s.profiles, name)
			case "policy":
				s.policies = append(s.policies, name)
			default:
				s.blades = append(s.blades, name)
			}
		}
		w, err := s.wait(cmd, c, begin, within)
		if err != nil {
			return err
		}
		late := w.fault()
		switch {
		case *output == "json":
			err = printJSON(cmd.OutOrStdout(), w)
		case *output == "yaml":
			err = printYAML(cmd.OutOrStdout(), w)
		case late == nil:
			for _, x := range w.all() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", x.Name, x.State)
			}
		}
		return cmp.Or(late, err)
	}
	return cmd
}
