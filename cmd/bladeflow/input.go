package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// readFile returns what is in a file, or on standard input for "-".
func readFile(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(cmd.InOrStdin())
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

// rulesInput are the flags by which a command is given rules.
type rulesInput struct {
	files    []string
	from     string
	uplink   string
	stations []string
}

func (in *rulesInput) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&in.files, "rules", nil, "file with rules, - for standard input; may be given several times")
	in.formatFlag(cmd)
	f.StringVar(&in.uplink, "uplink", "", "port that `normal` sends unknown addresses to")
	f.StringArrayVar(&in.stations, "station", nil, "where `normal` finds a MAC: PORT=MAC or PORT=MAC@VLAN; may be given several times")
	_ = cmd.MarkFlagRequired("rules")
}

func (in *rulesInput) formatFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&in.from, "from", "yaml", "form of the rules: yaml, json, flows, classbench or ovs")
}

// sets reads all files.
func (in *rulesInput) sets(cmd *cobra.Command, files []string, ports *flow.Ports) ([]*ruleset.Set, error) {
	form, err := ruleset.ParseFormat(in.from)
	if err != nil {
		return nil, usage(cmd, err)
	}
	var all []*ruleset.Set
	for _, file := range files {
		b, err := readFile(cmd, file)
		if err != nil {
			return nil, err
		}
		sets, err := ruleset.Decode(form, file, b, ports)
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
		port, rest, ok := strings.Cut(s, "=")
		mac, vlan, tagged := strings.Cut(rest, "@")
		if !ok {
			return nil, usage(cmd, fmt.Errorf("--station %q: no =: write PORT=MAC or PORT=MAC@VLAN", s))
		}
		var st flow.Station
		if st.Port, err = ports.Find(port); err != nil {
			return nil, err
		}
		if st.MAC, err = flow.ParseMAC(mac); err != nil {
			return nil, err
		}
		if tagged {
			if _, err := fmt.Sscanf(vlan, "%d", &st.VLAN); err != nil || st.VLAN > flow.TagID {
				return nil, usage(cmd, fmt.Errorf("--station %q: VLAN out of range: use 0-4095", s))
			}
		}
		stations = append(stations, st)
	}
	return flow.NewSwitch(uplink, stations...)
}

// packets is what a command is asked to look up: keys, and where they came from.
type packets struct {
	keys     []flow.Key
	expected []int32 // nil if the file does not say
}

// readPackets reads a trace, a pcap file, or packets in text, one a line.
func readPackets(cmd *cobra.Command, file string, ports *flow.Ports) (packets, error) {
	b, err := readFile(cmd, file)
	if err != nil {
		return packets{}, err
	}
	if isPcap(b) {
		return framesOf(file, b)
	}
	first := bytes.TrimSpace(b)
	if i := bytes.IndexByte(first, '\n'); i >= 0 {
		first = first[:i]
	}
	if !bytes.ContainsAny(first, "=:") {
		t, err := ruleset.ReadTrace(file, b)
		if err != nil {
			return packets{}, err
		}
		return packets{t.Keys, t.Expected}, nil
	}
	var p packets
	for n, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		frame, in, err := flow.ParsePacket(line, ports)
		if err != nil {
			return packets{}, fmt.Errorf("%s:%d: %w", file, n+1, err)
		}
		k, err := flow.Parse(frame, in)
		if err != nil {
			return packets{}, fmt.Errorf("%s:%d: %w", file, n+1, err)
		}
		p.keys = append(p.keys, k)
	}
	return p, nil
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
