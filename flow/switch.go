package flow

import (
	"fmt"
	"slices"
)

// Station is one workload's place on the switch: its VLAN (0 for untagged) and MAC.
type Station struct {
	VLAN uint16
	MAC  uint64 // 48 bits, as in [Key]
	Port Port
}

// Switch is the static switch that `normal` delivers by. It is part of a
// generation and never learns. The zero value delivers nothing.
//
// A local port belongs to the VLANs of its stations; the uplink belongs to all.
type Switch struct {
	stations []Station
	ports    map[stationKey]Port
	flood    map[uint16][]Port
	uplink   Port
}

type stationKey struct {
	vlan uint16
	mac  uint64
}

// NewSwitch makes a switch of stations and an uplink (0 for none). A MAC that two
// ports have in one VLAN is a *Fault, and so is a station without a port, with a
// group address, or with a number that is out of range.
func NewSwitch(uplink Port, stations ...Station) (*Switch, error) {
	s := &Switch{stations: slices.Clone(stations), ports: map[stationKey]Port{}, flood: map[uint16][]Port{}, uplink: uplink}
	for _, st := range stations {
		if st.Port == 0 || st.VLAN > TagID || st.MAC > SrcMAC.Max() || st.MAC&multicast != 0 {
			return nil, &Fault{Code: "E_STATION", What: fmt.Sprintf("station %s of VLAN %d and port %d", FormatMAC(st.MAC), st.VLAN, st.Port),
				Why: "nobody can be there", Remedy: "use a port, a VLAN of 0-4095 and the MAC of one station"}
		}
		k := stationKey{st.VLAN, st.MAC}
		if have, twice := s.ports[k]; twice && have != st.Port {
			return nil, &Fault{Code: "E_STATION_TWICE", What: "station " + FormatMAC(st.MAC), Why: "two ports have this MAC in one VLAN", Remedy: "give each vNIC its own MAC"}
		}
		s.ports[k] = st.Port
		if !slices.Contains(s.flood[st.VLAN], st.Port) {
			s.flood[st.VLAN] = append(s.flood[st.VLAN], st.Port)
		}
	}
	for _, ports := range s.flood {
		slices.Sort(ports)
	}
	return s, nil
}

// Uplink returns the uplink, or 0 if there is none.
func (s *Switch) Uplink() Port { return s.uplink }

// Stations returns the stations in the order given. The caller must not change them.
func (s *Switch) Stations() []Station { return s.stations }

// multicast is the group bit of a MAC.
const multicast = 1 << 40

// Deliver appends to out the ports that a frame for (vlan, dst) from port in goes
// to, and returns it: the station's port; for a group address every local port of
// the VLAN in order, then the uplink; for an unknown address the uplink. Never the
// port it came from.
func (s *Switch) Deliver(out []Port, vlan uint16, dst uint64, in Port) []Port {
	add := func(p Port) {
		if p != in && p != 0 {
			out = append(out, p)
		}
	}
	if dst&multicast != 0 {
		for _, p := range s.flood[vlan] {
			if p != s.uplink {
				add(p)
			}
		}
		add(s.uplink)
	} else if p, known := s.ports[stationKey{vlan, dst}]; known {
		add(p)
	} else {
		add(s.uplink)
	}
	return out
}
