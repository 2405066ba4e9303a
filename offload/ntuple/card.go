package ntuple

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/ntuple/internal/ethtool"
)

// The commands of ethtool for receive-flow rules.
const (
	cmdCount  = 0x2e
	cmdRule   = 0x2f
	cmdAll    = 0x30
	cmdDelete = 0x31
	cmdInsert = 0x32
)

// special in the answer to cmdCount says that the driver chooses locations.
const special = 0x80000000

// Card is a NIC's table of receive-flow rules.
type Card struct {
	call func(buf []byte) error
}

// Open returns the card whose netdev has this name, in the network namespace of the
// thread that calls its methods. It makes no call yet.
func Open(name string) *Card {
	return &Card{func(buf []byte) error { return ethtool.Call(name, buf) }}
}

// Size returns how many rules the card holds now, how many it can hold (0 if the driver
// does not say), and whether the driver chooses locations.
func (c *Card) Size() (rules, most int, chooses bool, err error) {
	b := request(cmdCount)
	if err := c.call(b); err != nil {
		return 0, 0, false, fmt.Errorf("count receive-flow rules: %w", err)
	}
	data := native.Uint64(b[offData:])
	return int(native.Uint32(b[offCount:])), int(data &^ special), data&special != 0, nil
}

// Rules returns all rules, in the order of their locations as the driver tells them. A
// rule that cannot be said as a match is an error: half a list must not look whole.
func (c *Card) Rules() ([]Rule, error) {
	const tries = 8
	for range tries {
		where, err := c.locations()
		if err != nil {
			return nil, err
		}
		out, err := c.read(where)
		if !errors.Is(err, unix.ENOENT) { // else one went since the locations were told
			return out, err
		}
	}
	return nil, errors.New("receive-flow rules: they change faster than they are read")
}

func (c *Card) read(where []uint32) ([]Rule, error) {
	var out []Rule
	for _, at := range where {
		b := request(cmdRule)
		native.PutUint32(b[offWhere:], at)
		if err := c.call(b); err != nil {
			return nil, fmt.Errorf("read receive-flow rule %d: %w", at, err)
		}
		r, err := Parse(b)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// locations asks for as many as there are; one that came since makes it ask again.
func (c *Card) locations() ([]uint32, error) {
	for {
		n, _, _, err := c.Size()
		if err != nil {
			return nil, err
		}
		b := append(request(cmdAll), make([]byte, 4*n)...)
		native.PutUint32(b[offCount:], uint32(n))
		err = c.call(b)
		if errors.Is(err, unix.EMSGSIZE) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list receive-flow rules: %w", err)
		}
		var out []uint32
		for i := range min(n, int(native.Uint32(b[offCount:]))) {
			out = append(out, native.Uint32(b[offCount+4+4*i:]))
		}
		return out, nil
	}
}

// Insert puts a rule in and returns where it is. A rule that was at its location is
// replaced by most drivers. What the card refuses is a [Refusal].
func (c *Card) Insert(r Rule) (location uint32, err error) {
	b, err := r.Append(nil, cmdInsert)
	if err != nil {
		return 0, &Refusal{Code: "E_FIELD_UNSUPPORTED", Text: err.Error()}
	}
	if err := c.call(b); err != nil {
		return 0, refusal(err)
	}
	return native.Uint32(b[offWhere:]), nil
}

// Delete takes the rule at a location out.
func (c *Card) Delete(location uint32) error {
	b := request(cmdDelete)
	native.PutUint32(b[offWhere:], location)
	if err := c.call(b); err != nil {
		if errors.Is(err, unix.EINVAL) { // several drivers' word for "there is none"
			err = errors.Join(unix.ENOENT, err)
		}
		return refusal(err)
	}
	return nil
}

func request(command uint32) []byte {
	b := make([]byte, size)
	native.PutUint32(b, command)
	return b
}

// Refusal is why a card did not take a rule. Ethtool calls carry no words of the driver:
// those are in the kernel's log, so Text is only the error's.
type Refusal struct {
	Code string // as the codes of package offload
	Text string
	Err  error
}

// Error returns the text and the code.
func (r *Refusal) Error() string { return "receive-flow rule: " + r.Text + " (" + r.Code + ")" }

// Unwrap returns the kernel's error.
func (r *Refusal) Unwrap() error { return r.Err }

func refusal(err error) *Refusal {
	r := &Refusal{Code: offload.CodeDevice, Text: err.Error(), Err: err}
	for errno, code := range map[unix.Errno]string{unix.ENOSPC: offload.CodeFull, unix.ENOMEM: offload.CodeFull, unix.EEXIST: offload.CodeExists,
		unix.ENOENT: offload.CodeMissing, unix.EOPNOTSUPP: "E_FIELD_UNSUPPORTED"} {
		if errors.Is(err, errno) {
			r.Code = code
		}
	}
	return r
}
