package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// readFile returns what is in a file, or on standard input for "-".
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(cmd.InOrStdin())
		cmd.SetIn(usedUp{})
		return b, err
	}
	b, err := os.ReadFile(name)
	var path *fs.PathError
	if errors.As(err, &path) {
		code, remedy := "E_FILE", "check the path"
		if errors.Is(err, fs.ErrPermission) {
			code, remedy = "E_DENIED", "make it readable, or run as its owner"
		} else if errors.Is(err, fs.ErrNotExist) {
			code = "E_NO_FILE"
		}
		return nil, &flow.Fault{Code: code, What: name, Why: path.Err.Error(), Remedy: remedy, Err: err}
	}
	return b, err
}

// usedUp is standard input that was read already.
type usedUp struct{}

func (usedUp) Read([]byte) (int, error) {
	return 0, usage("standard input", "it is named twice, and can be read once", "put one of them into a file")
}

// rulesInput are the flags by which a command is given rules.
type rulesInput struct {
	files    []string
	from     string
	uplink   string
	stations []string
}

func (in *rulesInput) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&in.files, "rules", nil, "`FILE` with rules, - for standard input; may be given several times")
	in.formatFlag(cmd)
	f.StringVar(&in.uplink, "uplink", "", "`PORT` where the action normal sends unknown addresses")
	f.StringArrayVar(&in.stations, "station", nil, "where the action normal finds a MAC: `PORT=MAC[@VLAN]`; may be given several times")
	_ = cmd.MarkFlagRequired("rules")
}

func (in *rulesInput) formatFlag(cmd *cobra.Command) {
	formatFlag(cmd, &in.from, "from", "form of the rules")
}

func formatFlag(cmd *cobra.Command, form *string, name, help string) {
	choiceFlag(cmd, form, name, "", string(ruleset.YAML), help,
		string(ruleset.YAML), string(ruleset.JSON), string(ruleset.Flows), string(ruleset.ClassBench), string(ruleset.OVS))
}

// sets reads all files.
func (in *rulesInput) sets(cmd *cobra.Command, files []string, ports *flow.Ports) ([]*ruleset.Set, error) {
	var all []*ruleset.Set
	for _, file := range files {
		doing(cmd, "reading %s", file)
		b, err := readFile(cmd, file)
		if err != nil {
			return nil, err
		}
		sets, err := ruleset.Decode(ruleset.Format(in.from), file, b, ports)
		if err != nil {
			return nil, err
		}
		all = append(all, sets...)
	}
	return all, nil
}

// rules is a table read from files, and the names its rules go by in output: without
// their set's if there is only one.
type rules struct {
	*flow.Table
	oneSet bool
}

func (in *rulesInput) table(cmd *cobra.Command, ports *flow.Ports) (rules, error) {
	sets, err := in.sets(cmd, in.files, ports)
	if err != nil {
		return rules{}, err
	}
	sw, err := in.sw(cmd, ports)
	if err != nil {
		return rules{}, err
	}
	doing(cmd, "checking rules against each other")
	t, err := ruleset.Build(1, sw, ports, sets...)
	return rules{t, len(sets) == 1}, err
}

// name returns what output calls the i-th rule; the default is "-".
func (r rules) name(i int) string {
	name := r.Rule(i).Name
	if _, rule, ok := strings.Cut(name, "/"); ok && r.oneSet {
		return rule
	}
	return name
}

// nameOf is name by ID.
func (r rules) nameOf(id flow.RuleID) string {
	if i, ok := r.Index(id); ok {
		return r.name(i)
	}
	return fmt.Sprintf("%016x", uint64(id))
}

// sw is the static switch that the flags describe.
func (in *rulesInput) sw(cmd *cobra.Command, ports *flow.Ports) (*flow.Switch, error) {
	var uplink flow.Port
	var err error
	if in.uplink != "" {
		if uplink, err = ports.Find(in.uplink); err != nil {
			return nil, err
		}
	}
	var stations []flow.Station
	for _, s := range in.stations {
		st, err := station(s, ports)
		if err != nil {
			return nil, err
		}
		stations = append(stations, st)
	}
	return flow.NewSwitch(uplink, stations...)
}

