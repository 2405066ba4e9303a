package flowtest

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// How rule sets are made.
//
// Problem. Classifiers and planners behave according to a few properties of a rule
// set: how many rules overlap, how many better rules stand in a rule's way, how many
// masks there are, how ranges of ports fall apart into prefixes. The published
// sets of the ClassBench type show typical figures, but neither they nor the models
// they come from may be shipped. So sets are made here from a model of our own,
// whose figures ([Measure]) agree with theirs within 20 % at 1,000 and 10,000 rules
// (fidelity_test.go holds and prints the table).
//
// Idea. A network is sites of some hosts, and pairs of sites that talk. A set is
// written in sections, as people write them: narrow rules first, then what concerns
// one side only, then the broad ones, then the rest of the world. A rule of a
// section takes two hosts of two sites that talk, cuts their addresses to prefix
// lengths drawn from the section, and adds one of the section's services. Nesting
// and overlaps then come about by themselves.
//
// What decides what:
//   - Overlaps of fw and ipc grow with the square of the set: "any → server" meets
//     "server → any" wherever their services meet. The shares of the two sections
//     and the weight of services with a free port set their number; the share of the
//     widest services in the second one sets the 99th percentile of conflicts, as a
//     plateau on which the percentile lies, so that it differs little between seeds.
//   - In acl nearly all overlaps are with a handful of broad rules, whose number
//     hardly grows. The percentile lies on the site → site rules: each conflicts
//     with the narrow rules of its conversation, and the number of conversations
//     grows a little faster than the set, as measured.
//   - The median of fw comes from the few rules with one service and a free
//     destination that stand before the many with one service and a free source.
//   - Masks follow from the spread of prefix lengths. Few even weights give most of
//     them to small sets already, long tails let their number grow.
//   - Ranges and expansion follow from the services.
//
// All draws are stratified ([generator.spread]); with plain draws the conflicts
// of ten seeds of fw lay 27 % apart at 1,000 rules, with these 10 %.

// Family is a way in which people write rule sets.
type Family uint8

// The families.
const (
	ACL     Family = iota // router access lists: long prefixes on both sides, few broad rules
	FW                    // firewalls: any → server, server → any; many overlaps
	IPC                   // packet filters between networks: everything a little
	Segment               // microsegmentation: exact pairs of hosts and a port, default deny
)

var familyNames = [...]string{"acl", "fw", "ipc", "segment"}

// String returns the contract's word for f.
func (f Family) String() string { return familyNames[f] }

// Families returns every family.
func Families() []Family { return []Family{ACL, FW, IPC, Segment} }

// ParseFamily returns the family called s.
func ParseFamily(s string) (Family, error) {
	if i := slices.Index(familyNames[:], s); i >= 0 {
		return Family(i), nil
	}
	return 0, &flow.Fault{Code: "E_FAMILY", What: fmt.Sprintf("family %q", s), Why: "unknown", Remedy: flow.Suggest(s, familyNames[:]...)}
}

// plan is how a family writes its sets: sections in the order they are asked, and
// the network they speak of.
type plan struct {
	// Conversations are the pairs of sites that have rules between them. There are
	// talks × n^growth of them for n rules, between sites of 2^(32-site) addresses
	// of which hosts are used.
	talks, growth float64
	site, hosts   int

	sections []section
}

// section is rules of one kind that stand together.
type section struct {
	share    float64 // of all rules
	perTen   float64 // or so many for each factor of ten in the size of the set; if neither, what the others leave
	src, dst lengths
	services []service
}

// main returns the section that takes what the others leave.
func (p *plan) main() int {
	return slices.IndexFunc(p.sections, func(s section) bool { return s.share == 0 && s.perTen == 0 })
}

// lengths is how often which prefix lengths occur: some often, and now and then any
// from lo to hi.
type lengths struct {
	often  []weighted
	lo, hi int
	rest   float64 // weight of lo … hi together
}

// weighted is a number and how often it occurs.
type weighted struct {
	value  int
	weight float64
}

// service is a protocol and what its ports look like.
type service struct {
	weight   float64
	proto    uint8 // 0 is any
	src, dst portKind
}

// portKind is how a rule looks at a port.
type portKind uint8

