package hwtests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// mortal is `bladeflow agent` as a process of its own on a lab's blade, with everything
// it reads and writes in one directory, and what somebody can see who is not that process.
type mortal struct {
	blade  *lab.Blade
	dir    string
	sw     *flow.Switch
	agent  func(config string) *exec.Cmd
	output *os.File
	cmd    *exec.Cmd // nil while there is none
}

// settleLimit is how long an agent may take to bring a blade to its rules.
const settleLimit = 60 * time.Second

// newMortal writes an agent's configuration, with more lines of its spec and of some
// ports. There are no rules yet.
func newMortal(b *lab.Blade, dir string, command func(config string) *exec.Cmd, spec string, port map[flow.Port]string) (*mortal, error) {
	sw, err := b.Switch()
	if err != nil {
		return nil, err
	}
	m := &mortal{blade: b, dir: dir, sw: sw, agent: command}
	var c strings.Builder
	fmt.Fprintf(&c, "apiVersion: bladeflow/v1\nkind: Agent\nmetadata: {name: %s}\nspec:\n  rules: [rules.yaml]\n  root: %s\n", b.Name, b.SysRoot)
	fmt.Fprintf(&c, "  uplink: %s\n  %s\n  interval: 100ms\n  metrics: \"\"\n  status: status.json\n  ports:\n", b.Ports.Name(lab.Uplink), spec)
	for _, at := range b.Attached {
		fmt.Fprintf(&c, "    - {name: %s, netdev: %s%s}\n", at.Name, at.Representor.Name, port[at.Port])
	}
	c.WriteString("  stations:\n")
	for _, at := range b.Attached {
		if at.Workload != nil {
			fmt.Fprintf(&c, "    - {port: %s, mac: %q}\n", at.Name, flow.FormatMAC(at.Workload.MAC))
		}
	}
	if err := os.WriteFile(m.path("agent.yaml"), []byte(c.String()), 0o600); err != nil {
		return nil, err
	}
	m.output, err = os.OpenFile(m.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return m, err
}

func (m *mortal) path(name string) string { return filepath.Join(m.dir, name) }

// write makes rules what is wanted, in one instant, and returns what an agent reads of them.
func (m *mortal) write(rules []flow.Rule) (*agent.Wanted, error) {
	named := make([]flow.Rule, len(rules))
	for i := range rules {
		named[i] = rules[i]
		_, named[i].Name, _ = strings.Cut(rules[i].Name, "/")
	}
	set, err := ruleset.New("random", flow.TierTenant, flow.Actions{{Op: flow.Normal}}, named)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := ruleset.Encode(&text, ruleset.YAML, []*ruleset.Set{set}, m.blade.Ports); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.path("next.yaml"), text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(m.path("next.yaml"), m.path("rules.yaml")); err != nil {
		return nil, err
	}
	return agent.NewFiles([]string{m.path("rules.yaml")}, m.blade.Ports, m.sw, 0, "").Wanted()
}

// start starts the process.
func (m *mortal) start() error {
	m.cmd = m.agent(m.path("agent.yaml"))
	m.cmd.Stdout, m.cmd.Stderr = m.output, m.output
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.blade.Host.Do(m.cmd.Start) // a child is born into its thread's namespace
}

// kill ends the process as it is, and returns when it is gone.
func (m *mortal) kill() error {
	if m.cmd == nil {
		return nil
	}
	if err := m.cmd.Process.Kill(); err != nil {
		return err
	}
	err := m.cmd.Wait()
	killed := m.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	m.cmd = nil
	if !killed {
		return fmt.Errorf("the agent had ended before it was killed: %w: %s", err, m.said())
	}
	return nil
}

// said returns the end of what the agents said.
func (m *mortal) said() string {
	text, _ := os.ReadFile(m.path("agent.log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// noted is the file that says what change is under way: between which generations, which are
// the same if an agent only makes better use of a card, and in what phase.
type noted struct {
	text     string
	From, To uint64
	Phase    string
}

// journal reads it.
func (m *mortal) journal() (n noted) {
	b, err := os.ReadFile(m.path("status.journal"))
	if err != nil || json.Unmarshal(b, &n) != nil {
		n = noted{}
	}
	n.text = string(b)
	return n
}

// settled waits until the agent says that w is in force and proved.
func (m *mortal) settled(ctx context.Context, w *agent.Wanted) (agent.Status, error) {
	var o agent.Object
	for limit := time.Now().Add(settleLimit); ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(m.path("status.json"))
		if err == nil && json.Unmarshal(text, &o) == nil && o.Status.Digest == w.Digest && o.Status.Proved && o.Status.Error == nil {
			return o.Status, nil
		}
		if time.Now().After(limit) {
			return o.Status, fmt.Errorf("after %s the rules are not in force: %+v: %s", settleLimit, o.Status.Error, m.said())
		}
	}
	return o.Status, ctx.Err()
}

// held is what the card holds, as read by somebody who is not the agent.
type held struct {
	entries []flow.Entry
	counts  map[flow.EntryID]flow.Counter
}

func (m *mortal) held(ctx context.Context) (h held, err error) {
	if h.entries, err = m.blade.NIC.Installed(ctx); err != nil {
		return h, err
	}
	counts, err := m.blade.NIC.Counters(ctx)
	h.counts = map[flow.EntryID]flow.Counter{}
	for _, c := range counts {
		h.counts[c.Entry] = c.Counter
	}
	return h, err
}

// sound asks the checker whether the card agrees with a table.
func (m *mortal) sound(ctx context.Context, h held, t *flow.Table) error {
	model, err := m.blade.NIC.Model(ctx)
	if err != nil {
		return err
	}
	return verify.Check(t, h.entries, model)
}

// foreign returns those of the entries that are not bladeflow's.
func (h *held) foreign() (out []flow.Entry) {
	for _, e := range h.entries {
		if !offload.Ours(e.ID) {
			out = append(out, e)
		}
	}
	return out
}

// since says which of some entries, which the card held before, it has lost since or
// put in anew: their counters have then begun again.
func (h *held) since(before held, entries []flow.Entry) (lost []flow.EntryID) {
	there := map[flow.EntryID]*flow.Entry{}
	for i := range h.entries {
		there[h.entries[i].ID] = &h.entries[i]
	}
	for i := range entries {
		e := &entries[i]
		if now := there[e.ID]; now == nil || !now.Equal(e) || h.counts[e.ID].Packets < before.counts[e.ID].Packets {
			lost = append(lost, e.ID)
		}
	}
	return lost
}