// station reads PORT=MAC or PORT=MAC@VLAN.
func station(s string, ports *flow.Ports) (st flow.Station, err error) {
	port, rest, _ := strings.Cut(s, "=")
	mac, vlan, tagged := strings.Cut(rest, "@")
	if port == "" || mac == "" {
		return st, usage(fmt.Sprintf("--station %q", s), "not a port and a MAC", "write PORT=MAC or PORT=MAC@VLAN")
	}
	if tagged {
		id, err := strconv.ParseUint(vlan, 10, 16)
		if err != nil || id > flow.TagID {
			return st, usage(fmt.Sprintf("--station %q", s), "not a VLAN", "use 0 (untagged) to 4095 after the @")
		}
		st.VLAN = uint16(id)
	}
	if st.Port, err = ports.Find(port); err != nil {
		return st, err
	}
	st.MAC, err = flow.ParseMAC(mac)
	return st, err
}

// packets is what a command is asked to look up: keys, and where they came from.
type packets struct {
	keys     []flow.Key
	expected []int32 // nil if the file does not say
}

// readPackets reads a trace, a pcap file, or packets in text, one a line.
func readPackets(cmd *cobra.Command, file string, ports *flow.Ports) (packets, error) {
	doing(cmd, "reading %s", file)
	b, err := readFile(cmd, file)
	if err != nil {
		return packets{}, err
	}
	if isPcap(b) {
		return framesOf(file, b)
	}
	if !inText(b) {
		t, err := ruleset.ReadTrace(file, b)
		if err != nil {
			return packets{}, err
		}
		return packets{t.Keys, t.Expected}, nil
	}
	var p packets
	for n, line := range strings.Split(string(b), "\n") {
		text := strings.TrimSpace(line)
		if text == "" || text[0] == '#' {
			continue
		}
		frame, in, err := flow.ParsePacket(text, ports)
		if err != nil {
			return packets{}, inLine(file, n+1, 1+strings.Index(line, text), err)
		}
		k, err := flow.Parse(frame, in)
		if err != nil {
			return packets{}, inLine(file, n+1, 1, err)
		}
		p.keys = append(p.keys, k)
	}
	return p, nil
}

// inLine puts the place of a fault in front of it; column is where its text begins.
func inLine(file string, line, column int, err error) error {
	var f *flow.Fault
	if errors.As(err, &f) {
		column += f.Offset
	}
	return inPlace(fmt.Sprintf("%s:%d:%d", file, line, column), err)
}

// inPlace puts the place of a fault in front of it.
func inPlace(place string, err error) error {
	var f *flow.Fault
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w", place, err)
	}
	g := *f
	g.What = place + ": " + f.What
	return &g
}

// inText reports whether packets are written as fields or frames: whether the first
// line that is one has a = or a colon.
func inText(b []byte) bool {
	for line := range bytes.Lines(b) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return bytes.ContainsAny(line, "=:")
		}
	}
	return false
}

func isPcap(b []byte) bool {
	return len(b) >= 4 && (bytes.Contains([]byte("\xa1\xb2\xc3\xd4\xd4\xc3\xb2\xa1"), b[:4]) || bytes.Contains([]byte("\xa1\xb2\x3c\x4d\x4d\x3c\xb2\xa1"), b[:4]))
}

func framesOf(file string, b []byte) (packets, error) {
	frames, err := ruleset.ReadPcap(file, b)
	if err != nil {
		return packets{}, err
	}
	var p packets
	for i, f := range frames {
		k, err := flow.Parse(f, 0)
		if err != nil {
			return packets{}, &flow.Fault{Code: "E_PACKET", What: fmt.Sprintf("%s: frame %d", file, i+1), Why: err.Error(), Remedy: "leave it out of the capture", Err: err}
		}
		p.keys = append(p.keys, k)
	}
	return p, nil
}