const (
	anyPort  portKind = iota
	one               // a well known port, some far more often than others
	highPort          // 1024-65535
	portSpan          // a range that belongs to an application
)

const (
	icmp = flow.ProtoICMP
	tcp  = flow.ProtoTCP
	udp  = flow.ProtoUDP
	gre  = 47
)

// knownPorts are well known ports, the usual ones first.
var knownPorts = [...]uint16{443, 80, 22, 53, 25, 123, 161, 3306, 5432, 389, 636, 445, 139, 21, 110, 143, 993, 995, 587, 465,
	8080, 8443, 1433, 1521, 3389, 5900, 6379, 11211, 27017, 9200, 9092, 2181, 2379, 6443, 10250, 5672, 15672, 1883, 8883, 5060,
	69, 514, 162, 179, 88, 464, 135, 137, 138, 500, 4500, 1194, 1812, 1813, 3128, 8000, 8081, 9000, 9090, 9100,
	873, 2049, 111, 20049, 3260, 860, 5000, 5001, 5044, 5601, 7000, 7001, 9042, 8086, 8125, 2003, 4222, 6222, 26379, 8888}

// portSpans are ranges applications use.
var portSpans = [...][2]uint16{{6000, 6063}, {5900, 5999}, {33434, 33523}, {8000, 8100}, {30000, 32767}, {10000, 20000}, {137, 139},
	{2300, 2400}, {49152, 65535}, {27000, 27009}, {16384, 32767}, {1500, 1550}, {20, 21}, {9300, 9400}, {7000, 7012}, {3230, 3260}}

