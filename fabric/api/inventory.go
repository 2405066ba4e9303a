package api

// Inventory is what a blade has. It is, field by field, what `bladeflow inventory -o
// json` prints on that blade.
type Inventory struct {
	Head
	Status InventoryStatus `json:"status"`
}

// InventoryStatus is what was read. Lists are never null.
type InventoryStatus struct {
	NICs      []NIC     `json:"nics"`
	RDMANetns string    `json:"rdmaNetns,omitempty"` // shared or exclusive
	Findings  []Finding `json:"findings"`
}

// NIC is one card; vendor and device are 0x15b3.
type NIC struct {
	Name   string `json:"name"`
	Slot   string `json:"slot"`
	Serial string `json:"serial,omitempty"`
	Part   string `json:"part,omitempty"`
	Vendor string `json:"vendor"`
	Device string `json:"device"`
	NUMA   *int   `json:"numa,omitempty"`
	PFs    []PF   `json:"pfs"`
}

// PF is one physical function.
type PF struct {
	Name     string  `json:"name"`
	PCI      string  `json:"pci"`
	Driver   string  `json:"driver,omitempty"`
	Firmware string  `json:"firmware,omitempty"`
	Netdev   *Netdev `json:"netdev,omitempty"`
	TotalVFs int     `json:"totalVFs"`
	NumVFs   int     `json:"numVFs"`
	ESwitch  string  `json:"eswitch,omitempty"`
	RDMA     []RDMA  `json:"rdma,omitempty"`
	VFs      []VF    `json:"vfs"`
}

// VF is one virtual function.
type VF struct {
	Name        string  `json:"name"`
	Index       int     `json:"index"`
	PCI         string  `json:"pci"`
	Driver      string  `json:"driver,omitempty"`
	Netdev      *Netdev `json:"netdev,omitempty"`
	RDMA        []RDMA  `json:"rdma,omitempty"`
	Representor *Netdev `json:"representor,omitempty"`
}

// Netdev is one network device.
type Netdev struct {
	Name          string `json:"name"`
	MAC           string `json:"mac,omitempty"`
	MTU           int    `json:"mtu,omitempty"`
	BitsPerSecond uint64 `json:"speedBitsPerSecond,omitempty"`
	Link          string `json:"link,omitempty"`
	SwitchID      string `json:"switchID,omitempty"`
	PortName      string `json:"portName,omitempty"`
}

// RDMA is one RDMA device.
type RDMA struct {
	Name     string     `json:"name"`
	Software bool       `json:"software,omitempty"` // the kernel emulates it
	GUID     string     `json:"guid,omitempty"`
	Firmware string     `json:"firmware,omitempty"`
	Ports    []RDMAPort `json:"ports,omitempty"`
}

// RDMAPort is one port of an RDMA device.
type RDMAPort struct {
	Number int    `json:"number"`
	Layer  string `json:"layer,omitempty"`
	State  string `json:"state,omitempty"`
	Rate   string `json:"rate,omitempty"`
}

// Finding is something about a blade that is not as it should be.
type Finding struct {
	Code   string `json:"code"`
	Object string `json:"object"`
	Text   string `json:"text"`
}