var plans = [...]plan{
	ACL: {
		talks: 0.0105, growth: 1.24, site: 22, hosts: 200,
		sections: []section{
			{
				src: lengths{[]weighted{{32, 52}, {31, 20}, {30, 8}, {24, 6}, {23, 6}}, 28, 29, 2},
				dst: lengths{[]weighted{{32, 50}, {31, 20}, {30, 8}, {22, 6}}, 21, 29, 14},
				services: []service{{64, tcp, anyPort, one}, {9, tcp, anyPort, portSpan}, {3, tcp, anyPort, highPort}, {10, tcp, anyPort, anyPort}, {6, 0, anyPort, anyPort},
					{4, udp, anyPort, one}, {4, icmp, anyPort, anyPort}},
			},
			{
				share:    0.022,
				src:      lengths{often: []weighted{{22, 1}}},
				dst:      lengths{often: []weighted{{22, 1}}},
				services: []service{{3, tcp, anyPort, anyPort}, {2, 0, anyPort, anyPort}},
			},
			{
				perTen:   1.2,
				src:      lengths{often: []weighted{{0, 1}}},
				dst:      lengths{often: []weighted{{0, 11}, {1, 10}, {2, 0.1}}},
				services: []service{{2, tcp, anyPort, anyPort}, {3, 0, anyPort, anyPort}},
			},
		},
	},
	FW: {
		talks: 0.04, growth: 1, site: 24, hosts: 12,
		sections: []section{
			{ // server → any, one service
				share:    0.035,
				src:      lengths{often: []weighted{{32, 42}, {31, 33}, {30, 9}, {29, 6}, {28, 6}, {24, 4}}},
				dst:      lengths{often: []weighted{{0, 60}, {1, 26}, {2, 4}, {8, 2}}},
				services: []service{{3, tcp, anyPort, one}, {1, udp, anyPort, one}},
			},
			{ // any → server
				src: lengths{often: []weighted{{0, 60}, {1, 26}, {2, 4}, {8, 2}}},
				dst: lengths{often: []weighted{{32, 42}, {31, 33}, {30, 9}, {29, 6}, {28, 6}, {24, 4}}},
				services: []service{{58, tcp, anyPort, one}, {6, tcp, anyPort, anyPort}, {16, udp, anyPort, one}, {6, udp, highPort, highPort},
					{3, udp, highPort, one}, {4, icmp, anyPort, anyPort}, {5, gre, anyPort, anyPort}},
			},
			{ // inside
				share:    0.065,
				src:      lengths{often: []weighted{{32, 42}, {31, 33}, {30, 9}, {29, 6}, {28, 6}, {24, 4}}},
				dst:      lengths{often: []weighted{{32, 42}, {31, 33}, {30, 9}, {29, 6}, {28, 6}, {24, 4}}},
				services: []service{{6, tcp, anyPort, one}, {2, udp, one, one}, {1, icmp, anyPort, anyPort}},
			},
			{ // server → any
				share: 0.19,
				src:   lengths{often: []weighted{{32, 42}, {31, 33}, {30, 9}, {29, 6}, {28, 6}, {24, 4}}},
				dst:   lengths{often: []weighted{{0, 60}, {1, 26}, {2, 4}, {8, 2}}},
				services: []service{{20, tcp, one, anyPort}, {8, tcp, anyPort, anyPort}, {20, udp, one, anyPort}, {10, udp, one, one}, {8, udp, highPort, highPort},
					{8, udp, one, highPort}, {4, gre, anyPort, anyPort}},
			},
			{ // any → any
				share:    0.03,
				src:      lengths{often: []weighted{{0, 60}, {1, 20}, {2, 4}, {8, 2}}},
				dst:      lengths{often: []weighted{{0, 60}, {1, 20}, {2, 4}, {8, 2}}},
				services: []service{{6, tcp, anyPort, one}, {1, tcp, anyPort, anyPort}, {2, udp, anyPort, one}, {1, icmp, anyPort, anyPort}},
			},
		},
	},
	IPC: {
		talks: 0.6, growth: 0.95, site: 22, hosts: 200,
		sections: []section{
			{ // between networks
				src: lengths{[]weighted{{32, 22}, {31, 10}, {24, 16}, {23, 14}}, 18, 30, 14},
				dst: lengths{[]weighted{{32, 30}, {31, 12}, {24, 14}, {25, 10}}, 18, 30, 14},
				services: []service{{30, 0, anyPort, anyPort}, {20, udp, anyPort, one}, {14, tcp, anyPort, one}, {5, tcp, one, anyPort}, {10, udp, one, anyPort},
					{7, udp, anyPort, highPort}, {3, tcp, anyPort, portSpan}, {2, udp, portSpan, anyPort}},
			},
			{ // any → somewhere
				share:    0.125,
				src:      lengths{often: []weighted{{0, 60}, {1, 38}, {2, 4}}},
				dst:      lengths{[]weighted{{32, 40}, {31, 30}}, 18, 30, 14},
				services: []service{{40, udp, anyPort, one}, {20, tcp, anyPort, one}, {20, tcp, one, anyPort}, {10, 0, anyPort, anyPort}},
			},
			{ // somewhere → any
				share:    0.09,
				src:      lengths{[]weighted{{32, 40}, {31, 30}}, 18, 30, 14},
				dst:      lengths{often: []weighted{{0, 60}, {1, 38}, {2, 4}}},
				services: []service{{30, udp, one, anyPort}, {20, tcp, anyPort, one}, {25, 0, anyPort, anyPort}},
			},
			{ // any → any
				share:    0.003,
				src:      lengths{often: []weighted{{0, 60}, {1, 38}}},
				dst:      lengths{often: []weighted{{0, 60}, {1, 38}}},
				services: []service{{1, udp, anyPort, one}, {1, tcp, anyPort, anyPort}},
			},
		},
	},
	Segment: {
		talks: 0.05, growth: 1, site: 22, hosts: 8,
		sections: []section{
			{ // host → host
				src:      lengths{often: []weighted{{32, 1}}},
				dst:      lengths{often: []weighted{{32, 1}}},
				services: []service{{85, tcp, anyPort, one}, {10, udp, anyPort, one}, {3, tcp, anyPort, portSpan}, {2, icmp, anyPort, anyPort}},
			},
			{ // group → host
				share:    0.05,
				src:      lengths{often: []weighted{{24, 1}, {22, 1}}},
				dst:      lengths{often: []weighted{{32, 1}}},
				services: []service{{8, tcp, anyPort, one}, {2, udp, anyPort, one}},
			},
			{ // any → host: what everybody may ask
				share:    0.01,
				src:      lengths{often: []weighted{{0, 1}}},
				dst:      lengths{often: []weighted{{32, 1}}},
				services: []service{{1, tcp, anyPort, anyPort}, {1, udp, anyPort, one}},
			},
		},
	},
}
